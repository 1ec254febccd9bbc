"""Sends losses along training and the scores of cells to the trackers that accelerate supports.

The process that the user started reads stored data: the curves in checkpoints and artifacts, and records.
Training isn't involved. Each point is sent once, also by a run that goes on where another was killed, and a
tracker that fails costs no stage.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from .. import registry
from ..plan.plan import Cell, Plan
from ..records.labels import slug
from ..records.provenance import flat
from ..records.record import Record
from ..store.artifacts import Store
from ..store.disk import replace_text
from ..store.stage import Stage
from ..training import checkpoint
from ..user_error import UserError
from .companions import hide_torchrun
from .schedule import Event
from .watcher import Watcher

TRAINED = ("prior", "tokenizer", "generator")
LIVE = (
    "tensorboard",
    "aim",
)  # may have several runs open in one process; other trackers get a stage when it is done
NAMED = {"wandb": "name", "trackio": "name", "mlflow": "run_name", "swanlab": "experiment_name"}
CHECKPOINT_SECONDS = 5.0  # between two reads of a stage's checkpoint


class TrackerError(UserError, ValueError):
    """A tracker that cannot be used."""


def check(names: Iterable[str]) -> None:
    """Raises TrackerError, naming the installed trackers, if a tracker is unknown or not installed."""
    installed = [str(tracker) for tracker in get_available_trackers()]
    listed = f"installed: {', '.join(installed) or 'none'}"
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise TrackerError(
                f"{registry.unknown('tracker', name, sorted(LOGGER_TYPE_TO_CLASS))} ({listed})"
            )
        if name not in installed:
            raise TrackerError(f"the tracker {name} is not installed ({listed}): pip install {name}")


class Tracking(Watcher):
    """Listens to an engine and to finished cells; a context manager that closes the trackers' runs.

    A trained stage is one run of a tracker, and a cell another with its scores; both are named by their
    labels and the start of their keys. Files lie under `folder`/TRACKER.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        project: str,
        plan: Plan,
        store: Store,
        warn: Callable[[str], None],
    ) -> None:
        self.names, self.folder, self.project = list(names), folder, project
        self.plan, self.store, self.warn = plan, store, warn
        self.open: dict[tuple[str, str], Accelerator] = {}
        self.last_read: dict[str, float] = {}
        self.sent: set[str] = set()
        hide_torchrun()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._safely(self._end_all)

    def hear(self, event: Event) -> None:
        """Reports a stage's losses up to the last checkpoint, or all of them once the stage is done."""
        stage = event.stage
        if stage.kind not in TRAINED:
            return
        if event.what == "done":
            self._safely(lambda: self._finished(stage))
        elif (
            event.what == "progress"
            and time.monotonic() - self.last_read.get(stage.id, 0.0) > CHECKPOINT_SECONDS
        ):
            self.last_read[stage.id] = time.monotonic()
            self._safely(lambda: self._underway(stage))

    def cell(self, cell: Cell, record: Record) -> None:
        """Reports a cell's scores, and the losses of its stages that were made before."""
        self._safely(lambda: self._cell(cell, record))

    def _safely(self, report: Callable[[], Any]) -> None:
        """Calls a tracker; after its first error, tracking ends and the run goes on."""
        try:
            report()
        except Exception as error:
            if self.names:
                self.warn(f"tracking ends here: {type(error).__name__}: {error}")
            self.names = []

    def _underway(self, stage: Stage) -> None:
        curves = checkpoint.curves(self.store.root / "work" / stage.key)
        for tracker in self.names:
            if tracker in LIVE:
                self._send(
                    tracker,
                    _run_name(stage.kind, stage.label, stage.key),
                    stage.config,
                    _points(stage.kind, curves),
                )

    def _finished(self, stage: Stage) -> None:
        self.sent.add(stage.id)
        run, curves = _run_name(stage.kind, stage.label, stage.key), self.store.get(stage).info.get("curves")
        for tracker in self.names:
            self._send(tracker, run, stage.config, _points(stage.kind, curves or {}))
            self._end(tracker, run)

    def _cell(self, cell: Cell, record: Record) -> None:
        for stage in self.plan.needed([cell]):
            if stage.kind in TRAINED and stage.id not in self.sent and self.store.has(stage):
                self._finished(stage)
        if record.status == "skipped":
            return
        settings = {"cell": record.cell, "status": record.status, "reason": record.reason}
        for name in ("budget", "samples", "precision", "device", "latentbench"):
            settings[name] = record.provenance.get(name)
        last = int(
            max((curve["step"][-1] or 0 for curve in record.curves.values() if curve.get("step")), default=0)
        )
        scores = {name: entry["value"] for name, entry in record.metrics.items()}
        scores |= {f"cost/{name}": value for name, value in record.cost.items()}
        probes = _points("quality", record.curves.get("quality", {}))
        run = _run_name(*cell.name.split(" · "), record.key)
        for tracker in self.names:
            self._send(tracker, run, settings, [*probes, (last + 1, scores)])
            self._end(tracker, run)

    def _send(
        self,
        tracker: str,
        run: str,
        settings: Mapping[str, Any],
        points: Sequence[tuple[int, Mapping[str, Any]]],
    ) -> None:
        """Logs the points after the last logged step, and stores that step in a file."""
        note = self.folder / "logged" / tracker / run
        last = int(note.read_text(encoding="ascii")) if note.is_file() else -1
        later = [(step, values) for step, values in points if step > last]
        if not later:
            return
        if (tracker, run) not in self.open:
            self.open[tracker, run] = self._begin(tracker, run, settings if last < 0 else None)
        for step, values in later:
            known = {_tag(name): value for name, value in values.items() if value is not None}
            self.open[tracker, run].log(known, step=step)
        note.parent.mkdir(parents=True, exist_ok=True)
        replace_text(note, str(later[-1][0]))

    def _begin(self, tracker: str, run: str, settings: Mapping[str, Any] | None) -> Accelerator:
        folder = self.folder / tracker
        folder.mkdir(parents=True, exist_ok=True)
        accelerator = Accelerator(cpu=True, log_with=tracker, project_dir=folder)
        options = {NAMED[tracker]: run} if tracker in NAMED else {}
        options |= {"dir": str(folder)} if tracker == "wandb" else {}
        config = None if settings is None else _hyperparameters(settings)
        project = self.project if tracker in NAMED else run
        accelerator.init_trackers(project, config, {tracker: options})
        return accelerator

    def _end_all(self) -> None:
        for tracker, run in list(self.open):
            self._end(tracker, run)

    def _end(self, tracker: str, run: str) -> None:
        accelerator = self.open.pop((tracker, run), None)
        if accelerator is not None:
            accelerator.end_training()


def _points(kind: str, curves: Mapping[str, Sequence[float | None]]) -> list[tuple[int, dict[str, Any]]]:
    """Turns curves by name, as in checkpoints and records, into points (step, {"tokenizer/l1": value})."""
    names = [name for name in curves if name != "step"]
    return [
        (int(step or 0), {f"{kind}/{name}": curves[name][i] for name in names if i < len(curves[name])})
        for i, step in enumerate(curves.get("step", ()))
    ]


def _run_name(*words: str) -> str:
    """The name of a run, such as `tokenizer--vit--kl--seed_0--3f2a91`: safe labels and the start of a key."""
    *labels, key = [word for text in words for word in text.split(" · ")]
    safe = "--".join(slug(label).strip("_.") for label in labels)
    return f"{safe[:150]}--{key[:6]}"


def _tag(name: str) -> str:
    """A metric's name in letters that all trackers accept, such as `gFD_effnet_lite0_1.5`."""
    return re.sub(r"[^\w./-]+", "_", name).strip("_")


def _hyperparameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted names; values that aren't plain become text."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat(settings).items()
        if value is not None
    }
