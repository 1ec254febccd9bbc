"""Values, annotations and lists of names as texts for error messages and row labels."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

SHOWN = 60  # characters of a value in a message
SEQUENCES = (list, tuple, set, frozenset, Sequence, Collection, Iterable)
PLAIN: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    type(None): "null",
    Any: "a value",
}
RANGES = {
    "ge": ">= {}",
    "gt": "> {}",
    "le": "<= {}",
    "lt": "< {}",
    "multiple_of": "a multiple of {}",
    "min_length": "with at least {} items",
    "max_length": "with at most {} items",
    "pattern": "matching {}",
}


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many more there are: "a, b and 3 more"."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def joined(names: Sequence[str], last: str = "and") -> str:
    """All names as a clause: "a, b and c"."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def visible_name(name: bytes) -> str:
    """A file's name on one line, with what cannot be printed escaped: it may be bytes of any encoding."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: Any) -> str:
    """A value as a matrix writes it, cut to SHOWN characters."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    try:
        text = repr(value)
    except ValueError:  # an integer beyond 4,300 digits
        text = "a very large number"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def label_text(value: Any) -> str:
    """A value in a row's label: short, on one line and without path separators."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list | tuple):
        return "x".join(map(label_text, value))
    if isinstance(value, Mapping):
        options = [f"{name}:{label_text(item)}" for name, item in value.items() if name != "use"]
        return "+".join(([str(value["use"])] if "use" in value else []) + options)
    text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    return "".join(c if c.isprintable() and c not in "/\\" else "_" for c in text)


def describe(annotation: Any, constraints: Iterable[Any] = ()) -> str:
    """An annotation in words, with its range: "an integer >= 1", "'a' or 'b'", "a list of 2: …"."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(args[0], [*constraints, *args[1:]])
    if origin in (Union, types.UnionType):
        words = [describe(arg, () if arg is type(None) else constraints) for arg in args]
        return " or ".join(dict.fromkeys(words))
    if origin is Literal:
        return joined([*map(shown, args)], "or")
    if origin in (list, set, frozenset, Sequence) or (origin is tuple and args[-1:] == (...,)):
        return f"a list{_range(constraints)}, each {describe(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: {', '.join(map(describe, args))}"
    if annotation in PLAIN:
        return PLAIN[annotation] + _range(constraints)
    if (origin or annotation) in (dict, Mapping):
        return "a mapping"
    if annotation in SEQUENCES:
        return f"a list{_range(constraints)}"
    return inspect.formatannotation(annotation)


def _range(constraints: Iterable[Any]) -> str:
    """The limits of pydantic's `Field(ge=…)` and of annotated-types, in words."""
    words = []
    for constraint in constraints:
        for limits in getattr(constraint, "metadata", [constraint]):
            values = ((text, getattr(limits, name, None)) for name, text in RANGES.items())
            words += [text.format(label_text(value)) for text, value in values if value is not None]
    return f" {' and '.join(words)}" if words else ""
