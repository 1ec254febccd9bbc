"""Rows from the sections of a matrix: each names a part, its options, and axes to multiply out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .. import registry
from ..options.options import Trail, Variants, axes, names_of, shown
from .checker import Checker
from .matrix import MatrixRow
from .settings import Budget, Critic, Group, Optimizer

KINDS_OF = {"dataset": "datasets", "features": "features"}  # top-level keys that take a part or several
EXAMPLES = {
    "dataset": "dataset: {use: digits}",
    "reference": "reference: {use: teacher}",
    "features": "features: effnet_lite0",
    "tokenizers": "tokenizers: {vit: {}}",
    "regularizers": "regularizers: {none: {}, kl: {weight: 1.0e-4}}",
    "generators": "generators: {lightningdit: {}}",
    "evaluators": "evaluators: [reconstruction, generation]",
}
FRAME = {  # what any part of a section takes beside its own options
    "tokenizers": ("use", "optimizer", "weights", "start", "budget"),
    "regularizers": ("use", "optimizer", "reference", "teacher", "budget"),
    "generators": ("use", "init", "optimizer", "guidance", "sampler", "budget"),
}
OWN = {"references": ("images",), "datasets": ("label",)}  # what the frame takes of parts without a section
BUDGETS = {  # what a row may have of its own
    "tokenizers": ("tokenizer_steps", "refine_steps", "batch"),
    "regularizers": ("prior_steps", "batch"),  # of its priors
    "generators": ("generator_steps", "batch"),
}
NAMED = ("critics", "priors", "modules")  # groups of parameters with names of their own
MODULES = ("encoder", "decoder", "regularizer", "critics")
GROUPS: dict[str, tuple[str, ...]] = {
    "tokenizers": MODULES,
    "regularizers": (*MODULES, "priors"),
    "generators": ("modules",),  # of a generator's own, such as MAR's `head`
}
JOINT = "joint"  # in place of a generator: the regularizer's own
NONE = "none"  # or nothing: the tokenizer is scored alone


@dataclass(frozen=True)
class Entry:
    """An entry of a section before its axes are multiplied out."""

    row: MatrixRow
    variants: Variants
    trail: Trail


def section(reader: Checker, kind: str) -> list[Entry]:
    """The entries of the tokenizers, regularizers or generators, without those that cannot be read."""
    found = reader.mapping((kind,), f"a mapping such as `{EXAMPLES[kind]}`")
    if reader.data.get(kind) == {}:
        reader.fault((kind,), f"{kind} is empty; write e.g. `{EXAMPLES[kind]}`")
    entries = (_entry(reader, kind, label, given) for label, given in found.items())
    return [entry for entry in entries if entry is not None]


def rows(reader: Checker, entries: list[Entry]) -> tuple[MatrixRow, ...]:
    """The entries with their axes multiplied out."""
    found: dict[str, MatrixRow] = {}
    for entry in entries:
        for suffix, options in entry.variants.rows():
            base = entry.row
            label = base.label + suffix
            if label in found:
                first = ":".join(map(str, found[label].where))
                reader.fault(entry.trail, f"duplicate label {label!r}; the first is at {first}", on_key=True)
                continue
            found[label] = replace(base, label=label, options=options)
    return tuple(found.values())


def single(reader: Checker, given: Any, kind: str, trail: Trail) -> MatrixRow | None:
    """The one part at a place: a name, or `{use: name, option: …}`."""
    at: Trail = (*trail, "use")
    if given is None:
        return None
    if isinstance(given, str):
        name, _, model = given.partition(":")  # `timm:resnet50`
        given, at = {"use": name, **({"model": model} if model else {})}, trail
    elif not reader.is_mapping(trail, given, "a name or `{use: name}`"):
        return None
    elif "use" not in given:
        key = next(key for key in reversed(trail) if isinstance(key, str))
        reader.fault(trail, f"{key} needs a `use`, e.g. `{EXAMPLES.get(key, EXAMPLES['features'])}`")
        return None
    cls = reader.part(kind, given["use"], at)
    return _row(reader, kind, cls, given["use"], given, trail) if cls else None


def several(reader: Checker, key: str) -> tuple[MatrixRow, ...]:
    """One part, or a list of different ones, under a top-level key: datasets, feature extractors."""
    given, kind = reader.data.get(key), KINDS_OF[key]
    if not isinstance(given, list):
        row = single(reader, given, kind, (key,))
        return (row,) if row else ()
    if not given:
        reader.fault((key,), f"the list {key!r} is empty; write e.g. `{EXAMPLES[key]}`")
    found: list[MatrixRow] = []
    for i, item in enumerate(given):
        row = single(reader, item, kind, (key, i))
        # Datasets name the rows of tables; of extractors there may be two by one part, with other options.
        alike = [other for other in found if row and other.label == row.label]
        if row and any(key == "dataset" or other.options == row.options for other in alike):
            reader.fault((key, i), f"the {registry.SINGULAR[kind]} {row.label!r} is listed twice")
        elif row:
            found.append(row)
    return tuple(found)


def evaluators(reader: Checker) -> tuple[MatrixRow, ...]:
    """From a list of names and of `{name: {option: …}}`."""
    given = reader.data.get("evaluators")
    if given is None:
        return ()
    if not isinstance(given, list) or not given:
        message = f"evaluators must be a list of names such as `{EXAMPLES['evaluators']}`"
        reader.fault(("evaluators",), f"{message}, not {shown(given)}")
        return ()
    found: dict[str, MatrixRow] = {}
    for i, item in enumerate(given):
        trail: Trail = ("evaluators", i)
        if isinstance(item, str):
            _evaluator(reader, item, {}, trail, found)
            continue
        if not isinstance(item, dict):
            reader.fault(trail, f"an evaluator is a name or `{{name: {{option: …}}}}`, not {shown(item)}")
            continue
        for name, options in item.items():
            _evaluator(reader, name, {} if options is None else options, (*trail, name), found)
    return tuple(found.values())


def _entry(reader: Checker, kind: str, label: str, given: Any) -> Entry | None:
    trail = (kind, label)
    problem = label_problem(label)
    if problem:
        reader.fault(trail, f"the label {shown(label)} {problem}", on_key=True)
    given = {} if given is None else given
    if not reader.is_mapping(trail, given, "a mapping of options"):
        return None
    at = (*trail, "use") if "use" in given else trail
    name = given.get("use", label)
    if kind == "generators" and name == JOINT:
        return _joint(reader, label, given, trail)
    if kind == "generators" and name == NONE:
        return _none(reader, label, given, trail)
    cls = reader.part(kind, name, at, on_key=at == trail)
    optimizer = _optimizer(reader, given.get("optimizer"), (*trail, "optimizer"), GROUPS[kind])
    extra: dict[str, Any] = {}
    if kind == "generators":
        extra["guidance"] = _guidance(reader, given.get("guidance"), (*trail, "guidance"))
        extra["init"] = given.get("init", "fresh")
        if extra["init"] not in ("fresh", JOINT):
            reader.fault((*trail, "init"), f"init must be 'fresh' or 'joint', not {shown(extra['init'])}")
    extra["budget"] = _budget(reader, kind, given.get("budget"), (*trail, "budget"))
    if kind == "tokenizers":
        extra["start"] = given.get("start")
        if not isinstance(extra["start"], str | None):
            reader.fault((*trail, "start"), f"start must be a tokenizer's label, not {shown(extra['start'])}")
        extra["weights"] = given.get("weights")
        if not isinstance(extra["weights"], str | None) or extra["weights"] == "":
            reader.fault((*trail, "weights"), f"weights must be a path, not {shown(extra['weights'])}")
    if kind == "regularizers":
        extra["reference"] = single(reader, given.get("reference"), "references", (*trail, "reference"))
        extra["teacher"] = single(reader, given.get("teacher"), "features", (*trail, "teacher"))
    if cls is None:
        return None
    where = f"bench info {kind} {name}"
    if kind == "generators":
        sampler = _sampler(reader, given, trail)
        extra["sampler"] = reader.options(cls, sampler, (*trail, "sampler"), method="sample", where=where)
    options = {key: value for key, value in given.items() if key not in FRAME[kind]}
    if options and extra.get("init") == JOINT:
        message = "`init: joint` goes on with the regularizer's generator as it is: it takes no options"
        reader.fault((*trail, next(iter(options))), message, on_key=True)
    try:
        variants, faults = axes(cls, options, also=FRAME[kind], where=where)
    except registry.PartError as error:
        reader.fault(trail, str(error), on_key=True)
        return None
    reader.faults(faults, trail, names_of(cls))
    row = MatrixRow(label, name, {}, optimizer, where=reader.place(trail), **extra)
    return Entry(row, variants, trail)


def _joint(reader: Checker, label: str, given: Mapping[str, Any], trail: Trail) -> Entry:
    """The regularizer's own generator, sampled as it is; what its sampler takes is known with the pair."""
    _known(reader, JOINT, given, ("use", "guidance", "sampler"), trail)
    sampler = _sampler(reader, given, trail)
    guidance = _guidance(reader, given.get("guidance"), (*trail, "guidance"))
    row = MatrixRow(
        label, JOINT, {}, guidance=guidance, sampler=sampler, init=JOINT, where=reader.place(trail)
    )
    return Entry(row, Variants({}, {}), trail)


def _none(reader: Checker, label: str, given: Mapping[str, Any], trail: Trail) -> Entry:
    """No generator: what evaluators say of a tokenizer needs none."""
    _known(reader, NONE, given, ("use",), trail)
    return Entry(MatrixRow(label, NONE, {}, guidance=(), where=reader.place(trail)), Variants({}, {}), trail)


def _known(reader: Checker, use: str, given: Iterable[Any], known: tuple[str, ...], trail: Trail) -> None:
    for key in given:
        if key not in known:
            message = registry.unknown(f"option of `use: {use}`", str(key)[:60], list(known))
            reader.fault((*trail, key), message, on_key=True)


def _sampler(reader: Checker, given: Mapping[str, Any], trail: Trail) -> Mapping[str, Any]:
    sampler = {} if given.get("sampler") is None else given["sampler"]
    return sampler if reader.is_mapping((*trail, "sampler"), sampler, "a mapping of options") else {}


def _row(
    reader: Checker, kind: str, cls: type, name: str, given: Mapping[str, Any], trail: Trail
) -> MatrixRow:
    """A row without axes."""
    frame = ("use", *OWN.get(kind, ()))
    options = {key: value for key, value in given.items() if key not in frame}
    clean = reader.options(cls, options, trail, where=f"bench info {kind} {name}", also=frame[1:])
    images = given.get("images") if "images" in frame else None
    if images is not None and (type(images) is not int or images < 2):
        reader.fault((*trail, "images"), f"images must be a number of them >= 2, not {shown(images)}")
    label = given.get("label", name) if "label" in frame else name
    problem = label_problem(label) if isinstance(label, str) else "must be text"
    if problem:
        reader.fault((*trail, "label"), f"the label {shown(label)} {problem}")
    return MatrixRow(str(label), name, clean, images=images, where=reader.place(trail))


def _optimizer(reader: Checker, given: Any, trail: Trail, names: tuple[str, ...]) -> dict[str, Any]:
    """Settings as given, checked; of a row, and of its groups of parameters."""
    if given is None or not reader.is_mapping(trail, given, "a mapping such as `{lr: 1.0e-3}`"):
        return {}
    groups = {name: given[name] for name in names if given.get(name) is not None}
    own = {key: value for key, value in given.items() if key not in names}
    found = reader.given(Optimizer, own, trail, also=names)
    for name, settings in groups.items():
        at = (*trail, name)
        if not reader.is_mapping(at, settings, "a mapping of settings"):
            continue
        if name not in NAMED:
            found[name] = reader.given(Group, settings, at)
            continue
        found[name] = {
            one: reader.given(Optimizer if name == "priors" else Critic, its, (*at, one))
            for one, its in settings.items()
            if reader.is_mapping((*at, one), its, "a mapping of settings")
        }
    return found


def _budget(reader: Checker, kind: str, given: Any, trail: Trail) -> dict[str, int]:
    if given is None or not reader.is_mapping(trail, given, "a mapping such as `{batch: 256}`"):
        return {}
    for name in given:
        if name not in BUDGETS[kind]:
            message = registry.unknown(f"budget of {kind}", name, list(BUDGETS[kind]))
            reader.fault((*trail, name), message, on_key=True)
    return reader.given(Budget, {name: given[name] for name in BUDGETS[kind] if name in given}, trail)


def starts(reader: Checker, entries: list[Entry], found: tuple[MatrixRow, ...]) -> None:
    """A tokenizer starts from another that is trained from the beginning."""
    known = {row.label: row for row in found}
    for entry in entries:
        start, trail = entry.row.start, (*entry.trail, "start")
        if isinstance(start, str) and start not in known:
            reader.fault(trail, registry.unknown("tokenizer of this matrix", start, list(known)))
        elif isinstance(start, str) and known[start].start is not None:
            reader.fault(trail, f"{start!r} starts from another tokenizer itself; one start is possible")


def _guidance(reader: Checker, given: Any, trail: Trail) -> tuple[float, ...]:
    if given is None:
        return (1.0,)
    values = given if isinstance(given, list) else [given]
    if not values:
        reader.fault(trail, "guidance is empty; it needs at least one number")
    good: list[float] = []
    for i, value in enumerate(values):
        at = (*trail, i) if isinstance(given, list) else trail
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            reader.fault(at, f"guidance must be a number >= 0, or a list of them, not {shown(value)}")
        elif any(f"{value:g}" == f"{other:g}" for other in good):
            reader.fault(at, f"guidance has {value:g} twice")  # metrics are named by this text
        else:
            good.append(float(value))
    return tuple(good)


def _evaluator(reader: Checker, label: str, given: Any, trail: Trail, found: dict[str, MatrixRow]) -> None:
    if label in found:
        reader.fault(trail, f"the evaluator {label!r} is listed twice", on_key=True)
    elif reader.is_mapping(trail, given, "a mapping of options"):
        at = (*trail, "use") if "use" in given else trail
        name = given.get("use", label)
        cls = reader.part("evaluators", name, at, on_key=at == trail)
        if cls is not None:
            found[label] = replace(_row(reader, "evaluators", cls, name, given, trail), label=label)


def label_problem(label: str) -> str | None:
    """What keeps a text from being a label, or a matrix's name."""
    if not label or label != label.strip():
        return "must not be empty, nor begin or end with a space"
    if not label.isprintable() or len(label) > 100:
        return "must be printable text of at most 100 characters"
    if any(part in label for part in ("/", "\\", "..")) or label == ".":
        return "must not contain a path: it becomes a part of file names"
    if label == "real":
        return "is taken by the row of real images"
    return None
