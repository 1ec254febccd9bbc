"""Reads the top level of a matrix: its sections, settings, seeds, skips and plugins, in one pass."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from .. import registry
from ..data.augment import Augmentation
from ..options.options import Trail
from ..options.words import shown
from ..store.user_paths import user_path
from .checker import Checker
from .guidance import check_autoguidance
from .keys import KEYS
from .matrix import PATTERNS, SECTIONS, Matrix, Seed, Skip
from .parts import (
    EXAMPLES,
    Entry,
    check_starts,
    expand_rows,
    label_problem,
    read_evaluators,
    read_part,
    read_parts,
    read_section,
)
from .settings import Budget, CriticOptimizer, Probes, Settings
from .yaml_text import Problem

MAX_CELLS = 100_000
STEPS = ("tokenizer", "generator", "sampling")  # each may have seeds of its own


def read_matrix(checker: Checker, file: Path, more_plugins: Iterable[str | Path]) -> Matrix:
    """The matrix of a checker's document.

    Raises:
        MatrixError: with the problems of all sections.
    """
    data = checker.data
    _check_keys(checker)
    plugins, warnings = _plugins(checker, file.parent, more_plugins)
    features = read_parts(checker, "features")
    entries = {kind: read_section(checker, kind) for kind in SECTIONS}
    seeds, skips = _seeds(checker), _skips(checker)
    settings = {f.name: data[f.name] for f in fields(Settings) if data.get(f.name) is not None}
    values: dict[str, Any] = {
        "name": _name(checker, file),
        "datasets": read_parts(checker, "dataset"),
        "seeds": (),
        "budget": _mapping_as(checker, Budget, "budget", "a mapping"),
        "features": features,
        "teacher": read_part(checker, data.get("teacher"), "features", ("teacher",))
        or next(iter(features), None),
        "reference": read_part(checker, data.get("reference") or "teacher", "references", ("reference",)),
        "reconstruction": _reconstruction(checker),
        "evaluators": read_evaluators(checker),
        "skip": tuple(skips.values()),
        "probes": _probes(checker),
        "augment": None,
        **checker.checked_options(Settings, settings, ()),
    }
    if data.get("augment") is not None:
        what = "a mapping such as `{crop: 0.08}`, or {} for SimCLR's"
        values["augment"] = _mapping_as(checker, Augmentation, "augment", what)
    if _small_enough(checker, entries, seeds):
        values["seeds"] = tuple(_expanded(seeds))
        values |= {kind: expand_rows(checker, entries[kind]) for kind in SECTIONS}
        check_starts(checker, entries["tokenizers"], values["tokenizers"])
        places = ((entry.row, entry.trail) for entry in entries["generators"])
        check_autoguidance(checker, places, values["generators"])
    checker.raise_problems(warnings)
    losses = (file.name, 0, 0)
    if data.get("reconstruction") is not None:
        losses = checker.position(("reconstruction",))
    matrix = Matrix(file=file, plugins=plugins, warnings=(), losses=losses, **values)
    warnings += [*_unmatched_skips(checker, skips, matrix), *_late_discriminator(checker, matrix)]
    return replace(matrix, warnings=tuple(warnings))


def _check_keys(checker: Checker) -> None:
    """Reports unknown top-level keys, and missing ones that no unknown key resembles."""
    meant = []
    for key in checker.data:
        if key not in KEYS:
            checker.report((key,), registry.unknown("key", key, list(KEYS)), on_key=True)
            meant += get_close_matches(key, KEYS, n=1, cutoff=0.6)
    for key, example in EXAMPLES.items():
        if key != "reference" and checker.data.get(key) is None and key not in meant:
            trail = (key,) if key in checker.data else ()
            checker.report(trail, f"{key!r} is missing; write e.g. `{example}`")


def _name(checker: Checker, file: Path) -> str:
    name = checker.data.get("name")
    if name is None:
        return file.stem
    problem = label_problem(name)
    if problem:
        checker.report(("name",), f"the name {shown(name)} {problem}")
    return str(name)


def _plugins(
    checker: Checker, folder: Path, more: Iterable[str | Path]
) -> tuple[tuple[Path, ...], list[Problem]]:
    """Loads plugin files; a file that cannot be imported hides only its own parts, and is a warning."""
    names = checker.data.get("plugins") or []
    if not isinstance(names, list):
        checker.report(("plugins",), f"plugins must be a list of paths, not {shown(names)}")
        names = []
    files: list[tuple[Any, Problem]] = []
    for i, name in enumerate(names):
        path = user_path(name) if isinstance(name, str) else name
        files.append((path, checker.document.problem(("plugins", i), "")))
    files += [(user_path(path), Problem(f"--plugin {path}", 0, 0, "")) for path in more]
    loaded: dict[Path, None] = {}
    warnings = []
    for path, place in files:
        if not isinstance(path, Path):
            checker.problems.append(replace(place, message=f"a plugin is a path, not {shown(path)}"))
            continue
        try:
            sources = registry.load_plugin(path)
        except (registry.PartError, OSError, ValueError) as error:
            checker.problems.append(replace(place, message=f"{error}{_elsewhere(path, folder)}"))
            continue
        loaded[path.resolve()] = None
        causes = dict.fromkeys(source.problem for source in sources if source.problem)
        warnings += [replace(place, message=f"the plugin cannot be used: {cause}") for cause in causes]
    return tuple(loaded), warnings


def _elsewhere(plugin: Path, folder: Path) -> str:
    """A hint at a plugin that lies beside the matrix and not where the command runs; often empty."""
    beside = Path(os.path.relpath(folder / plugin))
    if "\0" in str(plugin) or os.path.lexists(plugin) or not beside.exists():
        return ""
    return f" here: a path begins where the command runs; write {str(beside)!r} for that beside the matrix"


def _mapping_as(checker: Checker, target: type, key: str, what: str) -> Any:
    """A top-level mapping as the arguments of a dataclass."""
    options = checker.mapping((key,), checker.data, what)
    return target(**checker.checked_options(target, options, (key,)))


def _probes(checker: Checker) -> Probes | None:
    if checker.data.get("probes") is None:
        return None
    before = len(checker.problems)
    probes: Probes = _mapping_as(checker, Probes, "probes", "a mapping such as `{every: 100}`")
    if not (probes.every or probes.generator) and len(checker.problems) == before:
        checker.report(("probes",), "probes are empty; write e.g. `{every: 100}`")
    return probes


def _reconstruction(checker: Checker) -> dict[str, Any]:
    """The weights of l1 and l2, and all options of the other losses, where a number is the weight."""
    from ..training.losses import LOSSES, RECONSTRUCTION

    trail: Trail = ("reconstruction",)
    if checker.data.get("reconstruction") is None:
        return {"l1": 1.0}
    losses = checker.mapping(trail, checker.data, "a mapping from losses to weights such as `{l1: 1.0}`")
    if checker.data["reconstruction"] == {}:
        checker.report(trail, "reconstruction is empty; write e.g. `reconstruction: {l1: 1.0}`")
    checked: dict[str, Any] = {}
    for name, value in losses.items():
        at = (*trail, name)
        if name not in RECONSTRUCTION and name not in LOSSES:
            message = registry.unknown("reconstruction loss", name, [*RECONSTRUCTION, *LOSSES])
            checker.report(at, message, on_key=True)
        elif name in LOSSES and isinstance(value, dict):
            checked[name] = _loss(checker, LOSSES[name], value, at)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            checker.report(at, f"the weight of {name} must be a number > 0, not {shown(value)}")
        elif name in LOSSES:
            checked[name] = _loss(checker, LOSSES[name], {"weight": value}, at)
        else:
            checked[name] = float(value)
    if not RECONSTRUCTION.keys() & losses.keys() and "lpips" not in losses and "gan" in losses:
        checker.report(trail, "gan needs a loss beside it; write e.g. `{l1: 1.0, gan: 0.5}`")
    return checked


def _loss(checker: Checker, target: Any, options: Mapping[str, Any], trail: Trail) -> dict[str, Any]:
    """All options of a loss with a network, and the written settings of the optimizer of one that learns."""
    also = ("optimizer",) if target.has_optimizer else ()
    own = {key: value for key, value in options.items() if key not in also}
    clean = checker.checked_options(target, own, trail, also=also)
    for key in also:
        settings = checker.mapping((*trail, key), options, "a mapping such as `{lr: 1.0e-4}`")
        clean[key] = checker.explicit_options(CriticOptimizer, settings, (*trail, key))
    discriminator = clean.get("discriminator")
    if discriminator in ("dino", "dinov2") and clean.get("dino") is None:
        message = f"the discriminator {discriminator} needs its weights: `dino: PATH` or `dino: random`"
        checker.report((*trail, "discriminator"), message)
    return clean


def _late_discriminator(checker: Checker, matrix: Matrix) -> Iterable[Problem]:
    """Warns of a discriminator that starts after the last update."""
    gan, budget = matrix.reconstruction.get("gan"), matrix.budget
    steps = budget.tokenizer_steps + budget.refine_steps
    if gan and budget.tokenizer_steps and gan["start"] >= steps:
        message = f"gan starts at update {gan['start']:,}, and a tokenizer has {steps:,}: it will do nothing"
        yield checker.document.problem(("reconstruction", "gan"), message)


def _seeds(checker: Checker) -> tuple[Sequence[int], ...]:
    """One sequence of seeds for all steps, or one for each of STEPS, not multiplied yet."""
    seeds = checker.data.get("seeds")
    if seeds is None:
        return ([0],)
    if not isinstance(seeds, dict):
        return (_numbers(checker, seeds, ("seeds",)),)
    for key in seeds:
        if key not in STEPS:
            message = registry.unknown("key of seeds", key, list(STEPS))
            checker.report(("seeds", key), message, on_key=True)
    return tuple(_numbers(checker, seeds.get(step, 1), ("seeds", step)) for step in STEPS)


def _numbers(checker: Checker, value: Any, trail: Trail) -> Sequence[int]:
    """Seeds from their number or from a list of them."""
    if type(value) is int and 1 <= value <= MAX_CELLS:
        return range(value)
    integers = isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value)
    if integers and value and len(set(value)) == len(value):
        return value
    what = f"a number of seeds from 1 to {MAX_CELLS:,} or a list of different integers >= 0"
    checker.report(trail, f"{trail[-1]} must be {what}, not {shown(value)}")
    return ()


def _expanded(seeds: tuple[Sequence[int], ...]) -> Iterable[Seed]:
    if len(seeds) == 1:
        return (Seed(seed, seed, seed, str(seed)) for seed in seeds[0])
    return (Seed(t, g, s, f"{t}.{g}.{s}") for t, g, s in product(*seeds))


def _small_enough(
    checker: Checker, entries: Mapping[str, list[Entry]], seeds: tuple[Sequence[int], ...]
) -> bool:
    """Whether the matrix has at most MAX_CELLS cells, so that it can be multiplied out."""
    counts = {kind: sum(entry.variants.count for entry in entries[kind]) for kind in SECTIONS}
    counts["seeds"] = math.prod(map(len, seeds))
    datasets = checker.data.get("dataset")
    counts["datasets"] = len(datasets) if isinstance(datasets, list) else 1
    # A section with errors may count no rows; the others' size matters all the same.
    cells = math.prod(max(1, count) for count in counts.values())
    if cells > MAX_CELLS:
        largest = max(counts, key=lambda kind: counts[kind])
        sizes = " x ".join(f"{count:,} {kind}" for kind, count in counts.items())
        checker.report((largest,), f"too many cells: {sizes}; at most {MAX_CELLS:,}", on_key=True)
    return cells <= MAX_CELLS


def _skips(checker: Checker) -> dict[int, Skip]:
    """The correct skips by their index."""
    items = checker.data.get("skip") or []
    if not isinstance(items, list):
        checker.report(("skip",), f"skip must be a list of `{{generator: …, why: …}}`, not {shown(items)}")
        items = []
    skips = {}
    for i, item in enumerate(items):
        trail, before = ("skip", i), len(checker.problems)
        if not isinstance(item, dict):
            checker.report(trail, f"a skip is a mapping `{{generator: …, why: …}}`, not {shown(item)}")
            continue
        clean = checker.checked_options(Skip, item, trail)
        if not any(name in item for name in PATTERNS) and len(checker.problems) == before:
            checker.report(trail, f"a skip needs a pattern for one of {', '.join(PATTERNS)}")
        if len(checker.problems) == before:
            skips[i] = Skip(**clean)
    return skips


def _unmatched_skips(checker: Checker, skips: Mapping[int, Skip], matrix: Matrix) -> Iterable[Problem]:
    """Warns of patterns that match no row."""
    sections = (matrix.datasets, matrix.tokenizers, matrix.regularizers, matrix.generators)
    for i, skip in skips.items():
        for name, rows in zip(PATTERNS, sections, strict=True):
            pattern = getattr(skip, name)
            if not any(row.fits(pattern) for row in rows):
                message = f"this skip matches nothing: no {name} is called {pattern!r}"
                yield checker.document.problem(("skip", i, name), message)
