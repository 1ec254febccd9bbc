"""A constructor is a schema: its annotations and defaults are the options of a matrix and their ranges."""

from __future__ import annotations

import inspect
import json
import math
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from .. import registry
from ..api import Generator, ReferenceSource, Regularizer, Tokenizer
from ..registry import PartError, Use, unknown

# What the frame gives a constructor by name, which is no option of a matrix.
FACTS: dict[type, set[str]] = {
    Tokenizer: {"image", "expansion", "dataset"},
    Regularizer: {"spec", "classes", "teacher_spec", "reference_spec", "reference_classes"},
    Generator: {"spec", "classes"},
    ReferenceSource: {"image", "teacher_spec"},
}
REQUIRED = inspect.Parameter.empty
SEQUENCES = (list, tuple, set, frozenset, Sequence, Collection, Iterable)
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
SIZE = "size"  # stands for options by a published name
SHOWN = 60  # characters of a value in a message

Trail = tuple[str | int, ...]  # keys and list indices, from the top
Fault = tuple[Trail, str]  # where under the options, and what is wrong


class Faults(ValueError):
    """What is wrong inside one option."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(message for _, message in faults))
        self.faults = faults


@dataclass(frozen=True)
class Option:
    """One option as its annotation describes it."""

    name: str
    annotation: str  # as in the source, e.g. "tuple[int, ...]"
    default: Any  # REQUIRED without one
    choices: str  # in words, e.g. "a number >= 0"
    is_list: bool = field(repr=False)  # a list can be one value
    adapter: TypeAdapter[Any] = field(repr=False)
    needs: tuple[type, ...] = field(default=(), repr=False)  # the interfaces of a part that it names

    def read(self, value: Any) -> Any:
        """The value as the constructor takes it: a tuple for a list, a float for an int where it says float.

        Raises:
            ValueError: naming the value and the choices; `Faults` with places inside the value.
        """
        if self.needs and not value is self.default is None:
            return self._part(value)
        try:
            # Strict JSON is what YAML means: no bool for an int, no text for a number, but lists for tuples.
            read = self.adapter.validate_json(json.dumps(value, default=str), strict=True)
        except ValidationError as error:
            own = [item for item in error.errors() if item["type"] == "value_error"]
            why = f" ({own[0]['ctx']['error']})" if own else ""
            raise ValueError(f"{self.name} must be {self.choices}, not {shown(value)}{why}") from None
        if isinstance(value, bool) and not isinstance(read, bool):  # Literal[0, 1] takes True
            raise ValueError(f"{self.name} must be {self.choices}, not {shown(value)}")
        return read

    @property
    def filled(self) -> Any:
        """The default as `read` gives it, with every option of a part."""
        return self.read(self.default) if self.needs else self.default

    def _part(self, value: Any) -> dict[str, Any]:
        """`tarflow` or `{use: tarflow, width: 64}` as `{"use": "tarflow", …}` with every option of that part.

        Of the option's own default, what is left out stays as it is there: `{width: 64}` is enough.
        """
        default, given = ({"use": v} if isinstance(v, str) else v for v in (self.default, value))
        if not isinstance(given, Mapping):
            raise ValueError(f"{self.name} must be {self.choices}, not {shown(value)}")
        kept = default if isinstance(default, Mapping) else {}
        kept = kept if given.get("use", kept.get("use")) == kept.get("use") else {}
        name = {**kept, **given}.get("use")
        if not isinstance(name, str):
            raise Faults([(("use",), f"{self.name} needs a `use`: {self.choices}")])
        kind = registry.kind_of(self.needs[0])
        try:
            cls = registry.get(kind, name)
        except PartError as error:
            raise Faults([(("use",), str(error))]) from None
        if not issubclass(cls, self.needs):
            fit = [
                other for other in registry.names(kind) if issubclass(registry.get(kind, other), self.needs)
            ]
            message = f"{self.name} must be {self.choices}, and {name!r} is none; {', '.join(fit)} are"
            raise Faults([(("use",), message)])
        where = f"bench info {kind} {name}"
        # A size that is given stands above the default's options, so both are written out first.
        (kept, _), (given, unknown_size) = sized(cls, kept), sized(cls, given, where)
        options = {key: item for key, item in {**kept, **given}.items() if key != "use"}
        clean, faults = check_options(cls, options, where=where)
        if faults or unknown_size:
            raise Faults(unknown_size + faults)
        return {"use": name, **clean}

    def accepts(self, value: Any) -> bool:
        try:
            self.read(value)
        except ValueError:
            return False
        return True

    def is_axis(self, value: Any) -> bool:
        """A list, unless it is itself a value; where lists are values, a list of lists."""
        if not isinstance(value, list) or self.accepts(value):
            return False
        if not self.is_list:
            return True
        return any(isinstance(item, list) for item in value) or all(self.accepts(item) for item in value)


@dataclass(frozen=True)
class Variants:
    """The rows of one entry of a matrix: common options, and axes that multiply each other."""

    options: dict[str, Any]
    axes: dict[str, tuple[tuple[str, dict[str, Any]], ...]]  # of each value its text in labels, its options

    @property
    def count(self) -> int:
        return math.prod(len(values) for values in self.axes.values())

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """A suffix for the label, such as "[weight=0.01]", and the options; the last axis moves fastest."""
        for values in product(*self.axes.values()):
            suffix = ",".join(f"{name}={text}" for name, (text, _) in zip(self.axes, values, strict=True))
            options = self.options.copy()
            for _, chosen in values:
                options |= chosen
            yield f"[{suffix}]" if values else "", options


@cache
def options_of(target: Callable[..., Any], method: str = "") -> dict[str, Option]:
    """The options of a part or of any callable; with a method, the keyword-only arguments of that method.

    `**options` are followed up the bases.
    """
    facts = next((names for base, names in FACTS.items() if _is(target, base)), set[str]())
    found: dict[str, Option] = {}
    for function in _functions(target, method or "__init__"):
        try:
            hints, bare = get_type_hints(function, include_extras=True), get_type_hints(function)
        except (NameError, TypeError) as error:
            name = getattr(target, "__name__", str(target))
            raise PartError(f"the annotations of {name} cannot be read: {error}") from error
        parameters = list(inspect.signature(function).parameters.values())
        for position, parameter in enumerate(parameters):
            bound = position == 0 and isinstance(target, type)  # self
            if bound or parameter.name in facts or parameter.name in found:
                continue
            if parameter.kind is parameter.KEYWORD_ONLY or (
                not method and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            ):
                guess = _guess(parameter.default)
                hint, text = (kept.get(parameter.name, guess) for kept in (hints, bare))
                found[parameter.name] = _option(parameter.name, hint, _source(text), parameter.default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def check_options(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    method: str = "",
    also: Iterable[str] = (),
    given: Collection[str] = (),
    where: str = "",
) -> tuple[dict[str, Any], list[Fault]]:
    """Every option with its value, or its default, and what is wrong with those that were given.

    Args:
        also: further names that a misspelt one may have meant.
        given: names that are given elsewhere.
        where: what to look at to learn more, for messages.
    """
    known = options_of(target, method)
    options, faults = (options, []) if method else sized(target, options, where)
    clean = {name: option.filled for name, option in known.items() if option.default is not REQUIRED}
    for name, value in options.items():
        if name not in known:
            choices = [*names_of(target, method), *also]
            faults.append(((name,), unknown("option", name[:SHOWN], choices, where)))
            continue
        try:
            clean[name] = known[name].read(value)
        except ValueError as error:
            faults += _placed(error, (name,))
    for name, option in known.items():
        if name not in clean and name not in options and name not in given:
            faults.append(((), f"the option {name!r} is missing; it must be {option.choices}"))
    return clean, faults


def sizes_of(target: Callable[..., Any]) -> Mapping[str, Mapping[str, Any]]:
    """Published names for sets of options; none where `size` is an option itself."""
    if SIZE in options_of(target) or not (_is(target, Generator) or _is(target, Tokenizer)):
        return {}
    return target.sizes  # type: ignore[attr-defined]


def names_of(target: Callable[..., Any], method: str = "") -> list[str]:
    """The keys that may be given: the options and, where there are sizes, `size`."""
    return [*options_of(target, method), *([SIZE] if not method and sizes_of(target) else [])]


def sized(
    target: Callable[..., Any], options: Mapping[str, Any], where: str = ""
) -> tuple[Mapping[str, Any], list[Fault]]:
    """The options with those that a size stands for; what is given beside it wins."""
    sizes = sizes_of(target)
    if SIZE not in options or not sizes:
        return options, []
    rest = {name: value for name, value in options.items() if name != SIZE}
    size = options[SIZE]
    if not isinstance(size, str):
        return rest, [((SIZE,), f"size must be one of {', '.join(sizes)}, not {shown(size)}")]
    if size not in sizes:
        return rest, [((SIZE,), unknown("size", size[:SHOWN], list(sizes), where))]
    return {**sizes[size], **rest}, []


def axes(
    target: Callable[..., Any], options: Mapping[str, Any], *, also: Iterable[str] = (), where: str = ""
) -> tuple[Variants, list[Fault]]:
    """Like `check`, with lists as axes; no value is checked twice and nothing is multiplied yet."""
    known = options_of(target)
    sizes = sizes_of(target)

    def is_axis(name: str, value: Any) -> bool:
        if name == SIZE and sizes:
            return isinstance(value, list)
        return name in known and known[name].is_axis(value)

    lists = {name: value for name, value in options.items() if is_axis(name, value)}
    rest = {name: value for name, value in options.items() if name not in lists}
    clean, faults = check_options(target, rest, also=also, given=lists, where=where)
    read: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {}
    for name, values in lists.items():
        good: list[tuple[str, dict[str, Any]]] = []
        if not values:
            faults.append(((name,), f"the axis {name!r} is empty; it needs at least one value"))
        for i, value in enumerate(values):
            if name not in known:
                chosen, wrong = check_options(target, {SIZE: value}, given=known, where=where)
                faults += [((SIZE, i), message) for _, message in wrong]
                if not wrong:
                    good.append((value, {n: chosen[n] for n in sizes[value] if n not in options}))
                continue
            try:
                # A part is labelled by what was written, not by all that it was filled up with.
                item = known[name].read(value)
                good.append((label_text(value if known[name].needs else item), {name: item}))
            except ValueError as error:
                faults += _placed(error, (name, i))
        read[name] = tuple(good)
    return Variants({name: value for name, value in clean.items() if name not in read}, read), faults


def _placed(error: ValueError, trail: Trail) -> list[Fault]:
    """What a refused value is wrong in, under the option's own place."""
    if isinstance(error, Faults):
        return [((*trail, *inner), message) for inner, message in error.faults]
    return [(trail, str(error))]


def shown(value: Any) -> str:
    """A value as a matrix has it, cut to a line's length."""
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
        inner = [f"{name}:{label_text(item)}" for name, item in value.items() if name != "use"]
        return "+".join(([str(value["use"])] if "use" in value else []) + inner)
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
        words = [shown(arg) for arg in args]
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    if origin in (list, set, frozenset, Sequence) or (origin is tuple and args[-1:] == (...,)):
        return f"a list{_range(constraints)}, each {describe(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: {', '.join(map(describe, args))}"
    plain = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "text",
        type(None): "null",
        Any: "a value",
    }
    if annotation in plain:
        return plain[annotation] + _range(constraints)
    if (origin or annotation) in (dict, Mapping):
        return "a mapping"
    if annotation in SEQUENCES:
        return f"a list{_range(constraints)}"
    return inspect.formatannotation(annotation)


def _range(constraints: Iterable[Any]) -> str:
    words = {
        "ge": ">= {}",
        "gt": "> {}",
        "le": "<= {}",
        "lt": "< {}",
        "multiple_of": "a multiple of {}",
        "min_length": "with at least {} items",
        "max_length": "with at most {} items",
        "pattern": "matching {}",
    }
    found = []
    for constraint in constraints:
        for item in constraint.metadata if isinstance(constraint, FieldInfo) else [constraint]:
            limits = ((name, getattr(item, name, None)) for name in words)
            found += [words[name].format(label_text(limit)) for name, limit in limits if limit is not None]
    return f" {' and '.join(found)}" if found else ""


def _option(name: str, hint: Any, text: str, default: Any) -> Option:
    needs = _needs(hint)
    if needs:
        text = " | ".join(cls.__name__ for cls in needs)
        choices = f"the name of a {text.replace(' | ', ' or ')}, or `{{use: name, …}}`"
        return Option(name, text, default, choices, False, TypeAdapter[Any](None), needs)
    try:
        adapter = TypeAdapter[Any](hint, config=STRICT)
    except PydanticUserError:  # a dataclass or a model brings its own config
        adapter = TypeAdapter[Any](hint)
    option = Option(name, text, default, describe(hint), _takes_lists(hint), adapter)
    # So that leaving an option out and writing its default give the same config.
    if default is not REQUIRED and option.accepts(default):
        return Option(name, text, option.read(default), option.choices, option.is_list, adapter)
    return option


def _needs(hint: Any) -> tuple[type, ...]:
    """The interfaces that an option's part must have: of `Annotated[Use, Flow]`, or of a tuple of them."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(filter(None, map(_needs, get_args(hint))), ())
    if get_origin(hint) is not Annotated or get_args(hint)[0] != Use:
        return ()
    needs = get_args(hint)[1]
    return needs if isinstance(needs, tuple) else (needs,)


def _guess(default: Any) -> Any:
    """The annotation of an option that has none: its default's type, if that says something."""
    guesses: dict[type, Any] = {bool: bool, int: int | float, float: float, str: str}
    return guesses.get(type(default), Any)


def _source(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(map(_source, get_args(annotation)))
    return "None" if annotation is type(None) else inspect.formatannotation(annotation)


def _takes_lists(hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(map(_takes_lists, args))
    if origin is Annotated:
        return _takes_lists(args[0])
    return (origin or hint) in (*SEQUENCES, Any, object)


def _is(target: Any, base: type) -> bool:
    return isinstance(target, type) and issubclass(target, base)


def _functions(target: Callable[..., Any], name: str) -> Iterator[Callable[..., Any]]:
    """The method on a class and on its bases, or the callable itself."""
    if not isinstance(target, type):
        yield target
        return
    yield from (vars(base)[name] for base in target.__mro__ if name in vars(base) and base is not object)
