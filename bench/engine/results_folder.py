"""The results folder: records and pictures of cells, and the tables made from all of its records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from ..matrix.matrix import Matrix
from ..plan.plan import PROBE, Cell, Plan
from ..records.files import new_records, write_record
from ..records.provenance import parts, provenance
from ..records.record import Record, in_order
from ..report import image_grids
from ..report.write import write_report
from ..store.artifacts import Artifact, NoLocks, Store, alone
from ..store.hashes import identity
from .run_options import RunOptions


class ResultsWriter:
    """The results folder: records and pictures of cells, and the tables made from all of its records."""

    def __init__(self, matrix: Matrix, plan: Plan, store: Store, options: RunOptions) -> None:
        self.matrix, self.plan, self.store, self.options = matrix, plan, store, options
        self.folder = options.out
        self.title = matrix.name + (f", profile {options.profile}" if options.profile else "")
        self.seen: dict[str, tuple[int, ...]] = {}
        self.records: dict[str, Record] = {}
        self._read()

    def _read(self) -> None:
        """What other runs have written to the folder, too."""
        self.records |= {record.key: record for record in new_records(self.folder / "records", self.seen)}

    def finished(self) -> set[str]:
        """The keys of the cells that the folder has finished records of."""
        return {key for key, record in self.records.items() if record.status != "failed"}

    def write(self, cell: Cell, failures: dict[str, str]) -> Record:
        """The record of a cell whose stages are made, failed or skipped."""
        reason = cell.skipped
        metrics: dict[str, Any] = {}
        curves: dict[str, Any] = {}
        quality: dict[str, list[Any]] = {}
        cost: dict[str, Any] = {}
        for guidance, one in cell.scores.items():
            if one in failures:
                reason = reason or failures[one]
            scores = self._artifact(one)
            if scores is None or scores.error is not None:
                continue
            if guidance.startswith(PROBE):
                along = {name: entry["value"] for name, entry in scores.info["metrics"].items()}
                for name, value in {"step": int(guidance.removeprefix(PROBE)), **along}.items():
                    quality.setdefault(name, []).append(value)
                continue
            suffix = f"@{guidance}" if guidance else ""
            metrics |= {f"{name}{suffix}": entry for name, entry in scores.info["metrics"].items()}
            cost |= {f"{name}{suffix}": value for name, value in scores.info["cost"].items()}
        for stage in self.plan.needed([cell]):
            artifact = self._artifact(stage.id)
            if artifact is not None and artifact.error is None and artifact.info.get("curves"):
                curves[stage.kind] = artifact.info["curves"]
        if quality:
            curves["quality"] = quality
        status = "skipped" if cell.skipped else "failed" if reason else "done"
        record = Record(
            cell.identity, cell.key, status, reason, metrics, curves, cost, self._provenance(cell)
        )
        file = write_record(self.folder / "records", record)
        self.seen[file.name] = identity(file)
        self.records[record.key] = record
        self._pictures(cell)
        return record

    def publish(self, complete: bool = False) -> list[Record]:
        """The leaderboard of all records in the folder; what takes seconds, at the end."""
        with self._alone():
            self._read()
            found = in_order(self.records.values())
            if complete:
                self._reconstructions()
            write_report(self.folder, found, self.title, complete)
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lets one run after the other read records and write tables, so that the last one's have all.

        A network folder shows the newest records to a client that has just written beside them.
        """
        with ExitStack() as held:
            with suppress(NoLocks):  # then the last to write may have missed what others just wrote
                held.enter_context(alone(self.folder / "records" / ".publishing"))
            yield

    def _provenance(self, cell: Cell) -> dict[str, Any]:
        m = self.matrix
        uses = m.unnamed_parts(cell.identity)
        return (
            {"matrix": self.title}
            | provenance(self.options.device)
            | {
                "threads": m.threads,
                "precision": m.precision,
                "seed": cell.seed,
                "budget": m.budget_of_cell(cell.identity),
                "samples": m.samples,
                "parts": parts(stage.config for stage in self.plan.needed([cell])),
            }
            | ({"uses": uses} if uses else {})
        )

    def _artifact(self, one: str) -> Artifact | None:
        stage = self.plan.stages[one]
        return self.store.get(stage) if self.store.has(stage) else None

    def _pictures(self, cell: Cell) -> None:
        """Of the first seed: samples, and what evaluators drew."""
        if cell.seed != self.matrix.seeds[0].label:
            return
        for stage in self.plan.needed([cell]):
            artifact = self._artifact(stage.id) if stage.kind in ("samples", "scores") else None
            if artifact is None or artifact.error is not None or "snapshot" in stage.config:
                continue
            if stage.kind == "samples":
                images, labels = artifact.tensors["images"], artifact.tensors["labels"]
                name = image_grids.picture_name(cell.identity, f"@{stage.config['guidance']:g}")
                image_grids.write_samples(self.folder / "samples", name, images, labels)
                continue
            trained = cell.identity | ({"generator": ""} if stage.config["scope"] == "tokenizer" else {})
            for folder, group in (("figures", "figure"), ("samples", "picture")):
                for key, pixels in artifact.group(group).items():
                    image_grids.write_pixels(
                        self.folder / folder, image_grids.picture_name(trained, f"--{key}"), pixels
                    )

    def _reconstructions(self) -> None:
        """The first seed's tokenizers, each decoding the same held-out images."""
        import torch

        from ..api import to_uint8
        from ..models import build

        for row in self.matrix.datasets:
            rows: dict[str, torch.Tensor] = {}
            for cell in self.plan.cells:
                label = f"{cell.tokenizer} {cell.regularizer}"
                if cell.dataset != row.label or label in rows:
                    continue
                for stage in self.plan.needed([cell]):
                    artifact = self._artifact(stage.id) if stage.kind == "latents" else None
                    if artifact is not None and artifact.error is None and "round_trip" in artifact.info:
                        rows[label] = artifact.tensor("preview")
            dataset = build.dataset({"name": row.part, "options": row.options})
            if not rows or dataset.image.height < 2:  # a point is no picture
                continue
            count = min(64, dataset.size("val"))
            originals = to_uint8(dataset.images("val", torch.arange(count)))
            pairs = [("held-out images", originals), *rows.items()]
            image_grids.write_reconstructions(self.folder / "samples", pairs, f"{row.label}--reconstructions")
