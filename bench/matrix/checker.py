"""One pass over a document that checks its values and collects what is wrong with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .. import registry
from ..options.options import Trail, check_options, names_of, shown
from .matrix import SECTIONS, Position
from .settings import Budget
from .yaml_text import Document, MatrixError, Problem

KEYS = (
    *("name", "dataset", "seeds", "budget", "features", "teacher", "reference", "reconstruction", "samples"),
    *(*SECTIONS, "evaluators", "probes", "skip", "profiles", "plugins", "augment", "normalise"),
    *("threads", "precision", "compile", "checkpointing"),
)


class Checker:
    """A document, what its profile puts over it, and the problems found so far."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.data: dict[str, Any] = dict(document.data)
        self.problems: list[Problem] = []
        self.elsewhere: dict[str, str] = {}  # top-level key -> what gives it in place of the document

    def fault(self, trail: Trail, message: str, on_key: bool = False) -> None:
        other = self.elsewhere.get(str(trail[0])) if trail else None
        problem = Problem(other, 0, 0, message) if other else self.document.problem(trail, message, on_key)
        self.problems.append(problem)

    def faults(self, faults: Iterable[tuple[Trail, str]], trail: Trail, known: Collection[Any]) -> None:
        for inner, message in faults:
            self.fault((*trail, *inner), message, on_key=not inner or inner[0] not in known)

    def options(
        self, target: Any, options: Mapping[str, Any], trail: Trail, method: str = "", **more: Any
    ) -> dict[str, Any]:
        """Checked options; what is wrong is noted."""
        try:
            clean, faults = check_options(target, options, method=method, **more)
        except registry.PartError as error:
            self.fault(trail, str(error))
            return {}
        self.faults(faults, trail, names_of(target, method))
        return clean

    def given(self, target: Any, options: Mapping[str, Any], trail: Trail, **more: Any) -> dict[str, Any]:
        """Checked options without the defaults of the others; null is not given."""
        options = {name: value for name, value in options.items() if value is not None}
        clean = self.options(target, options, trail, **more)
        return {name: clean[name] for name in options if name in clean}

    def mapping(self, trail: Trail, what: str) -> dict[str, Any]:
        """A top-level mapping, empty if there is none."""
        value = self.data.get(str(trail[0]))
        return value if value is not None and self.is_mapping(trail, value, what) else {}

    def is_mapping(self, trail: Trail, value: Any, what: str) -> bool:
        if not isinstance(value, dict):
            key = next(key for key in reversed(trail) if isinstance(key, str))
            self.fault(trail, f"{key} must be {what}, not {shown(value)}")
        return isinstance(value, dict)

    def part(self, kind: str, name: Any, trail: Trail, on_key: bool = False) -> type | None:
        if not isinstance(name, str):
            self.fault(trail, f"`use` names a {registry.SINGULAR[kind]}; it must be text, not {shown(name)}")
            return None
        try:
            return registry.get(kind, name)
        except registry.PartError as error:
            self.fault(trail, str(error), on_key)
            return None

    def place(self, trail: Trail) -> Position:
        """Of a key."""
        problem = self.document.problem(trail, "", on_key=True)
        return problem.file, problem.line, problem.column

    def profiles(self, chosen: Sequence[str]) -> None:
        """Checks every profile's keys, and lays the chosen ones over the document, one after the other."""
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
            if isinstance(budget, dict) and name not in chosen:
                self.options(Budget, budget, (*trail, "budget"))
        for name in chosen:
            if name not in found:
                message = registry.unknown("profile", name, list(found))
                self.problems.append(Problem("--profile", 0, 0, message))
            elif isinstance(found[name], dict):
                self.overlay(name, {key: value for key, value in found[name].items() if key in KEYS})

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

    def finish(self, warnings: Iterable[Problem]) -> None:
        """Raises MatrixError if anything is wrong."""
        refused = {(problem.line, problem.column) for problem in self.document.problems}
        # What couldn't be read as meant has its message; what follows from it needs none.
        own = [problem for problem in self.problems if (problem.line, problem.column) not in refused]
        if own or self.document.problems:
            raise MatrixError([*self.document.problems, *own, *warnings])
