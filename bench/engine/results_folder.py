"""The results folder: records and pictures of cells, and the tables made from all of its records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..matrix.guidance_kinds import guided_otherwise
from ..matrix.load import resolved
from ..matrix.yaml_text import dump
from ..plan.plan import PROBE, TRAINED, Cell
from ..records.digest import with_digest
from ..records.files import new_records, write_record
from ..records.packed_folder import unpack_records
from ..records.provenance import parts, provenance
from ..records.record import Record, in_order
from ..records.teachers import networks
from ..report import image_grids
from ..report.up_to_date import is_up_to_date, note_report, report_inputs
from ..report.write import write_report
from ..stages.guidance import CHOSEN
from ..store.artifacts import Artifact, NoLocks, alone
from ..store.disk import replace_text
from ..store.hashes import identity
from .open_plan import OpenPlan
from .run_options import RunOptions
from .set_aside import set_aside

if TYPE_CHECKING:
    from torch import Tensor


class ResultsWriter:
    """Writes a results folder; it also has the records that other runs have written there."""

    def __init__(self, opened: OpenPlan, options: RunOptions) -> None:
        self.matrix, self.plan, self.store, self.options = opened.matrix, opened.plan, opened.store, options
        self.folder = options.out
        self.title = self.matrix.name + (f", profile {options.profile}" if options.profile else "")
        self.seen: dict[str, tuple[int, ...]] = {}  # identities of the record files that were read, by name
        self.records: dict[str, Record] = {}  # by cell key

    def begin(self) -> str:
        """Writes the whole matrix into the folder, sets other matrices' records aside and reads the rest.

        Returns a sentence about the records that it has set aside; it is empty if there were none.
        """
        with self._alone():  # shards of an edited matrix may begin at the same time
            unpack_records(self.folder)
            note = set_aside(self.folder, {cell.key for cell in self.plan.cells})
            self._write_lock()
            self._read_new()
        return note

    def _write_lock(self) -> None:
        text = dump(resolved(self.matrix))
        if self.options.profile:
            text = f"# profile {self.options.profile}\n{text}"
        replace_text(self.folder / "matrix.lock.yaml", text)

    def _read_new(self) -> None:
        self.records |= {record.key: record for record in new_records(self.folder / "records", self.seen)}

    def finished(self) -> set[str]:
        """The keys of the cells whose records in the folder aren't failures."""
        return {key for key, record in self.records.items() if record.status != "failed"}

    def write(self, cell: Cell, failures: dict[str, str]) -> Record:
        """Writes the record of a cell whose stages are made, failed or skipped, and its pictures."""
        record = self._record(cell, failures)
        file = write_record(self.folder / "records", record)
        self.seen[file.name] = identity(file)
        self.records[record.key] = record
        self._write_pictures(cell)
        return record

    def _record(self, cell: Cell, failures: dict[str, str]) -> Record:
        reason = cell.skipped
        metrics: dict[str, Any] = {}
        cost: dict[str, Any] = {}
        curves: dict[str, Any] = {}
        missing: dict[str, dict[str, Any]] = {}
        probes: dict[str, list[Any]] = {}  # metrics along training
        for guidance, stage_id in cell.scores.items():
            if stage_id in failures:
                reason = reason or failures[stage_id]
            scores = self._result(stage_id)
            if scores is None:
                continue
            if guidance.startswith(PROBE):
                values = {name: entry["value"] for name, entry in scores.info["metrics"].items()}
                for name, value in {"step": int(guidance.removeprefix(PROBE)), **values}.items():
                    probes.setdefault(name, []).append(value)
                continue
            if guidance == CHOSEN:
                chosen = scores.info["guidance"]
                guidance, curves["guidance"] = f"{chosen['chosen']:g}", chosen["curve"]
            suffix = f"@{guidance}" if guidance else ""
            metrics |= {f"{name}{suffix}": entry for name, entry in scores.info["metrics"].items()}
            cost |= {f"{name}{suffix}": value for name, value in scores.info["cost"].items()}
            missing |= {f"{name}{suffix}": why for name, why in scores.info.get("missing", {}).items()}
        for stage in self.plan.needed([cell]):
            result = self._result(stage.id)
            if result is not None and result.info.get("curves"):
                curves[stage.kind] = result.info["curves"]
        if probes:
            curves["quality"] = probes
        if cell.skipped:
            status = "skipped"
        else:
            status = "failed" if reason else "done"
        made_by = self._provenance(cell)
        return with_digest(
            Record(cell.identity, cell.key, status, reason, metrics, curves, cost, made_by, missing)
        )

    def publish(self, to_come: str = "") -> list[Record]:
        """Writes the report of all records in the folder, a partial one if `to_come` says what is missing.

        A complete report that would be the same again is left as it is; `bench report` always rebuilds one.
        """
        with self._alone():
            self._read_new()
            records = in_order(self.records.values())
            if to_come:
                write_report(self.folder, records, self.title, to_come)
                return records
            self._write_reconstructions()
            inputs = report_inputs(self.folder, records, self.title)
            if not is_up_to_date(self.folder, inputs):
                write_report(self.folder, records, self.title)
                note_report(self.folder, inputs)
        return records

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lets one run after the other read and move records and write tables, so that the last's have all.

        A network folder shows the newest records to a client that has just written beside them.
        """
        with ExitStack() as stack:
            with suppress(NoLocks):  # then the last run may miss what others have just written
                stack.enter_context(alone(self.folder / "records" / ".publishing"))
            yield

    def _provenance(self, cell: Cell) -> dict[str, Any]:
        matrix = self.matrix
        needed = self.plan.needed([cell])
        trained = [stage.id for stage in needed if stage.kind in TRAINED]
        settings = {
            "threads": matrix.threads,
            "precision": matrix.precision,
            "seed": cell.seed,
            "budget": matrix.budget_of_cell(cell.identity),
            "samples": matrix.samples,
            "parts": parts(stage.config for stage in needed),
            "taught_by": networks(self.plan.stages[id].config for id in self.plan.ancestors(trained)),
        }
        tokenizer = self.plan.tokenizer(cell)
        if tokenizer is not None:
            settings["latent"] = {"tokens": tokenizer.spec.tokens, "channels": tokenizer.spec.channels}
        if uses := matrix.unnamed_parts(cell.identity):
            settings["uses"] = uses
        if guided := guided_otherwise(matrix, cell.identity):
            settings["guided"] = guided
        return {"matrix": self.title} | provenance(self.options.device) | settings

    def _result(self, stage_id: str) -> Artifact | None:
        """The artifact of a stage that is made and hasn't diverged."""
        stage = self.plan.stages[stage_id]
        artifact = self.store.get(stage) if self.store.has(stage) else None
        return None if artifact is None or artifact.error is not None else artifact

    def _write_pictures(self, cell: Cell) -> None:
        """Writes samples and the evaluators' figures, for the first seed only."""
        if cell.seed != self.matrix.seeds[0].label:
            return
        for stage in self.plan.needed([cell]):
            if stage.kind not in ("samples", "scores") or {"snapshot", "sweep"} & stage.config.keys():
                continue
            result = self._result(stage.id)
            if result is None:
                continue
            if stage.kind == "samples":
                images, labels = result.tensors["images"], result.tensors["labels"]
                guidance = stage.config["guidance"]  # pictures of all rows at their chosen one stand together
                at = guidance if guidance == CHOSEN else f"{guidance:g}"
                name = image_grids.picture_name(cell.identity, f"@{at}")
                image_grids.write_samples(self.folder / "samples", name, images, labels)
                continue
            trained = cell.identity | ({"generator": ""} if stage.config["scope"] == "tokenizer" else {})
            for folder, group in (("figures", "figure"), ("samples", "picture")):
                for key, pixels in result.group(group).items():
                    name = image_grids.picture_name(trained, f"--{key}")
                    image_grids.write_pixels(self.folder / folder, name, pixels)

    def _write_reconstructions(self) -> None:
        """Writes, for each dataset, the same held-out images as the first seed's tokenizers decode them."""
        from ..api import to_uint8
        from ..data.fixed_order import fixed_order
        from ..models import build
        from ..stages.latents import PREVIEW

        for row in self.matrix.datasets:
            latents: dict[str, Artifact] = {}  # by tokenizer and regularizer
            for cell in self.plan.cells:
                label = f"{cell.tokenizer} {cell.regularizer}"
                if cell.dataset != row.label or label in latents:
                    continue
                for stage in self.plan.needed([cell]):
                    artifact = self._result(stage.id) if stage.kind == "latents" else None
                    if artifact is not None and "round_trip" in artifact.info:
                        latents[label] = artifact
            name, folder = f"{row.label}--reconstructions", self.folder / "samples"
            previews = [(label, artifact.tensor("preview")) for label, artifact in latents.items()]
            source = _made_from(previews, latents.values())
            if not latents or image_grids.source_of(folder / image_grids.file_name(name)) == source:
                continue  # the data may load slowly
            dataset = build.dataset({"name": row.part, "options": row.options})
            if dataset.image.height < 2 or dataset.decoded:  # points have no picture, and latents no original
                continue
            shown = fixed_order(dataset.size("val"))[:PREVIEW]
            originals = to_uint8(dataset.images("val", shown))
            pairs = [("held-out images", originals), *previews]
            image_grids.write_reconstructions(folder, pairs, name, source)


def _made_from(previews: Iterable[tuple[str, Tensor]], artifacts: Iterable[Artifact]) -> str:
    """A hash of labels, decoded images and the keys of the latents, which hold the dataset."""
    digest = hashlib.sha256()
    for (label, images), artifact in zip(previews, artifacts, strict=True):
        digest.update(json.dumps([label, artifact.meta["key"], list(images.shape)]).encode())
        digest.update(images.numpy().tobytes())
    return digest.hexdigest()
