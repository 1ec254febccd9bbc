"""The matrix: a YAML file becomes rows of checked options, or a list of everything that is wrong with it."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from . import registry
from .schema import Budget, Critic, Group, Optimizer, Settings, Variants, axes, check, options_of, shown
from .source import Document, MatrixError, Problem, Trail, find, parse, read

__all__ = ["Budget", "Matrix", "MatrixError", "Problem", "Row", "Seed", "Skip"]
__all__ += ["build_problem", "find", "load", "resolved"]

MAX_CELLS = 100_000
MAX_BYTES = 1 << 20
SECTIONS = ("tokenizers", "regularizers", "generators")
EXAMPLES = {
    "dataset": "dataset: {use: digits}",
    "features": "features: effnet_lite0",
    "tokenizers": "tokenizers: {vit: {}}",
    "regularizers": "regularizers: {none: {}, kl: {weight: 1.0e-4}}",
    "generators": "generators: {lightningdit: {}}",
    "evaluators": "evaluators: [reconstruction, generation]",
}
KEYS = (
    *("name", "dataset", "seeds", "budget", "features", "teacher", "reference", "reconstruction", "samples"),
    *(*SECTIONS, "evaluators", "skip", "profiles", "plugins", "normalise", "threads", "precision"),
)
FRAME = {  # what any part of a section takes beside its own options
    "tokenizers": ("use", "optimizer"),
    "regularizers": ("use", "optimizer"),
    "generators": ("use", "optimizer", "guidance", "sampler"),
}

MODULES = ("encoder", "decoder", "regularizer", "critics")
GROUPS: dict[str, tuple[str, ...]] = {"tokenizers": MODULES, "regularizers": MODULES, "generators": ()}
PATTERNS = ("dataset", "tokenizer", "regularizer", "generator")
Place = tuple[str, int, int]  # file, line, column


@dataclass(frozen=True)
class Row:
    """A part with every option that its constructor takes, defaults included."""

    label: str
    part: str
    options: Mapping[str, Any]
    optimizer: Mapping[str, Any] = field(default_factory=dict)  # as given; the loops have the defaults
    guidance: tuple[float, ...] = (1.0,)
    sampler: Mapping[str, Any] = field(default_factory=dict)
    where: Place = field(default=("", 0, 0), compare=False)


@dataclass(frozen=True)
class Seed:
    """One seed for each step; a sampling seed's cells share its generator's, and so on."""

    tokenizer: int
    generator: int
    sampling: int
    label: str


@dataclass(frozen=True)
class Skip:
    """Cells that are not run, by patterns on the labels or the parts of their rows."""

    why: str
    dataset: str = "*"
    tokenizer: str = "*"
    regularizer: str = "*"
    generator: str = "*"

    def matches(self, dataset: Row, tokenizer: Row, regularizer: Row, generator: Row) -> bool:
        rows = zip(PATTERNS, (dataset, tokenizer, regularizer, generator), strict=True)
        return all(_fits(getattr(self, name), row) for name, row in rows)


@dataclass(frozen=True)
class Matrix:
    """Everything that a run depends on."""

    name: str
    file: Path
    dataset: Row
    seeds: tuple[Seed, ...]
    budget: Budget
    features: Row
    teacher: Row
    reference: Mapping[str, Any]
    reconstruction: Mapping[str, float]
    samples: int
    tokenizers: tuple[Row, ...]
    regularizers: tuple[Row, ...]
    generators: tuple[Row, ...]
    evaluators: tuple[Row, ...]
    skip: tuple[Skip, ...]
    normalise: str
    threads: int
    precision: str
    plugins: tuple[Path, ...]
    warnings: tuple[Problem, ...] = field(compare=False)


def load(
    path: str | Path,
    *,
    profile: str | None = None,
    seeds: int | Sequence[int] | None = None,
    plugins: Iterable[str | Path] = (),
) -> Matrix:
    """Reads and checks a matrix.

    Args:
        path: a file.
        profile: the name of one of its profiles, to be laid over it.
        seeds: in place of the matrix's.
        plugins: files, in addition to the matrix's.

    Raises:
        MatrixError: with everything that is wrong, each with its line and column.
    """
    file = find(path)
    document = parse(read(file, str(path)), str(path))
    reader = _Reader(document)
    reader.profiles(profile)
    if seeds is not None:
        reader.data["seeds"] = seeds if isinstance(seeds, int) else list(seeds)
        reader.elsewhere["seeds"] = "--seeds"
    return reader.matrix(file, tuple(plugins))


def build_problem(row: Row, message: str) -> Problem:
    """What a part's constructor says against its options, at the row."""
    return Problem(*row.where, message)


def resolved(matrix: Matrix) -> dict[str, Any]:
    """The matrix as plain data with every default filled in; a matrix itself, with one row a label."""
    split = any(seed.tokenizer != seed.generator or seed.tokenizer != seed.sampling for seed in matrix.seeds)
    steps = ("tokenizer", "generator", "sampling")
    nested = {step: list(dict.fromkeys(getattr(seed, step) for seed in matrix.seeds)) for step in steps}
    folder = matrix.file.parent
    return {
        "name": matrix.name,
        "dataset": _plain_row(matrix.dataset),
        "seeds": nested if split else [seed.tokenizer for seed in matrix.seeds],
        "budget": asdict(matrix.budget),
        "features": _plain_row(matrix.features),
        "teacher": _plain_row(matrix.teacher),
        "reference": dict(matrix.reference),
        "reconstruction": dict(matrix.reconstruction),
        "samples": matrix.samples,
        **{kind: {row.label: _plain_row(row) for row in getattr(matrix, kind)} for kind in SECTIONS},
        "evaluators": [{row.label: _plain_row(row)} for row in matrix.evaluators],
        "skip": [asdict(skip) for skip in matrix.skip],
        "plugins": [Path(os.path.relpath(plugin, folder)).as_posix() for plugin in matrix.plugins],
        "normalise": matrix.normalise,
        "threads": matrix.threads,
        "precision": matrix.precision,
    }


@dataclass(frozen=True)
class _Entry:
    """An entry of a section before its axes are multiplied out."""

    row: Row
    variants: Variants
    trail: Trail


class _Reader:
    """One pass over a document that collects what is wrong with it."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.data: dict[str, Any] = dict(document.data)
        self.problems: list[Problem] = []
        self.elsewhere: dict[str, str] = {}  # top-level key -> what gives it in place of the document

    def fault(self, trail: Trail, message: str, on_key: bool = False) -> None:
        other = self.elsewhere.get(str(trail[0])) if trail else None
        problem = Problem(other, 0, 0, message) if other else self.document.problem(trail, message, on_key)
        self.problems.append(problem)

    def profiles(self, chosen: str | None) -> None:
        """Checks every profile's keys, and lays the chosen one over the document."""
        found = self.mapping(("profiles",), "a mapping from names to keys of a matrix")
        self.data.pop("profiles", None)
        for name, profile in found.items():
            trail = ("profiles", name)
            if not self.is_mapping(trail, profile, "a mapping of keys of a matrix"):
                continue
            allowed = [key for key in KEYS if key not in ("name", "profiles")]
            for key in profile:
                if key not in allowed:
                    self.fault((*trail, key), registry.unknown("key of a profile", key, allowed), on_key=True)
            budget = profile.get("budget")
            if isinstance(budget, dict) and name != chosen:
                self.options(Budget, budget, (*trail, "budget"))
        if chosen is None:
            return
        if not isinstance(found.get(chosen), dict):
            if chosen not in found:
                message = registry.unknown("profile", chosen, list(found))
                self.problems.append(Problem("--profile", 0, 0, message))
            return
        self.overlay(chosen, {key: value for key, value in found[chosen].items() if key in KEYS})

    def overlay(self, name: str, profile: dict[str, Any]) -> None:
        """Budgets are merged key by key, everything else is replaced; places move along."""
        old_budget, budget = self.data.get("budget"), profile.get("budget")
        if isinstance(old_budget, dict) and isinstance(budget, dict):
            profile = profile | {"budget": old_budget | budget}
        self.data |= profile
        old, prefix = self.document, ("profiles", name)
        keys = {trail[2:]: mark for trail, mark in old.keys.items() if trail[:2] == prefix and trail[2:]}
        values = {trail[2:]: mark for trail, mark in old.values.items() if trail[:2] == prefix and trail[2:]}
        self.document = Document(old.name, self.data, old.keys | keys, old.values | values, old.problems)

    def matrix(self, file: Path, more_plugins: tuple[str | Path, ...]) -> Matrix:
        """All sections, then the error with all problems if there are any."""
        self.top_level()
        plugins, warnings = self.plugins(file.parent, more_plugins)
        features = self.single("features", "features")
        entries = {kind: self.section(kind) for kind in SECTIONS}
        settings = {f.name: self.data[f.name] for f in fields(Settings) if self.data.get(f.name) is not None}
        read: dict[str, Any] = {
            "name": self.name(file),
            "dataset": self.single("dataset", "datasets"),
            "budget": Budget(**self.options(Budget, self.mapping(("budget",), "a mapping"), ("budget",))),
            "features": features,
            "teacher": self.single("teacher", "features") or features,
            "reference": self.reference(),
            "reconstruction": self.reconstruction(),
            "evaluators": self.evaluators(),
            **self.options(Settings, settings, ()),
        }
        seeds = self.seeds()
        skips = self.skips()
        read |= {"seeds": (), "skip": tuple(skips.values())}
        if self.fits(entries, seeds):
            read["seeds"] = tuple(self.expanded_seeds(seeds))
            read |= {kind: self.rows(entries[kind]) for kind in SECTIONS}
        self.finish(warnings)
        matrix = Matrix(file=file, plugins=plugins, warnings=warnings, **read)
        return replace(matrix, warnings=(*warnings, *self.unmatched(skips, matrix)))

    def finish(self, warnings: Iterable[Problem]) -> None:
        refused = {(problem.line, problem.column) for problem in self.document.problems}
        # What couldn't be read as meant has its message; what follows from it needs none.
        own = [problem for problem in self.problems if (problem.line, problem.column) not in refused]
        if own or self.document.problems:
            raise MatrixError([*self.document.problems, *own, *warnings])

    def top_level(self) -> None:
        meant = []
        for key in self.data:
            if key not in KEYS:
                self.fault((key,), registry.unknown("key", key, list(KEYS)), on_key=True)
                meant += get_close_matches(key, KEYS, n=1, cutoff=0.6)
        for key, example in EXAMPLES.items():
            if self.data.get(key) is None and key not in meant:
                self.fault((key,) if key in self.data else (), f"{key!r} is missing; write e.g. `{example}`")

    def name(self, file: Path) -> str:
        name = self.data.get("name")
        if name is None:
            return file.stem
        problem = _label_problem(name) if isinstance(name, str) else "must be text"
        if problem:
            self.fault(("name",), f"the name {shown(name)} {problem}")
        return str(name)

    def plugins(
        self, folder: Path, more: tuple[str | Path, ...]
    ) -> tuple[tuple[Path, ...], tuple[Problem, ...]]:
        """Loads plugin files; one that cannot be imported hides only its own parts, and is a warning."""
        given = self.data.get("plugins") or []
        if not isinstance(given, list):
            self.fault(("plugins",), f"plugins must be a list of paths, not {shown(given)}")
            given = []
        paths: list[tuple[Any, Problem]] = []
        for i, path in enumerate(given):
            place = self.document.problem(("plugins", i), "")
            paths.append((folder / path if isinstance(path, str) else path, place))
        paths += [(Path(path), Problem(f"--plugin {path}", 0, 0, "")) for path in more]
        loaded: dict[Path, None] = {}
        warnings = []
        for path, place in paths:
            at = (place.file, place.line, place.column)
            if not isinstance(path, Path):
                self.problems.append(Problem(*at, f"a plugin is a path, not {shown(path)}"))
                continue
            try:
                sources = registry.load_plugin(path)
            except (registry.PartError, OSError, ValueError) as error:
                self.problems.append(Problem(*at, str(error)))
                continue
            loaded[path.resolve()] = None
            causes = dict.fromkeys(source.problem for source in sources if source.problem)
            warnings += [Problem(*at, f"the plugin cannot be used: {cause}") for cause in causes]
        return tuple(loaded), tuple(warnings)

    def part(self, kind: str, name: Any, trail: Trail, on_key: bool = False) -> type | None:
        if not isinstance(name, str):
            self.fault(trail, f"`use` names a {registry.SINGULAR[kind]}; it must be text, not {shown(name)}")
            return None
        try:
            return registry.get(kind, name)
        except registry.PartError as error:
            self.fault(trail, str(error), on_key)
            return None

    def options(
        self, target: Any, options: Mapping[str, Any], trail: Trail, method: str = "", **more: Any
    ) -> dict[str, Any]:
        """Checked options; what is wrong is noted."""
        try:
            clean, faults = check(target, options, method=method, **more)
        except registry.PartError as error:
            self.fault(trail, str(error))
            return {}
        self.faults(faults, trail, options_of(target, method))
        return clean

    def faults(self, faults: Iterable[tuple[Trail, str]], trail: Trail, known: Collection[Any]) -> None:
        for inner, message in faults:
            self.fault((*trail, *inner), message, on_key=not inner or inner[0] not in known)

    def mapping(self, trail: Trail, what: str) -> dict[str, Any]:
        """A top-level mapping, empty if there is none."""
        value = self.data.get(str(trail[0]))
        return value if value is not None and self.is_mapping(trail, value, what) else {}

    def is_mapping(self, trail: Trail, value: Any, what: str) -> bool:
        if not isinstance(value, dict):
            self.fault(trail, f"{trail[-1]} must be {what}, not {shown(value)}")
        return isinstance(value, dict)

    def single(self, key: str, kind: str) -> Row | None:
        """The one part under a key: a name, or `{use: name, option: …}`."""
        given = self.data.get(key)
        at: Trail = (key, "use")
        if given is None:
            return None
        if isinstance(given, str):
            given, at = {"use": given}, at[:1]
        elif not self.is_mapping((key,), given, "a name or `{use: name}`"):
            return None
        elif "use" not in given:
            self.fault((key,), f"{key} needs a `use`, e.g. `{EXAMPLES.get(key, EXAMPLES['features'])}`")
            return None
        cls = self.part(kind, given["use"], at)
        return self.row(kind, cls, given["use"], given, (key,)) if cls else None

    def row(self, kind: str, cls: type, name: str, given: Mapping[str, Any], trail: Trail) -> Row:
        """A row without axes."""
        options = {key: value for key, value in given.items() if key != "use"}
        clean = self.options(cls, options, trail, where=f"bench info {kind} {name}")
        return Row(name, name, clean, where=self.place(trail))

    def place(self, trail: Trail) -> Place:
        problem = self.document.problem(trail, "", on_key=True)
        return problem.file, problem.line, problem.column

    def section(self, kind: str) -> list[_Entry]:
        found = self.mapping((kind,), f"a mapping such as `{EXAMPLES[kind]}`")
        if self.data.get(kind) == {}:
            self.fault((kind,), f"{kind} is empty; write e.g. `{EXAMPLES[kind]}`")
        entries = (self.entry(kind, label, given) for label, given in found.items())
        return [entry for entry in entries if entry is not None]

    def entry(self, kind: str, label: str, given: Any) -> _Entry | None:
        trail = (kind, label)
        problem = _label_problem(label)
        if problem:
            self.fault(trail, f"the label {shown(label)} {problem}", on_key=True)
        given = {} if given is None else given
        if not self.is_mapping(trail, given, "a mapping of options"):
            return None
        at = (*trail, "use") if "use" in given else trail
        name = given.get("use", label)
        cls = self.part(kind, name, at, on_key=at == trail)
        optimizer = self.optimizer(given.get("optimizer"), (*trail, "optimizer"), GROUPS[kind])
        extra: dict[str, Any] = {}
        if kind == "generators":
            extra["guidance"] = self.guidance(given.get("guidance"), (*trail, "guidance"))
        if cls is None:
            return None
        where = f"bench info {kind} {name}"
        if kind == "generators":
            sampler = given.get("sampler")
            sampler = {} if sampler is None else sampler
            if self.is_mapping((*trail, "sampler"), sampler, "a mapping of options"):
                extra["sampler"] = self.options(
                    cls, sampler, (*trail, "sampler"), method="sample", where=where
                )
        options = {key: value for key, value in given.items() if key not in FRAME[kind]}
        try:
            variants, faults = axes(cls, options, also=FRAME[kind], where=where)
        except registry.PartError as error:
            self.fault(trail, str(error), on_key=True)
            return None
        self.faults(faults, trail, options_of(cls))
        row = Row(label, name, {}, optimizer, where=self.place(trail), **extra)
        return _Entry(row, variants, trail)

    def optimizer(self, given: Any, trail: Trail, names: tuple[str, ...]) -> dict[str, Any]:
        """Settings as given, checked; of a row, and of its groups of parameters."""
        if given is None or not self.is_mapping(trail, given, "a mapping such as `{lr: 1.0e-3}`"):
            return {}
        groups = {name: given[name] for name in names if given.get(name) is not None}
        own = {key: value for key, value in given.items() if key not in names}
        found = self.given(Optimizer, own, trail, also=names)
        for name, settings in groups.items():
            at = (*trail, name)
            if not self.is_mapping(at, settings, "a mapping of settings"):
                continue
            if name != "critics":
                found[name] = self.given(Group, settings, at)
                continue
            found[name] = {
                critic: self.given(Critic, its, (*at, critic))
                for critic, its in settings.items()
                if self.is_mapping((*at, critic), its, "a mapping of settings")
            }
        return found

    def given(self, target: Any, options: Mapping[str, Any], trail: Trail, **more: Any) -> dict[str, Any]:
        """Checked options without the defaults of the others; null is not given."""
        options = {name: value for name, value in options.items() if value is not None}
        clean = self.options(target, options, trail, **more)
        return {name: clean[name] for name in options if name in clean}

    def guidance(self, given: Any, trail: Trail) -> tuple[float, ...]:
        if given is None:
            return (1.0,)
        values = given if isinstance(given, list) else [given]
        if not values:
            self.fault(trail, "guidance is empty; it needs at least one number")
        good: list[float] = []
        for i, value in enumerate(values):
            at = (*trail, i) if isinstance(given, list) else trail
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                self.fault(at, f"guidance must be a number >= 0, or a list of them, not {shown(value)}")
            elif any(f"{value:g}" == f"{other:g}" for other in good):
                self.fault(at, f"guidance has {value:g} twice")  # metrics are named by this text
            else:
                good.append(float(value))
        return tuple(good)

    def evaluators(self) -> tuple[Row, ...]:
        given = self.data.get("evaluators")
        if given is None:
            return ()
        if not isinstance(given, list) or not given:
            message = f"evaluators must be a list of names such as `{EXAMPLES['evaluators']}`"
            self.fault(("evaluators",), f"{message}, not {shown(given)}")
            return ()
        found: dict[str, Row] = {}
        for i, item in enumerate(given):
            trail: Trail = ("evaluators", i)
            if isinstance(item, str):
                self.evaluator(item, {}, trail, found)
                continue
            if not isinstance(item, dict):
                self.fault(trail, f"an evaluator is a name or `{{name: {{option: …}}}}`, not {shown(item)}")
                continue
            for name, options in item.items():
                self.evaluator(name, {} if options is None else options, (*trail, name), found)
        return tuple(found.values())

    def evaluator(self, label: str, given: Any, trail: Trail, found: dict[str, Row]) -> None:
        if label in found:
            self.fault(trail, f"the evaluator {label!r} is listed twice", on_key=True)
        elif self.is_mapping(trail, given, "a mapping of options"):
            at = (*trail, "use") if "use" in given else trail
            name = given.get("use", label)
            cls = self.part("evaluators", name, at, on_key=at == trail)
            if cls is not None:
                found[label] = replace(self.row("evaluators", cls, name, given, trail), label=label)

    def reference(self) -> dict[str, Any]:
        given = self.data.get("reference")
        if given not in (None, "teacher", {"use": "teacher"}):
            self.fault(("reference",), f"reference must be `{{use: teacher}}`, not {shown(given)}")
        return {"use": "teacher"}

    def reconstruction(self) -> dict[str, float]:
        from .losses import RECONSTRUCTION

        if self.data.get("reconstruction") is None:
            return {"l1": 1.0}
        given = self.mapping(("reconstruction",), "a mapping from losses to weights such as `{l1: 1.0}`")
        if self.data["reconstruction"] == {}:
            self.fault(("reconstruction",), "reconstruction is empty; write e.g. `reconstruction: {l1: 1.0}`")
        found = {}
        for name, weight in given.items():
            trail = ("reconstruction", name)
            if name not in RECONSTRUCTION:
                message = registry.unknown("reconstruction loss", name, list(RECONSTRUCTION))
                self.fault(trail, message, on_key=True)
            elif isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
                self.fault(trail, f"the weight of {name} must be a number > 0, not {shown(weight)}")
            else:
                found[name] = float(weight)
        return found

    def seeds(self) -> tuple[Sequence[int], ...]:
        """The seeds of (all) or of (tokenizer, generator, sampling), not multiplied yet."""
        given = self.data.get("seeds")
        if given is None:
            return ([0],)
        if not isinstance(given, dict):
            return (self.numbers(given, ("seeds",)),)
        names = ("tokenizer", "generator", "sampling")
        for key in given:
            if key not in names:
                self.fault(("seeds", key), registry.unknown("key of seeds", key, list(names)), on_key=True)
        return tuple(self.numbers(given.get(name, 1), ("seeds", name)) for name in names)

    def numbers(self, given: Any, trail: Trail) -> Sequence[int]:
        if type(given) is int and 1 <= given <= MAX_CELLS:
            return range(given)
        whole = isinstance(given, list) and all(type(seed) is int and seed >= 0 for seed in given)
        if whole and given and len(set(given)) == len(given):
            return given
        what = f"a number of seeds from 1 to {MAX_CELLS:,} or a list of different integers >= 0"
        self.fault(trail, f"{trail[-1]} must be {what}, not {shown(given)}")
        return ()

    def expanded_seeds(self, seeds: tuple[Sequence[int], ...]) -> Iterable[Seed]:
        if len(seeds) == 1:
            return (Seed(seed, seed, seed, str(seed)) for seed in seeds[0])
        return (Seed(t, g, s, f"{t}.{g}.{s}") for t, g, s in product(*seeds))

    def fits(self, entries: Mapping[str, list[_Entry]], seeds: tuple[Sequence[int], ...]) -> bool:
        """Whether the matrix is small enough to be multiplied out."""
        counts = {kind: sum(entry.variants.count for entry in entries[kind]) for kind in SECTIONS}
        counts["seeds"] = math.prod(map(len, seeds))
        # A section with errors may count no rows; the others' size matters all the same.
        cells = math.prod(max(1, count) for count in counts.values())
        if cells > MAX_CELLS:
            largest = max(counts, key=lambda kind: counts[kind])
            product_text = " x ".join(f"{count:,} {kind}" for kind, count in counts.items())
            self.fault((largest,), f"too many cells: {product_text}; at most {MAX_CELLS:,}", on_key=True)
        return cells <= MAX_CELLS

    def rows(self, entries: list[_Entry]) -> tuple[Row, ...]:
        found: dict[str, Row] = {}
        for entry in entries:
            for suffix, options in entry.variants.rows():
                base = entry.row
                label = base.label + suffix
                if label in found:
                    first = ":".join(map(str, found[label].where))
                    self.fault(
                        entry.trail, f"duplicate label {label!r}; the first is at {first}", on_key=True
                    )
                    continue
                found[label] = replace(base, label=label, options=options)
        return tuple(found.values())

    def skips(self) -> dict[int, Skip]:
        given = self.data.get("skip") or []
        if not isinstance(given, list):
            self.fault(("skip",), f"skip must be a list of `{{generator: …, why: …}}`, not {shown(given)}")
            given = []
        found = {}
        for i, item in enumerate(given):
            trail = ("skip", i)
            if not isinstance(item, dict):
                self.fault(trail, f"a skip is a mapping `{{generator: …, why: …}}`, not {shown(item)}")
                continue
            before = len(self.problems)
            clean = self.options(Skip, item, trail)
            if not any(name in item for name in PATTERNS) and len(self.problems) == before:
                self.fault(trail, f"a skip needs a pattern for one of {', '.join(PATTERNS)}")
            if len(self.problems) == before:
                found[i] = Skip(**clean)
        return found

    def unmatched(self, skips: Mapping[int, Skip], matrix: Matrix) -> Iterable[Problem]:
        sections = ((matrix.dataset,), matrix.tokenizers, matrix.regularizers, matrix.generators)
        for i, skip in skips.items():
            for name, rows in zip(PATTERNS, sections, strict=True):
                pattern = getattr(skip, name)
                if not any(_fits(pattern, row) for row in rows):
                    message = f"this skip matches nothing: no {name} is called {pattern!r}"
                    yield self.document.problem(("skip", i, name), message)


def _fits(pattern: str, row: Row) -> bool:
    """On the row's label, its label without axes, or its part; a label's brackets are no character class."""
    names = (row.label, row.label.partition("[")[0], row.part)
    return pattern in names or any(fnmatchcase(name, pattern.replace("[", "[[]")) for name in names)


def _label_problem(label: str) -> str | None:
    if not label or label != label.strip():
        return "must not be empty, nor begin or end with a space"
    if not label.isprintable() or len(label) > 100:
        return "must be printable text of at most 100 characters"
    if any(part in label for part in ("/", "\\", "..")) or label == ".":
        return "must not contain a path: it becomes a part of file names"
    if label == "real":
        return "is taken by the row of real images"
    return None


def _plain_row(row: Row) -> dict[str, Any]:
    plain: dict[str, Any] = {"use": row.part, **_plain(row.options)}
    for key in ("optimizer", "sampler"):
        if getattr(row, key):
            plain[key] = _plain(getattr(row, key))
    if row.guidance != (1.0,):
        plain["guidance"] = list(row.guidance)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=str)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
