"""Reads the parts of a matrix as rows: the name of a part, its options, and axes to multiply out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .. import registry
from ..options.axes import Variants, check_axes
from ..options.options import Trail, names_of, options_of
from ..options.words import SHOWN, label_text, shown
from .checker import Checker
from .guidance import read_autoguidance, read_guidance
from .matrix import MatrixRow
from .settings import Budget, CriticOptimizer, GroupOptimizer, Optimizer
from .yaml_text import Problem

KINDS_OF = {"dataset": "datasets", "features": "features"}  # top-level keys of one part or a list of them
EXAMPLES = {
    "dataset": "dataset: {use: digits}",
    "reference": "reference: {use: teacher}",
    "features": "features: effnet_lite0",
    "tokenizers": "tokenizers: {vit: {}}",
    "regularizers": "regularizers: {none: {}, kl: {weight: 1.0e-4}}",
    "generators": "generators: {lightningdit: {}}",
    "evaluators": "evaluators: [reconstruction, generation]",
}
JOINT = "joint"  # in place of a generator: the regularizer's own
NONE = "none"  # no generator: the tokenizer is scored alone
# Keys of a row beside its part's options, by section, by other kind of part, and of rows without a part.
FRAME = {
    "tokenizers": ("use", "optimizer", "weights", "start", "budget"),
    "regularizers": ("use", "optimizer", "reference", "teacher", "budget"),
    "generators": (
        "use",
        "init",
        "optimizer",
        "guidance",
        "autoguidance",
        "sampler",
        "teacher",
        "budget",
    ),
}
OWN = {"references": ("images",), "datasets": ("label",)}
WITHOUT_PART = {JOINT: ("use", "guidance", "sampler"), NONE: ("use",)}
BUDGETS = {  # keys of a row's own budget
    "tokenizers": ("tokenizer_steps", "refine_steps", "batch"),
    "regularizers": ("prior_steps", "batch"),  # for its priors
    "generators": ("generator_steps", "batch"),
}
MODULES = ("encoder", "decoder", "regularizer", "critics")
GROUPS: dict[str, tuple[str, ...]] = {  # groups of parameters with optimizer settings of their own
    "tokenizers": MODULES,
    "regularizers": (*MODULES, "priors"),
    "generators": ("modules",),  # modules of the generator, such as MAR's `head`
}
NAMED = ("critics", "priors", "modules")  # groups that map names to settings


@dataclass(frozen=True)
class Entry:
    """An entry of a section before its axes are multiplied out."""

    row: MatrixRow
    variants: Variants
    trail: Trail


def read_section(checker: Checker, kind: str) -> list[Entry]:
    """The readable entries of the tokenizers, regularizers or generators."""
    section = checker.mapping((kind,), checker.data, f"a mapping such as `{EXAMPLES[kind]}`")
    if checker.data.get(kind) == {}:
        checker.report((kind,), f"{kind} is empty; write e.g. `{EXAMPLES[kind]}`")
    entries = (_entry(checker, kind, label, options) for label, options in section.items())
    return [entry for entry in entries if entry is not None]


def expand_rows(checker: Checker, entries: list[Entry]) -> tuple[MatrixRow, ...]:
    """The entries with their axes multiplied out."""
    rows: dict[str, MatrixRow] = {}
    for entry in entries:
        for suffix, options in entry.variants.rows():
            label = entry.row.label + suffix
            if label in rows:
                first = Problem(*rows[label].where, "").place
                message = f"duplicate label {label!r}; the first is at {first}"
                checker.report(entry.trail, message, on_key=True)
                continue
            rows[label] = replace(entry.row, label=label, options=options)
    return tuple(rows.values())


def read_part(checker: Checker, value: Any, kind: str, trail: Trail) -> MatrixRow | None:
    """A row without axes, from a name or `{use: name, option: …}`."""
    if value is None:
        return None
    if isinstance(value, str):
        name, _, model = value.partition(":")  # `timm:resnet50`
        value = {"use": name, "model": model} if model else {"use": name}
    elif not checker.is_mapping(trail, value, "a name or `{use: name}`"):
        return None
    elif "use" not in value:
        key = next(key for key in reversed(trail) if isinstance(key, str))
        checker.report(trail, f"{key} needs a `use`, e.g. `{EXAMPLES.get(key, EXAMPLES['features'])}`")
        return None
    cls = checker.part_class(kind, value["use"], (*trail, "use"))
    return _row(checker, kind, cls, value["use"], value, trail) if cls else None


def read_parts(checker: Checker, key: str) -> tuple[MatrixRow, ...]:
    """One part, or a list of different ones, under a top-level key: datasets, feature extractors."""
    value, kind = checker.data.get(key), KINDS_OF[key]
    if not isinstance(value, list):
        row = read_part(checker, value, kind, (key,))
        return (row,) if row else ()
    if not value:
        checker.report((key,), f"the list {key!r} is empty; write e.g. `{EXAMPLES[key]}`")
    rows: list[MatrixRow] = []
    for i, item in enumerate(value):
        row = read_part(checker, item, kind, (key, i))
        if row is None:
            continue
        # Datasets name the rows of tables; two extractors may be the same part with different options.
        alike = [other for other in rows if other.label == row.label]
        if any(key == "dataset" or other.options == row.options for other in alike):
            checker.report((key, i), f"the {registry.SINGULAR[kind]} {row.label!r} is listed twice")
        else:
            rows.append(row)
    return tuple(rows)


def read_evaluators(checker: Checker) -> tuple[MatrixRow, ...]:
    """The evaluators, from a list of names and of `{name: {option: …}}`."""
    value = checker.data.get("evaluators")
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        message = f"evaluators must be a list of names such as `{EXAMPLES['evaluators']}`"
        checker.report(("evaluators",), f"{message}, not {shown(value)}")
        return ()
    rows: dict[str, MatrixRow] = {}
    for i, item in enumerate(value):
        if not isinstance(item, str | dict):
            message = f"an evaluator is a name or `{{name: {{option: …}}}}`, not {shown(item)}"
            checker.report(("evaluators", i), message)
            continue
        for label, options in ({item: None} if isinstance(item, str) else item).items():
            trail, options = ("evaluators", i, label), {} if options is None else options
            if label in rows:
                checker.report(trail, f"the evaluator {label!r} is listed twice", on_key=True)
            elif checker.is_mapping(trail, options, "a mapping of options"):
                name, cls = _part_of_entry(checker, "evaluators", options, trail)
                if cls is not None:
                    row = _row(checker, "evaluators", cls, name, options, trail)
                    rows[label] = replace(row, label=label)
    return tuple(rows.values())


def check_starts(checker: Checker, entries: list[Entry], tokenizers: tuple[MatrixRow, ...]) -> None:
    """Reports a tokenizer whose `start` is no other tokenizer, or one that has a `start` itself."""
    known = {row.label: row for row in tokenizers}
    for entry in entries:
        start, trail = entry.row.start, (*entry.trail, "start")
        if isinstance(start, str) and start not in known:
            checker.report(trail, registry.unknown("tokenizer of this matrix", start, list(known)))
        elif isinstance(start, str) and known[start].start is not None:
            checker.report(trail, f"{start!r} starts from another tokenizer itself; one start is possible")


def label_problem(label: Any) -> str | None:
    """The reason why a value cannot be a label or a matrix's name, if there is one."""
    if not isinstance(label, str):
        return "must be text"
    if not label or label != label.strip():
        return "must not be empty, nor begin or end with a space"
    if not label.isprintable() or len(label) > 100:
        return "must be printable text of at most 100 characters"
    if any(part in label for part in ("/", "\\", "..")) or label == ".":
        return "must not contain a path: it becomes a part of file names"
    if label == "real":
        return "is taken by the row of real images"
    return None


def _row(
    checker: Checker, kind: str, cls: type, name: str, options: Mapping[str, Any], trail: Trail
) -> MatrixRow:
    """A row without axes."""
    known = _options_of(cls)
    own = tuple(key for key in OWN.get(kind, ()) if key not in known)  # the part's own options come first
    rest = {key: value for key, value in options.items() if key not in ("use", *own)}
    clean = checker.checked_options(cls, rest, trail, where=f"bench info {kind} {name}", also=own)
    images = options.get("images") if "images" in own else None
    if images is not None and (type(images) is not int or images < 2):
        checker.report((*trail, "images"), f"images must be a number of them >= 2, not {shown(images)}")
    label = options.get("label", name) if "label" in own else name
    if kind == "datasets" and "label" in known and clean.get("label") != known["label"].default:
        label = f"{name}[label={label_text(clean.get('label'))}]"  # as of an axis, to be there several times
    problem = label_problem(label)
    if problem:
        checker.report((*trail, "label"), f"the label {shown(label)} {problem}")
    return MatrixRow(str(label), name, clean, images=images, where=checker.position(trail))


def _part_of_entry(
    checker: Checker, kind: str, options: Mapping[str, Any], trail: Trail
) -> tuple[Any, type | None]:
    """The name and class of an entry's part: its `use` or, without one, its label."""
    if "use" in options:
        return options["use"], checker.part_class(kind, options["use"], (*trail, "use"))
    return trail[-1], checker.part_class(kind, trail[-1], trail, on_key=True)


def _entry(checker: Checker, kind: str, label: str, options: Any) -> Entry | None:
    """One entry of a section; None if its part is unknown."""
    trail = (kind, label)
    problem = label_problem(label)
    if problem:
        checker.report(trail, f"the label {shown(label)} {problem}", on_key=True)
    options = {} if options is None else options
    if not checker.is_mapping(trail, options, "a mapping of options"):
        return None
    use = options.get("use", label)
    if kind == "generators" and use in (JOINT, NONE):
        return _without_part(checker, label, use, options, trail)
    name, cls = _part_of_entry(checker, kind, options, trail)
    frame: dict[str, Any] = {
        "optimizer": _optimizer(checker, kind, options, (*trail, "optimizer")),
        "budget": _budget(checker, kind, options, (*trail, "budget")),
    }
    if kind == "tokenizers":
        for key, what in (("start", "a tokenizer's label"), ("weights", "a path")):
            frame[key] = text = options.get(key)
            if not isinstance(text, str | None) or text == "":
                checker.report((*trail, key), f"{key} must be {what}, not {shown(text)}")
    elif kind == "regularizers":
        for key, kind_of_part in (("reference", "references"), ("teacher", "features")):
            frame[key] = read_part(checker, options.get(key), kind_of_part, (*trail, key))
    else:
        frame |= read_guidance(checker, options.get("guidance"), (*trail, "guidance"))
        frame["autoguidance"] = read_autoguidance(checker, options, trail)
        frame["teacher"] = read_part(checker, options.get("teacher"), "features", (*trail, "teacher"))
        frame["init"] = init = options.get("init", "fresh")
        if init not in ("fresh", JOINT):
            checker.report((*trail, "init"), f"init must be 'fresh' or 'joint', not {shown(init)}")
    if cls is None:
        return None
    where = f"bench info {kind} {name}"
    if kind == "generators":
        at = (*trail, "sampler")
        sampler = checker.mapping(at, options, "a mapping of options")
        frame["sampler"] = checker.checked_options(cls, sampler, at, method="sample", where=where)
    _refuse_taken_names(checker, kind, name, cls, options, trail)
    own = {key: value for key, value in options.items() if key not in FRAME[kind]}
    if own and frame.get("init") == JOINT:
        message = "`init: joint` goes on with the regularizer's generator as it is: it takes no options"
        checker.report((*trail, next(iter(own))), message, on_key=True)
    try:
        variants, faults = check_axes(cls, own, also=FRAME[kind], where=where)
    except registry.PartError as error:
        checker.report(trail, str(error), on_key=True)
        return None
    checker.report_all(faults, trail, names_of(cls))
    return Entry(MatrixRow(label, name, {}, where=checker.position(trail), **frame), variants, trail)


def _refuse_taken_names(
    checker: Checker, kind: str, name: str, cls: type, options: Mapping[str, Any], trail: Trail
) -> None:
    """Reports keys that a part has as options too: their values would never reach the part."""
    for key in FRAME[kind]:
        if key != "use" and key in options and key in _options_of(cls):
            message = (
                f"the {registry.SINGULAR[kind]} {name!r} has an option {key!r}, which it would not get: rows "
                f"have a `{key}` of their own; rename the part's option"
            )
            checker.report((*trail, key), message, on_key=True)


def _options_of(cls: type) -> Mapping[str, Any]:
    """A part's options; none if its annotations cannot be read, which the check of its options reports."""
    try:
        return options_of(cls)
    except registry.PartError:
        return {}


def _without_part(checker: Checker, label: str, use: str, options: Mapping[str, Any], trail: Trail) -> Entry:
    """A generator row without a generator's part: the regularizer's own generator, or none at all.

    The options of the regularizer's sampler are checked when the pair is known.
    """
    for key in options:
        if key not in WITHOUT_PART[use]:
            message = registry.unknown(f"option of `use: {use}`", key[:SHOWN], list(WITHOUT_PART[use]))
            checker.report((*trail, key), message, on_key=True)
    row = MatrixRow(label, use, {}, guidance=(), where=checker.position(trail))
    if use == JOINT:
        guidance = read_guidance(checker, options.get("guidance"), (*trail, "guidance"))
        sampler = checker.mapping((*trail, "sampler"), options, "a mapping of options")
        row = replace(row, sampler=sampler, init=JOINT, **guidance)
    return Entry(row, Variants({}, {}), trail)


def _budget(checker: Checker, kind: str, options: Mapping[str, Any], trail: Trail) -> dict[str, int]:
    """The keys of the matrix's budget that a row replaces."""
    budget = checker.mapping(trail, options, "a mapping such as `{batch: 256}`")
    for name in budget:
        if name not in BUDGETS[kind]:
            message = registry.unknown(f"budget of {kind}", name, list(BUDGETS[kind]))
            checker.report((*trail, name), message, on_key=True)
    known = {name: budget[name] for name in BUDGETS[kind] if name in budget}
    return checker.explicit_options(Budget, known, trail)


def _optimizer(checker: Checker, kind: str, options: Mapping[str, Any], trail: Trail) -> dict[str, Any]:
    """The written settings of a row's optimizer and of its groups of parameters."""
    optimizer = checker.mapping(trail, options, "a mapping such as `{lr: 1.0e-3}`")
    common = {key: value for key, value in optimizer.items() if key not in GROUPS[kind]}
    checked = checker.explicit_options(Optimizer, common, trail, also=GROUPS[kind])
    for group in GROUPS[kind]:
        if optimizer.get(group) is None:
            continue
        at = (*trail, group)
        settings = checker.mapping(at, optimizer, "a mapping of settings")
        if group in NAMED:
            target = Optimizer if group == "priors" else CriticOptimizer
            checked[group] = {
                name: checker.explicit_options(target, named, (*at, name))
                for name, named in settings.items()
                if checker.is_mapping((*at, name), named, "a mapping of settings")
            }
        else:
            checked[group] = checker.explicit_options(GroupOptimizer, settings, at)
    return checked
