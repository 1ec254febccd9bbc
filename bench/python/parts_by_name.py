"""`lb.list_parts` and `lb.create`: the parts that a matrix can name, by their names."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from .. import registry


def list_parts(kind: str, pattern: str = "*") -> list[str]:
    """The sorted names of the usable parts of a kind that fit a pattern: `list_parts("tokenizers", "v*")`.

    Kinds are regularizers, tokenizers, generators, evaluators, datasets, features and references.

    Raises:
        PartError: for an unknown kind.
    """
    return [name for name in registry.names(kind) if fnmatchcase(name, pattern)]


def create(kind: str, name: str, /, **options: Any) -> Any:
    """A new part from its options and the facts that its constructor takes.

        create("regularizers", "kl", spec=LatentSpec(16, 8, (4, 4)), weight=1e-3)

    Raises:
        PartError: the kind, the name or an option is unknown, or an option is missing or has a wrong value.
    """
    from ..options.options import FACTS, check_options

    cls = registry.get(kind, name)
    interfaces = [names for base, names in FACTS.items() if issubclass(cls, base)]
    facts = {fact: value for fact, value in options.items() if any(fact in names for names in interfaces)}
    own = {option: value for option, value in options.items() if option not in facts}
    clean, faults = check_options(cls, own, where=f"bench info {kind} {name}")
    missing = [fact for fact in _required(cls, interfaces) if fact not in facts]
    problems = [message for _, message in faults]
    problems += [f"{fact}=… is missing, which {cls.__name__}'s constructor takes" for fact in missing]
    if problems:
        what = f"{registry.SINGULAR[kind]} {name!r}"
        raise registry.PartError("\n".join(f"{what}: {problem}" for problem in problems))
    return registry.build(kind, name, facts, clean)


def _required(cls: type, interfaces: list[set[str]]) -> list[str]:
    """The facts that a constructor takes and has no default for."""
    import inspect

    parameters = inspect.signature(cls).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and any(parameter.name in names for names in interfaces)
    ]
