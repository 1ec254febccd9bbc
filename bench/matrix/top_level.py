"""The top level of a matrix: its sections, settings, seeds, skips and plugins, read in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from .. import registry
from ..data.augment import Augmentation
from ..options.options import Trail, shown
from .checker import KEYS, Checker
from .matrix import PATTERNS, SECTIONS, Matrix, Seed, Skip
from .parts import EXAMPLES, Entry, evaluators, label_problem, rows, section, several, single, starts
from .settings import Budget, Critic, Probes, Settings
from .yaml_text import Problem

MAX_CELLS = 100_000


def read_matrix(reader: Checker, file: Path, more_plugins: tuple[str | Path, ...]) -> Matrix:
    """All sections, then the error with all problems if there are any."""
    _top_level(reader)
    plugins, warnings = _plugins(reader, file.parent, more_plugins)
    features = several(reader, "features")
    first = features[0] if features else None
    entries = {kind: section(reader, kind) for kind in SECTIONS}
    settings = {f.name: reader.data[f.name] for f in fields(Settings) if reader.data.get(f.name) is not None}
    read: dict[str, Any] = {
        "name": _name(reader, file),
        "datasets": several(reader, "dataset"),
        "budget": Budget(**reader.options(Budget, reader.mapping(("budget",), "a mapping"), ("budget",))),
        "features": features,
        "teacher": single(reader, reader.data.get("teacher"), "features", ("teacher",)) or first,
        "reference": single(reader, reader.data.get("reference") or "teacher", "references", ("reference",)),
        "reconstruction": _reconstruction(reader),
        "evaluators": evaluators(reader),
        "probes": _probes(reader),
        "augment": _augmentation(reader),
        **reader.options(Settings, settings, ()),
    }
    seeds = _seeds(reader)
    skips = _skips(reader)
    read |= {"seeds": (), "skip": tuple(skips.values())}
    if _small_enough(reader, entries, seeds):
        read["seeds"] = tuple(_expanded(seeds))
        read |= {kind: rows(reader, entries[kind]) for kind in SECTIONS}
        starts(reader, entries["tokenizers"], read["tokenizers"])
    reader.finish(warnings)
    given = reader.data.get("reconstruction") is not None
    losses = reader.place(("reconstruction",)) if given else (file.name, 0, 0)
    matrix = Matrix(file=file, plugins=plugins, warnings=warnings, losses=losses, **read)
    late = _late(reader, matrix)
    return replace(matrix, warnings=(*warnings, *_unmatched(reader, skips, matrix), *late))


def _top_level(reader: Checker) -> None:
    meant = []
    for key in reader.data:
        if key not in KEYS:
            reader.fault((key,), registry.unknown("key", key, list(KEYS)), on_key=True)
            meant += get_close_matches(key, KEYS, n=1, cutoff=0.6)
    for key, example in EXAMPLES.items():
        if key != "reference" and reader.data.get(key) is None and key not in meant:
            reader.fault((key,) if key in reader.data else (), f"{key!r} is missing; write e.g. `{example}`")


def _name(reader: Checker, file: Path) -> str:
    name = reader.data.get("name")
    if name is None:
        return file.stem
    problem = label_problem(name) if isinstance(name, str) else "must be text"
    if problem:
        reader.fault(("name",), f"the name {shown(name)} {problem}")
    return str(name)


def _plugins(
    reader: Checker, folder: Path, more: tuple[str | Path, ...]
) -> tuple[tuple[Path, ...], tuple[Problem, ...]]:
    """Loads plugin files; one that cannot be imported hides only its own parts, and is a warning."""
    given = reader.data.get("plugins") or []
    if not isinstance(given, list):
        reader.fault(("plugins",), f"plugins must be a list of paths, not {shown(given)}")
        given = []
    paths: list[tuple[Any, Problem]] = []
    for i, path in enumerate(given):
        place = reader.document.problem(("plugins", i), "")
        paths.append((folder / path if isinstance(path, str) else path, place))
    paths += [(Path(path), Problem(f"--plugin {path}", 0, 0, "")) for path in more]
    loaded: dict[Path, None] = {}
    warnings = []
    for path, place in paths:
        at = (place.file, place.line, place.column)
        if not isinstance(path, Path):
            reader.problems.append(Problem(*at, f"a plugin is a path, not {shown(path)}"))
            continue
        try:
            sources = registry.load_plugin(path)
        except (registry.PartError, OSError, ValueError) as error:
            reader.problems.append(Problem(*at, str(error)))
            continue
        loaded[path.resolve()] = None
        causes = dict.fromkeys(source.problem for source in sources if source.problem)
        warnings += [Problem(*at, f"the plugin cannot be used: {cause}") for cause in causes]
    return tuple(loaded), tuple(warnings)


def _probes(reader: Checker) -> Probes | None:
    if reader.data.get("probes") is None:
        return None
    before = len(reader.problems)
    clean = reader.options(
        Probes, reader.mapping(("probes",), "a mapping such as `{every: 100}`"), ("probes",)
    )
    if not (clean.get("every") or clean.get("generator")) and len(reader.problems) == before:
        reader.fault(("probes",), "probes are empty; write e.g. `{every: 100}`")
    return Probes(**clean)


def _augmentation(reader: Checker) -> Augmentation | None:
    if reader.data.get("augment") is None:
        return None
    given = reader.mapping(("augment",), "a mapping such as `{crop: 0.08}`, or {} for SimCLR's")
    return Augmentation(**reader.options(Augmentation, given, ("augment",)))


def _reconstruction(reader: Checker) -> dict[str, Any]:
    """The weights of plain losses, and all options of the others; of those a number is the weight."""
    from ..training.losses import LOSSES, RECONSTRUCTION

    if reader.data.get("reconstruction") is None:
        return {"l1": 1.0}
    given = reader.mapping(("reconstruction",), "a mapping from losses to weights such as `{l1: 1.0}`")
    if reader.data["reconstruction"] == {}:
        reader.fault(("reconstruction",), "reconstruction is empty; write e.g. `reconstruction: {l1: 1.0}`")
    found: dict[str, Any] = {}
    for name, chosen in given.items():
        trail = ("reconstruction", name)
        if name not in RECONSTRUCTION and name not in LOSSES:
            message = registry.unknown("reconstruction loss", name, [*RECONSTRUCTION, *LOSSES])
            reader.fault(trail, message, on_key=True)
        elif name in LOSSES and isinstance(chosen, dict):
            found[name] = _loss(reader, LOSSES[name], chosen, trail)
        elif isinstance(chosen, bool) or not isinstance(chosen, int | float) or not 0 < chosen < math.inf:
            reader.fault(trail, f"the weight of {name} must be a number > 0, not {shown(chosen)}")
        elif name in LOSSES:
            found[name] = _loss(reader, LOSSES[name], {"weight": chosen}, trail)
        else:
            found[name] = float(chosen)
    if not RECONSTRUCTION.keys() & given.keys() and "lpips" not in given and "gan" in given:
        reader.fault(("reconstruction",), "gan needs a loss beside it; write e.g. `{l1: 1.0, gan: 0.5}`")
    return found


def _loss(reader: Checker, target: type, given: Mapping[str, Any], trail: Trail) -> dict[str, Any]:
    """The options of a loss with a network; one that learns has optimizer settings, as they are given."""
    more = ("optimizer",) if target.__name__ == "Adversarial" else ()
    own = {key: value for key, value in given.items() if key not in more}
    clean = reader.options(target, own, trail, also=more)
    for key in more:
        its, at = given.get(key) or {}, (*trail, key)
        checked = reader.is_mapping(at, its, "a mapping such as `{lr: 1.0e-4}`")
        clean[key] = reader.given(Critic, its, at) if checked else {}
    if clean.get("discriminator") in ("dino", "dinov2") and clean.get("dino") is None:
        message = (
            f"the discriminator {clean['discriminator']} needs its weights: `dino: PATH` or `dino: random`"
        )
        reader.fault((*trail, "discriminator"), message)
    return clean


def _late(reader: Checker, matrix: Matrix) -> Iterable[Problem]:
    """A discriminator that comes when training is over is likely not what was meant."""
    gan, budget = matrix.reconstruction.get("gan"), matrix.budget
    steps = budget.tokenizer_steps + budget.refine_steps
    if gan and budget.tokenizer_steps and gan["start"] >= steps:
        message = f"gan starts at update {gan['start']:,}, and a tokenizer has {steps:,}: it will do nothing"
        yield reader.document.problem(("reconstruction", "gan"), message)


def _seeds(reader: Checker) -> tuple[Sequence[int], ...]:
    """The seeds of (all) or of (tokenizer, generator, sampling), not multiplied yet."""
    given = reader.data.get("seeds")
    if given is None:
        return ([0],)
    if not isinstance(given, dict):
        return (_numbers(reader, given, ("seeds",)),)
    names = ("tokenizer", "generator", "sampling")
    for key in given:
        if key not in names:
            reader.fault(("seeds", key), registry.unknown("key of seeds", key, list(names)), on_key=True)
    return tuple(_numbers(reader, given.get(name, 1), ("seeds", name)) for name in names)


def _numbers(reader: Checker, given: Any, trail: Trail) -> Sequence[int]:
    if type(given) is int and 1 <= given <= MAX_CELLS:
        return range(given)
    whole = isinstance(given, list) and all(type(seed) is int and seed >= 0 for seed in given)
    if whole and given and len(set(given)) == len(given):
        return given
    what = f"a number of seeds from 1 to {MAX_CELLS:,} or a list of different integers >= 0"
    reader.fault(trail, f"{trail[-1]} must be {what}, not {shown(given)}")
    return ()


def _expanded(seeds: tuple[Sequence[int], ...]) -> Iterable[Seed]:
    if len(seeds) == 1:
        return (Seed(seed, seed, seed, str(seed)) for seed in seeds[0])
    return (Seed(t, g, s, f"{t}.{g}.{s}") for t, g, s in product(*seeds))


def _small_enough(
    reader: Checker, entries: Mapping[str, list[Entry]], seeds: tuple[Sequence[int], ...]
) -> bool:
    """Whether the matrix is small enough to be multiplied out."""
    counts = {kind: sum(entry.variants.count for entry in entries[kind]) for kind in SECTIONS}
    counts["seeds"] = math.prod(map(len, seeds))
    given = reader.data.get("dataset")
    counts["datasets"] = len(given) if isinstance(given, list) else 1
    # A section with errors may count no rows; the others' size matters all the same.
    cells = math.prod(max(1, count) for count in counts.values())
    if cells > MAX_CELLS:
        largest = max(counts, key=lambda kind: counts[kind])
        product_text = " x ".join(f"{count:,} {kind}" for kind, count in counts.items())
        reader.fault((largest,), f"too many cells: {product_text}; at most {MAX_CELLS:,}", on_key=True)
    return cells <= MAX_CELLS


def _skips(reader: Checker) -> dict[int, Skip]:
    given = reader.data.get("skip") or []
    if not isinstance(given, list):
        reader.fault(("skip",), f"skip must be a list of `{{generator: …, why: …}}`, not {shown(given)}")
        given = []
    found = {}
    for i, item in enumerate(given):
        trail = ("skip", i)
        if not isinstance(item, dict):
            reader.fault(trail, f"a skip is a mapping `{{generator: …, why: …}}`, not {shown(item)}")
            continue
        before = len(reader.problems)
        clean = reader.options(Skip, item, trail)
        if not any(name in item for name in PATTERNS) and len(reader.problems) == before:
            reader.fault(trail, f"a skip needs a pattern for one of {', '.join(PATTERNS)}")
        if len(reader.problems) == before:
            found[i] = Skip(**clean)
    return found


def _unmatched(reader: Checker, skips: Mapping[int, Skip], matrix: Matrix) -> Iterable[Problem]:
    sections = (matrix.datasets, matrix.tokenizers, matrix.regularizers, matrix.generators)
    for i, skip in skips.items():
        for name, mine in zip(PATTERNS, sections, strict=True):
            pattern = getattr(skip, name)
            if not any(row.fits(pattern) for row in mine):
                message = f"this skip matches nothing: no {name} is called {pattern!r}"
                yield reader.document.problem(("skip", i, name), message)
