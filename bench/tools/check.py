"""A contract test for somebody's new part: what every part of its kind promises, and one small cell."""

from __future__ import annotations

import json
import math
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
from ..api import Dataset, Noise, Unfit
from ..contracts import datasets, evaluators, features, generators, references, regularizers, tokenizers
from ..contracts.common import Beside, Broken, Part
from ..engine import run, run_options
from ..matrix.load import load_matrix
from ..matrix.yaml_text import MatrixError
from ..models.build import dataset as dataset_of
from ..models.build import extractor as extractor_of
from ..options.options import check_options
from ..plan.make import make_plan
from ..records.record import Record
from ..report.summary import terminal_summary
from ..stages.subject import Subject
from ..store import stage
from ..store.artifacts import Store
from ..user_error import UserError

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
MOST = 6000  # images of a dataset for which a cell is played
STEPS = 12
BOUND = ("evaluators", "features")  # may be for points or densities alone, and say so by an error
RING = {"use": "ring", "count": 512, "val": 128}


class CheckError(UserError):
    """Nothing that could be checked."""


@dataclass(frozen=True)
class Promise:
    """A promise that is kept (True), broken (False) or of no concern (None): what was found, what to do."""

    promise: str
    ok: bool | None
    found: str
    trace: str = ""

    @property
    def text(self) -> str:
        return f"{self.promise:<54} {self.found}".rstrip()


@dataclass(frozen=True)
class Target:
    """A part to check: its options as given, and the plugin file that it comes from, if any."""

    part: Part
    given: Mapping[str, Any]
    plugins: Sequence[Path]

    @property
    def file(self) -> Path:
        return registry.sources(self.part.kind)[self.part.name].file


def options(texts: Iterable[str]) -> dict[str, Any]:
    """Options as the command line has them, `weight=0.1`, with values as a matrix would have them."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CheckError(f"-o takes NAME=VALUE, not {text!r}")
        try:
            found[name] = json.loads(value)  # 1e-3 is a number, which YAML reads as text
        except ValueError:
            found[name] = yaml.safe_load(value)
    return found


def targets(what: str, options: Mapping[str, Any], plugins: Sequence[Path] = ()) -> list[Target]:
    """The parts that `what` stands for: those of a plugin file, or a NAME, or KIND/NAME.

    Raises:
        CheckError, registry.PartError: it stands for none, or for several that share the options.
    """
    for plugin in plugins:
        registry.load_plugin(plugin)
    file = Path(what)
    if file.suffix == ".py" or file.is_file():
        plugins = [*plugins, file]
        found = [(source.kind, source.name, source.problem) for source in registry.load_plugin(file)]
        if not found:
            raise CheckError(f"{what} registers no part: put @register('name') above the class")
        for _, _, problem in found:
            if problem is not None:
                raise CheckError(f"{what} cannot be used: {problem}")
    else:
        found = [(kind, name, None) for kind, name in _named(what)]
    if len(found) > 1 and options:
        listed = ", ".join(f"{kind}/{name}" for kind, name, _ in found)
        raise CheckError(f"-o is for one part, not for {listed}; name one, with --plugin {what}")
    return [_target(kind, name, options, [p.resolve() for p in plugins]) for kind, name, _ in found]


def _named(what: str) -> list[tuple[str, str]]:
    kind, _, name = what.rpartition("/")
    kind = next((k for k, one in registry.SINGULAR.items() if kind == one), kind)
    kinds = [kind] if kind else list(registry.FOLDERS)
    found = [(k, name) for k in kinds if name in registry.sources(k)]
    if len(found) > 1:
        choices = ", ".join(f"{k}/{name}" for k, _ in found)
        raise CheckError(f"{name!r} is the name of several parts: say which of {choices}")
    if not found:
        known = [n for k in kinds for n in registry.names(k)]
        raise CheckError(registry.unknown("part", name, known, f"bench list {kind}".strip()))
    return found


def _target(kind: str, name: str, options: Mapping[str, Any], plugins: Sequence[Path]) -> Target:
    clean, faults = check_options(registry.get(kind, name), options, where=f"bench info {kind} {name}")
    if faults:
        raise CheckError("; ".join(message for _, message in faults))
    return Target(Part(kind, name, clean), options, plugins)


@dataclass
class Verdict:
    """The lines of one part, as they are found, and at the end its rows of the leaderboard."""

    target: Target
    found: list[Promise] = field(default_factory=list)
    rows: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return all(line.ok is not False for line in self.found)

    @property
    def summary(self) -> str:
        kept, broken, beside = (sum(line.ok is ok for line in self.found) for ok in (True, False, None))
        return f"{kept} kept, {broken} broken, {beside} of no concern, in {self.seconds:.0f} s"

    def plain(self) -> dict[str, Any]:
        """For machines."""
        part = self.target.part
        about = {"kind": part.kind, "name": part.name, "file": str(self.target.file), "passed": self.passed}
        lines = [{"promise": line.promise, "ok": line.ok, "found": line.found} for line in self.found]
        return about | {"seconds": self.seconds, "checks": lines, "leaderboard": self.rows}

    def lines(self) -> Iterator[Promise]:
        """All checks in turn."""
        began = time.monotonic()
        for line in self._lines():
            self.found.append(line)
            self.seconds = time.monotonic() - began
            yield line

    def _lines(self) -> Iterator[Promise]:
        part = self.target.part
        contract = CONTRACTS[part.kind]
        if part.kind != "evaluators":
            scene, fits = _first_that_fits(part, contract)
            yield fits
            if scene is not None:
                yield from (look(check.__doc__ or "", check, scene) for check in contract.CHECKS)
                yield look(CELL, self._play)
            return
        with tempfile.TemporaryDirectory() as folder:
            played = look(CELL, self._play, Path(folder))
            subjects = _subjects(Path(folder), self.target) if played.ok else ()
            scene = evaluators.Scene(part, subjects)
            checks = evaluators.CHECKS if played.ok else evaluators.STATIC
            yield from (look(check.__doc__ or "", check, scene) for check in checks)
            yield played

    def _play(self, folder: Path | None = None) -> str:
        if folder is None:
            with tempfile.TemporaryDirectory() as scratch:
                return self._play(Path(scratch))
        kind, other = self.target.part.kind, ""
        try:
            found = play(self.target, folder)
        except (Broken, Beside) as reason:
            if kind == "datasets" or (isinstance(reason, Broken) and kind not in BOUND):
                raise
            try:
                found, other = play(self.target, folder, RING), f"; on digits: {reason}"
            except (Broken, Beside):
                raise reason from None
        self.rows = terminal_summary(found)
        return f"on {found[0].cell['dataset']}{other}"


def look(promise: str, check: Callable[..., str | None], *about: Any) -> Promise:
    """One check; whatever a part fails with is its answer, as at the edge of a cell."""
    promise = promise.split("\n")[0]
    try:
        return Promise(promise, True, check(*about) or "")
    except Beside as reason:
        return Promise(promise, None, str(reason))
    except Broken as reason:
        return Promise(promise, False, str(reason))
    except Exception as error:
        return Promise(promise, False, _where(error), traceback.format_exc())


def _where(error: Exception) -> str:
    """What failed, and the line outside the frame that it comes from."""
    frame, trace, inner = Path(__file__).parent.parent, error.__traceback__, ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_file() and frame not in file.parents and "site-packages" not in file.parts:
            inner = f"{file}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return f"{inner}{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def _first_that_fits(part: Part, contract: ModuleType) -> tuple[Any, Promise]:
    reason = ""
    for setting in contract.SETTINGS:
        try:
            return contract.Scene(part, setting), Promise(FITS, True, "" if setting is None else str(setting))
        except Unfit as error:
            reason = str(error)
        except Broken as error:
            return None, Promise(FITS, False, str(error))
        except Exception as error:
            reason = _where(error)
    return None, Promise(FITS, False, f"none fits: {reason}")


# --- a small cell -------------------------------------------------------------------------------------------


def play(target: Target, folder: Path, data: Mapping[str, Any] | None = None) -> list[Record]:
    """The records of a small matrix around a part, on digits or other data, made in a folder by a worker.

    Raises:
        Beside: the part can't be in a small one. Broken: with the reason of a failed cell.
    """
    file = folder / "check.yaml"
    file.write_text(json.dumps(small(target, data or {"use": "digits"})))
    try:
        loaded = load_matrix(file)
        made = make_plan(loaded)
        store, options = Store(folder / ".bench"), run_options.RunOptions(folder / "results", 1)
        found = run.run(loaded, made, made.cells, store, options, lambda _: None, lambda *_: None)
    except MatrixError as error:
        raise Broken("; ".join(problem.message for problem in error.problems)) from error
    except run_options.RunError as error:
        raise Broken(str(error)) from error
    mine = [record for record in found if target.part.name in record.cell.values()] or found
    failed = [str(record.reason) for record in mine if record.status == "failed"]
    if failed:
        raise Broken(failed[0])
    skipped = [str(record.reason) for record in mine if record.status == "skipped"]
    if skipped:
        raise Beside(f"it is skipped: {skipped[0]}")
    return found


def small(target: Target, data: Mapping[str, Any]) -> dict[str, Any]:
    """A matrix of a few steps with the part in its place, beside what it is held against."""
    part, options = target.part, dict(target.given)
    if part.kind == "datasets":
        data = {"use": part.name, **options}
    built: Dataset = registry.use(Dataset, data)
    size = sum(built.size(split) for split in datasets.SPLITS)
    if size > MOST:
        raise Beside(f"{size:,} images are too many for half a minute; with fewer (-o) it would be played")
    point = built.image.height * built.image.width < 3
    side = math.gcd(built.image.height, built.image.width)
    vit = {"width": 16, "depth": 1, "heads": 2, "patch": max(1, side // 2), "channels": 4}
    found: dict[str, Any] = {
        "name": "check",
        "dataset": dict(data),
        "budget": {"tokenizer_steps": STEPS, "generator_steps": STEPS, "prior_steps": STEPS, "batch": 16},
        "features": {"use": "coordinates"} if point else {"use": "effnet_lite0", "resolution": 32},
        "reference": {"use": "teacher"},
        "samples": 64,
        "tokenizers": {"points": {"count": 64}} if point else {"vit": vit},
        "regularizers": {"none": {}},
        "generators": {"gaussian": {}},
        "evaluators": ["reconstruction", "generation", "cost"],
        "plugins": [str(plugin) for plugin in target.plugins],
    }
    match part.kind:
        case "datasets":
            pass
        case "features":
            found["features"] = {"use": part.name, **options}
        case "references":
            found |= {"reference": {"use": part.name, **options}, "regularizers": {"mmd": {}}}
            found["evaluators"] = ["reconstruction", "density"]
        case "evaluators":
            found["evaluators"] = [{part.name: options}]
        case "tokenizers":
            found["tokenizers"] = {part.name: options}
        case kind:
            found[kind] |= {part.name: options}
            if getattr(part.cls, "two_views", False):
                found["augment"] = {"crop": 0.5}
    return found


def _subjects(folder: Path, target: Target) -> list[Callable[[], Subject]]:
    """The subjects that an evaluator scored in a matrix that has been played."""
    made, store = make_plan(load_matrix(folder / "check.yaml")), Store(folder / ".bench")

    def of(stage: stage.Stage) -> Callable[[], Subject]:
        config = stage.config
        inputs = {role: store.get(made.stages[parent]) for role, parent in stage.parents.items()}
        return lambda: Subject(
            config["scope"],
            inputs,
            dataset_of(config["dataset"]),
            [extractor_of(one) for one in config["extractors"]],
            Noise(config["seed"], ("evaluate",)),
            "cpu",
            config.get("guidance"),
        )

    scored = [stage for stage in made.needed(made.cells) if stage.kind == "scores"]
    return [of(stage) for stage in scored if stage.config["scope"] in target.part.cls.scopes()]
