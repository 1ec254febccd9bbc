"""Checks the values of a document and collects the problems; `raise_problems` raises all of them at once.

A message comes from `check_options` (values of options), `registry` (names of parts), or the function that
reads the section (in `parts.py` or `top_level.py`); `report` adds the line and column of the value. Problems
that only a part's constructor finds follow in `plan/meta_parts.py`. `cli/open_plan.py` prints them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .. import registry
from ..options.options import Fault, Trail, check_options, names_of
from ..options.words import shown
from .keys import KEYS
from .matrix import Position
from .settings import Budget
from .yaml_text import Document, MatrixError, Problem


class Checker:
    """A document with its profiles applied, and the problems found so far."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.data: dict[str, Any] = dict(document.data)
        self.problems: list[Problem] = []
        self.flags: dict[str, str] = {}  # top-level key -> the command-line flag that replaces its value

    def report(self, trail: Trail, message: str, on_key: bool = False) -> None:
        """Adds a problem at a value, or at its key."""
        flag = self.flags.get(str(trail[0])) if trail else None
        problem = Problem(flag, 0, 0, message) if flag else self.document.problem(trail, message, on_key)
        self.problems.append(problem)

    def report_all(self, faults: Iterable[Fault], trail: Trail, known: Collection[Any]) -> None:
        """Adds faults of the options below a trail: at a value if its name is known, otherwise at its key."""
        for inner, message in faults:
            self.report((*trail, *inner), message, on_key=not inner or inner[0] not in known)

    def checked_options(
        self, target: Any, options: Mapping[str, Any], trail: Trail, method: str = "", **more: Any
    ) -> dict[str, Any]:
        """The options of a constructor or method with its defaults; reports those that are wrong."""
        try:
            clean, faults = check_options(target, options, method=method, **more)
        except registry.PartError as error:
            self.report(trail, str(error))
            return {}
        self.report_all(faults, trail, names_of(target, method))
        return clean

    def explicit_options(
        self, target: Any, options: Mapping[str, Any], trail: Trail, **more: Any
    ) -> dict[str, Any]:
        """The options that are written and not null, without the defaults of the others."""
        options = {name: value for name, value in options.items() if value is not None}
        clean = self.checked_options(target, options, trail, **more)
        return {name: clean[name] for name in options if name in clean}

    def mapping(self, trail: Trail, parent: Mapping[str, Any], what: str) -> dict[str, Any]:
        """The mapping that `parent` has under the last key of the trail; empty if there is none."""
        value = parent.get(str(trail[-1]))
        return value if value is not None and self.is_mapping(trail, value, what) else {}

    def is_mapping(self, trail: Trail, value: Any, what: str) -> bool:
        """Whether a value is a mapping; reports it otherwise, saying `what` it must be."""
        if not isinstance(value, dict):
            key = next(key for key in reversed(trail) if isinstance(key, str))
            self.report(trail, f"{key} must be {what}, not {shown(value)}")
        return isinstance(value, dict)

    def part_class(self, kind: str, name: Any, trail: Trail, on_key: bool = False) -> type | None:
        """The class of a part; reports an unknown name and returns None."""
        if not isinstance(name, str):
            self.report(trail, f"`use` names a {registry.SINGULAR[kind]}; it must be text, not {shown(name)}")
            return None
        try:
            return registry.get(kind, name)
        except registry.PartError as error:
            self.report(trail, str(error), on_key)
            return None

    def position(self, trail: Trail) -> Position:
        """The file, line and column of a key."""
        return self.document.problem(trail, "", on_key=True).position

    def apply_profiles(self, chosen: Sequence[str]) -> None:
        """Checks every profile's keys, and lays the chosen ones over the document, one after the other."""
        profiles = self.mapping(("profiles",), self.data, "a mapping from names to keys of a matrix")
        self.data.pop("profiles", None)
        allowed = [key for key in KEYS if key not in ("name", "profiles")]
        for name, profile in profiles.items():
            trail = ("profiles", name)
            if not self.is_mapping(trail, profile, "a mapping of keys of a matrix"):
                continue
            for key in profile:
                if key not in allowed:
                    message = registry.unknown("key of a profile", key, allowed)
                    self.report((*trail, key), message, on_key=True)
            budget = profile.get("budget")
            if isinstance(budget, dict) and name not in chosen:
                self.checked_options(Budget, budget, (*trail, "budget"))
        for name in chosen:
            if name not in profiles:
                message = registry.unknown("profile", name, list(profiles))
                self.problems.append(Problem("--profile", 0, 0, message))
            elif isinstance(profiles[name], dict):
                self._overlay(name, {key: value for key, value in profiles[name].items() if key in KEYS})

    def _overlay(self, name: str, profile: dict[str, Any]) -> None:
        """Merges budgets key by key and replaces every other key; problems then point into the profile."""
        old_budget, budget = self.data.get("budget"), profile.get("budget")
        if isinstance(old_budget, dict) and isinstance(budget, dict):
            profile = profile | {"budget": old_budget | budget}
        self.data |= profile
        self.document = self.document.with_profile(name, self.data)

    def raise_problems(self, warnings: Iterable[Problem]) -> None:
        """Raises MatrixError with all problems and warnings if there is a problem."""
        refused = {problem.position for problem in self.document.problems}
        # The YAML reader has refused these values already; further messages about them only follow from that.
        problems = [problem for problem in self.problems if problem.position not in refused]
        if problems or self.document.problems:
            raise MatrixError([*self.document.problems, *problems, *warnings])
