"""A contract test for somebody's new part: what every part of its kind promises, and one small cell."""

from __future__ import annotations

import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from .. import registry
from ..api import Unfit
from ..contracts import datasets, evaluators, features, generators, references, regularizers, tokenizers
from ..contracts.common import BrokenPromise, NotApplicable, Part
from ..options.options import check_options
from ..report.summary import terminal_summary
from ..store.user_paths import user_path
from ..user_error import UserError
from . import small_cell
from .small_cell import SmallRun, Target

CONTRACTS: Mapping[str, ModuleType] = {
    "regularizers": regularizers,
    "tokenizers": tokenizers,
    "generators": generators,
    "evaluators": evaluators,
    "datasets": datasets,
    "features": features,
    "references": references,
}
CELL = "A small cell runs, from a matrix to a leaderboard"
FITS = "It can be built"
COMPUTED = ("regularizers", "tokenizers", "generators", "features")  # on a device that may be chosen
BOUND = ("evaluators", "features")  # may be for points or densities alone, and say so by an error
RING = {"use": "ring", "count": 512, "val": 128}


class CheckError(UserError):
    """A command line that names nothing to check."""


def options(texts: Iterable[str]) -> dict[str, Any]:
    """Options from the command line, such as `weight=0.1`, with values as a matrix would have them."""
    parsed: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CheckError(f"-o takes NAME=VALUE, not {text!r}")
        try:
            parsed[name] = json.loads(value)  # 1e-3 is a number, which YAML reads as text
        except ValueError:
            parsed[name] = yaml.safe_load(value)
    return parsed


def targets(what: str, options: Mapping[str, Any], plugins: Sequence[Path] = ()) -> list[Target]:
    """The parts that `what` names: those of a plugin file, or a NAME, or KIND/NAME.

    Raises:
        CheckError, registry.PartError: it names none, or several that share the options.
    """
    plugins = [user_path(plugin) for plugin in plugins]
    for plugin in plugins:
        registry.load_plugin(plugin)
    file = user_path(what)
    if file.suffix == ".py" or file.is_file() or (file / "__init__.py").is_file():
        plugins = [*plugins, file]
        parts = _parts_in(file)
    else:
        parts = _named(what)
    if len(parts) > 1 and options:
        names = ", ".join(f"{kind}/{name}" for kind, name in parts)
        raise CheckError(f"-o is for one part, not for {names}; name one, with --plugin {what}")
    return [_target(kind, name, options, [plugin.resolve() for plugin in plugins]) for kind, name in parts]


def _parts_in(file: Path) -> list[tuple[str, str]]:
    sources = registry.load_plugin(file)
    if not sources:
        raise CheckError(f"{file} registers no part: put @register('name') above the class")
    for source in sources:
        if source.problem is not None:
            raise CheckError(f"{file} cannot be used: {source.problem}")
    return [(source.kind, source.name) for source in sources]


def _named(what: str) -> list[tuple[str, str]]:
    kind, _, name = what.rpartition("/")
    kind = next((plural for plural, singular in registry.SINGULAR.items() if kind == singular), kind)
    kinds = [kind] if kind else list(registry.FOLDERS)
    parts = [(k, name) for k in kinds if name in registry.sources(k)]
    if len(parts) > 1:
        choices = ", ".join(f"{k}/{name}" for k, _ in parts)
        raise CheckError(f"{name!r} is the name of several parts: say which of {choices}")
    if not parts:
        known = [n for k in kinds for n in registry.names(k)]
        raise CheckError(registry.unknown("part", name, known, f"bench list {kind}".strip()))
    return parts


def _target(kind: str, name: str, options: Mapping[str, Any], plugins: Sequence[Path]) -> Target:
    clean, faults = check_options(registry.get(kind, name), options, where=f"bench info {kind} {name}")
    if faults:
        raise CheckError("; ".join(message for _, message in faults))
    return Target(Part(kind, name, clean), options, plugins)


@dataclass(frozen=True)
class Promise:
    """The outcome for one promise: kept (True), broken (False) or of no concern (None), and why."""

    promise: str
    ok: bool | None
    found: str
    trace: str = ""

    @property
    def text(self) -> str:
        return f"{self.promise:<54} {self.found}".rstrip()


@dataclass
class Verdict:
    """The outcomes of one part's checks, as they come, and at the end its rows of the leaderboard."""

    target: Target
    device: str = "cpu"
    found: list[Promise] = field(default_factory=list)
    rows: str = ""
    seconds: float = 0.0
    run: SmallRun | None = None

    @property
    def passed(self) -> bool:
        return all(promise.ok is not False for promise in self.found)

    @property
    def summary(self) -> str:
        kept, broken, beside = (sum(p.ok is ok for p in self.found) for ok in (True, False, None))
        return f"{kept} kept, {broken} broken, {beside} of no concern, in {self.seconds:.0f} s"

    def plain(self) -> dict[str, Any]:
        """The verdict as JSON data."""
        part = self.target.part
        about = {"kind": part.kind, "name": part.name, "file": str(self.target.file), "passed": self.passed}
        checks = [{"promise": p.promise, "ok": p.ok, "found": p.found} for p in self.found]
        return about | {"seconds": self.seconds, "checks": checks, "leaderboard": self.rows}

    def lines(self) -> Iterator[Promise]:
        """Runs all checks in turn."""
        began = time.monotonic()
        checks = self._evaluator_checks if self.target.part.kind == "evaluators" else self._checks
        for promise in checks():
            self.found.append(promise)
            self.seconds = time.monotonic() - began
            yield promise

    def _checks(self) -> Iterator[Promise]:
        contract = CONTRACTS[self.target.part.kind]
        scene, fits = _first_that_fits(self.target.part, contract, self.device)
        yield fits
        if scene is not None:
            yield from (look(check.__doc__ or "", check, scene) for check in contract.CHECKS)
            with tempfile.TemporaryDirectory() as folder:
                yield look(CELL, self._run_cell, Path(folder))

    def _evaluator_checks(self) -> Iterator[Promise]:
        """The cell is run first: evaluators are checked on what it trained."""
        with tempfile.TemporaryDirectory() as folder:
            cell = look(CELL, self._run_cell, Path(folder))
            subjects = () if self.run is None else small_cell.subjects(self.target, self.run, self.device)
            checks = evaluators.STATIC if self.run is None else evaluators.CHECKS
            scene = evaluators.Scene(self.target.part, subjects)
            yield from (look(check.__doc__ or "", check, scene) for check in checks)
            yield cell

    def _run_cell(self, folder: Path) -> str:
        """Runs a cell on digits, or on points where the part doesn't fit digits."""
        kind, note = self.target.part.kind, ""
        try:
            self.run = small_cell.run_target(self.target, folder, device=self.device)
        except (BrokenPromise, NotApplicable) as reason:
            if kind == "datasets" or (isinstance(reason, BrokenPromise) and kind not in BOUND):
                raise
            try:
                self.run = small_cell.run_target(self.target, folder, RING, self.device)
            except (BrokenPromise, NotApplicable):
                raise reason from None
            note = f"; on digits: {reason}"
        self.rows = terminal_summary(self.run.records)
        return f"on {self.run.records[0].cell['dataset']}{note}"


def look(promise: str, check: Callable[..., str | None], *about: Any) -> Promise:
    """Runs one check; any exception of a part is an outcome, as in a cell of a run."""
    promise = promise.split("\n")[0]
    try:
        return Promise(promise, True, check(*about) or "")
    except NotApplicable as reason:
        return Promise(promise, None, str(reason))
    except BrokenPromise as reason:
        return Promise(promise, False, str(reason))
    except Exception as error:
        return Promise(promise, False, _where(error), traceback.format_exc())


def _where(error: Exception) -> str:
    """The error, and the innermost line outside the frame and installed packages that it comes from."""
    frame, trace, inner = Path(__file__).parent.parent, error.__traceback__, ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_file() and frame not in file.parents and "site-packages" not in file.parts:
            inner = f"{file}:{trace.tb_lineno}: "
        trace = trace.tb_next
    message = str(error).strip().splitlines()[0] if str(error) else ""
    return f"{inner}{type(error).__name__}: {message}"


def _first_that_fits(part: Part, contract: ModuleType, device: str) -> tuple[Any, Promise]:
    """The part built for the first of the contract's settings that it fits, or None; and the outcome."""
    reason, where = "", {"device": device} if part.kind in COMPUTED else {}
    for setting in contract.SETTINGS:
        try:
            return contract.Scene(part, setting, **where), Promise(
                FITS, True, "" if setting is None else str(setting)
            )
        except Unfit as error:
            reason = str(error)
        except BrokenPromise as error:
            return None, Promise(FITS, False, str(error))
        except Exception as error:
            reason = _where(error)
    return None, Promise(FITS, False, f"none fits: {reason}")
