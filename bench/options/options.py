"""Options from constructors: the annotations and defaults are the options of a matrix and their ranges."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from .. import registry
from ..api import Generator, ReferenceSource, Regularizer, Tokenizer
from ..registry import PartError, Use, unknown
from .plain_data import plain
from .words import SEQUENCES, SHOWN, describe, shown

# Arguments that the frame passes to a constructor by name; they are no options of a matrix.
FACTS: dict[type, set[str]] = {
    Tokenizer: {"image", "expansion", "extra", "dataset"},
    Regularizer: {"spec", "classes", "teacher_spec", "reference_spec", "reference_classes"},
    Generator: {"spec", "classes", "teacher_spec"},
    ReferenceSource: {"image", "teacher_spec"},
}
REQUIRED = inspect.Parameter.empty
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
SIZE = "size"  # stands for options by a published name

Trail = tuple[str | int, ...]  # keys and list indices, from the top
Fault = tuple[Trail, str]  # the place below the options, and the message


class OptionError(ValueError):
    """A value that an option does not take; `faults` are the places inside the value with their messages."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(message for _, message in faults))
        self.faults = faults

    def below(self, *trail: str | int) -> list[Fault]:
        """The faults with their places below a trail."""
        return [((*trail, *inner), message) for inner, message in self.faults]


@dataclass(frozen=True)
class Option:
    """One option as its annotation describes it."""

    name: str
    annotation: str  # as in the source, e.g. "tuple[int, ...]"
    default: Any  # REQUIRED without one
    choices: str  # in words, e.g. "a number >= 0"
    is_list: bool = field(repr=False)  # a list can be one value
    adapter: TypeAdapter[Any] = field(repr=False)
    needs: tuple[type, ...] = field(default=(), repr=False)  # interfaces, of which a named part has one

    def read(self, value: Any) -> Any:
        """The value as the constructor takes it: a tuple for a list, a float for an int where it says float.

        Raises:
            OptionError: naming the value and the choices.
        """
        left_out = value is None and self.default is None
        if self.needs and not left_out:
            return self._read_part(value)
        refusal = f"{self.name} must be {self.choices}, not {shown(value)}"
        try:
            # Strict JSON is what YAML means: no bool for an int, no text for a number, but lists for tuples.
            checked = self.adapter.validate_json(json.dumps(value, default=str), strict=True)
        except ValueError as error:  # pydantic's, or json's of an integer beyond 4,300 digits
            errors = error.errors() if isinstance(error, ValidationError) else []
            causes = [item for item in errors if item["type"] == "value_error"]
            why = f" ({causes[0]['ctx']['error']})" if causes else ""
            raise OptionError(((), refusal + why)) from None
        if isinstance(value, bool) and not isinstance(checked, bool):  # Literal[0, 1] takes True
            raise OptionError(((), refusal))
        return checked

    @property
    def filled(self) -> Any:
        """The default as `read` returns it: a part with all of its options."""
        return self.read(self.default) if self.needs else self.default

    def accepts(self, value: Any) -> bool:
        """Whether `read` takes the value."""
        try:
            self.read(value)
        except ValueError:
            return False
        return True

    def is_axis(self, value: Any) -> bool:
        """Whether a value is a list of values: no value itself; where lists are values, a list of lists."""
        if not isinstance(value, list) or self.accepts(value):
            return False
        if not self.is_list:
            return True
        return any(isinstance(item, list) for item in value) or all(self.accepts(item) for item in value)

    def _read_part(self, value: Any) -> dict[str, Any]:
        """`tarflow`, `{use: tarflow, width: 64}` or `{tarflow: {width: 64}}` as `{"use": "tarflow", …}`.

        Every option of that part is in the result. Options that are left out are the option's own default's,
        if that is the same part: `{width: 64}` changes only the default's width.
        """
        chosen, default = ({"use": v} if isinstance(v, str) else v for v in (value, self.default))
        if not isinstance(chosen, Mapping):
            raise OptionError(((), f"{self.name} must be {self.choices}, not {shown(value)}"))
        kept = default if isinstance(default, Mapping) else {}
        kind = registry.kind_of(self.needs[0])
        name = chosen.get("use", kept.get("use"))
        if _is_name_with_options(chosen, kind, name):
            ((name, inner),) = chosen.items()
            if not isinstance(inner, Mapping | None):
                raise OptionError(((name,), f"{name} must be a mapping of options, not {shown(inner)}"))
            try:
                return self._read_part({"use": name, **(inner or {})})
            except OptionError as error:
                faults = [(trail[1:] if trail == ("use",) else trail, why) for trail, why in error.faults]
                raise OptionError(*(((name, *trail), why) for trail, why in faults)) from None
        if not isinstance(name, str):
            raise OptionError((("use",), f"{self.name} needs a `use`: {self.choices}"))
        try:
            cls = registry.get(kind, name)
        except PartError as error:
            raise OptionError((("use",), str(error))) from None
        if not issubclass(cls, self.needs):
            fitting = [n for n in registry.names(kind) if issubclass(registry.get(kind, n), self.needs)]
            message = f"{self.name} must be {self.choices}, and {name!r} is none; {', '.join(fitting)} are"
            raise OptionError((("use",), message))
        where = f"bench info {kind} {name}"
        # A size that is written wins over the default's options, so both sizes are replaced first.
        kept, _ = sized(cls, kept if kept.get("use") == name else {})
        chosen, unknown_size = sized(cls, chosen, where)
        options = {key: item for key, item in {**kept, **chosen}.items() if key != "use"}
        clean, faults = check_options(cls, options, where=where)
        if faults or unknown_size:
            raise OptionError(*unknown_size, *faults)
        return {"use": name, **clean}


def _is_name_with_options(chosen: Mapping[str, Any], kind: str, default: Any) -> bool:
    """Whether a mapping is `{kl: {weight: 0.1}}`, and not options of the default part alone."""
    if len(chosen) != 1 or "use" in chosen:
        return False
    ((name, inner),) = chosen.items()
    if isinstance(default, str) and name in options_of(registry.get(kind, default)):
        return False
    return isinstance(inner, Mapping) or name in registry.sources(kind)


@cache
def options_of(target: Callable[..., Any], method: str = "") -> dict[str, Option]:
    """The options of a part or of any callable; with a method, the keyword-only arguments of that method.

    Where a constructor passes `**options` on, its base's options follow.
    """
    facts = next((names for base, names in FACTS.items() if _extends(target, base)), set[str]())
    options: dict[str, Option] = {}
    for function in _functions(target, method or "__init__"):
        try:
            hints, bare = get_type_hints(function, include_extras=True), get_type_hints(function)
        except (NameError, TypeError) as error:
            name = getattr(target, "__name__", str(target))
            raise PartError(f"the annotations of {name} cannot be read: {error}") from error
        parameters = list(inspect.signature(function).parameters.values())
        kinds: list[Any] = [inspect.Parameter.KEYWORD_ONLY]
        if not method:
            kinds.append(inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for parameter in parameters[1:] if isinstance(target, type) else parameters:  # without self
            name, default = parameter.name, parameter.default
            if parameter.kind in kinds and name not in facts and name not in options:
                guess = _type_of_default(default)
                options[name] = _option(name, hints.get(name, guess), bare.get(name, guess), default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return options


def check_options(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    method: str = "",
    also: Iterable[str] = (),
    given: Collection[str] = (),
    where: str = "",
) -> tuple[dict[str, Any], list[Fault]]:
    """Every option with its value or its default, and all faults of the values in `options`.

    Args:
        also: further names that a misspelt one may have meant.
        given: names of options whose values are elsewhere: they are not missing.
        where: the command that explains the options, for messages.
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
        except OptionError as error:
            faults += error.below(name)
    for name, option in known.items():
        if name not in clean and name not in options and name not in given:
            faults.append(((), f"the option {name!r} is missing; it must be {option.choices}"))
    for name, value in clean.items():
        try:
            plain(value)
        except TypeError as error:
            faults.append(((name,) if name in options else (), f"the option {name!r}: {error}"))
    return clean, faults


def sizes_of(target: Callable[..., Any]) -> Mapping[str, Mapping[str, Any]]:
    """Published names for sets of options; none where `size` is an option itself."""
    if SIZE in options_of(target) or not (_extends(target, Generator) or _extends(target, Tokenizer)):
        return {}
    return target.sizes  # type: ignore[attr-defined]


def names_of(target: Callable[..., Any], method: str = "") -> list[str]:
    """The keys that a matrix may write: the options and, where there are sizes, `size`."""
    names = list(options_of(target, method))
    if not method and sizes_of(target):
        names.append(SIZE)
    return names


def sized(
    target: Callable[..., Any], options: Mapping[str, Any], where: str = ""
) -> tuple[Mapping[str, Any], list[Fault]]:
    """The options with `size` replaced by the options that it stands for; those written beside it win."""
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


def _option(name: str, hint: Any, bare: Any, default: Any) -> Option:
    """An option from its annotation, with and without `Annotated`."""
    needs = _interfaces(hint)
    if needs:
        names = [cls.__name__ for cls in needs]
        choices = f"the name of a {' or '.join(names)}, `{{name: {{…}}}}` or `{{use: name, …}}`"
        return Option(name, " | ".join(names), default, choices, False, TypeAdapter[Any](None), needs)
    try:
        adapter = TypeAdapter[Any](hint, config=STRICT)
    except PydanticUserError:  # a dataclass or a model brings its own config
        adapter = TypeAdapter[Any](hint)
    option = Option(name, _source(bare), default, describe(hint), _takes_lists(hint), adapter)
    # The default is read too, so that leaving an option out and writing its default give the same config.
    if default is not REQUIRED and option.accepts(default):
        option = replace(option, default=option.read(default))
    return option


def _interfaces(hint: Any) -> tuple[type, ...]:
    """(Flow,) for `Annotated[Use, Flow]`, which a tuple of interfaces may stand in; () without `Use`."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(filter(None, map(_interfaces, get_args(hint))), ())
    if get_origin(hint) is not Annotated or get_args(hint)[0] != Use:
        return ()
    needs = get_args(hint)[1]
    return needs if isinstance(needs, tuple) else (needs,)


def _type_of_default(default: Any) -> Any:
    """The annotation of an option that has none: its default's type, or Any."""
    types_of: dict[type, Any] = {bool: bool, int: int | float, float: float, str: str}
    return types_of.get(type(default), Any)


def _source(annotation: Any) -> str:
    """An annotation as a source file writes it: "int | None"."""
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


def _extends(target: Any, base: type) -> bool:
    return isinstance(target, type) and issubclass(target, base)


def _functions(target: Callable[..., Any], name: str) -> Iterator[Callable[..., Any]]:
    """The method of a class and of its bases, or the callable itself."""
    if not isinstance(target, type):
        yield target
        return
    yield from (vars(base)[name] for base in target.__mro__ if name in vars(base) and base is not object)
