"""Checks a results folder, and packs what others need of it: records, the matrix and who sends them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import __version__
from ...matrix.yaml_text import MatrixError, parse
from ...matrix.yaml_text import read as read_text
from ...records.archive import ENDING, SUBMISSION, pack
from ...records.files import RecordError, files_beside, read_record
from ...records.labels import slug
from ...records.packed_folder import record_folder
from ...records.record import Record
from ...records.shared_tables import SharedTables
from ...store.disk import replace_bytes
from ...user_error import UserError
from ..merge import LOCK, resolved
from .findings import Finding, joined, refusals
from .matrix_checks import matrix_findings
from .private_text import private_findings
from .record_checks import RERUN, Named, record_findings

FORMAT = 1  # of submission.json
TABLES = ("leaderboard.csv", "leaderboard.md")
LEAST_SEEDS = 3


class SubmissionRefused(UserError):
    """A results folder that others couldn't use; the message lists all that is wrong with it."""

    def __init__(self, folder: Path, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)
        lines = [f"{folder} is not fit to be sent; nothing was written", *map(str, findings)]
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class Submission:
    """An archive that was written, and what its reader should know."""

    path: Path
    size: int  # bytes
    records: int
    notes: list[Finding]


def submit(
    folder: Path,
    out: Path | None = None,
    contributor: str = "",
    least_seeds: int = LEAST_SEEDS,
    tables: bool = False,
) -> Submission:
    """Writes an archive of a results folder if nothing is wrong with it.

    Args:
        out: the file; None: NAME.zip in the working folder.
        contributor: who sends it, as leaderboards name them.
        least_seeds: how many seeds each trained row must have.
        tables: whether leaderboard.csv and leaderboard.md go along.

    Raises:
        SubmissionRefused: with all that is wrong; nothing has been written.
    """
    name = slug(folder.resolve().name, keep="_.+-", fill="-").lstrip(".-") or "results"
    out = out or Path(name + ENDING)
    files, records, findings = read_folder(folder)
    findings += record_findings(records, least_seeds)
    matrices = sorted(folder.glob(LOCK))
    findings += matrix_findings(matrices, records)
    for place in [*matrices, *(folder / table for table in TABLES if tables)]:
        if place.is_file():
            files[place.name] = place.read_bytes()
    facts = {
        "format": FORMAT,
        "contributor": contributor,
        "latentbench": __version__,
        "records": len(records),
        "seeds": least_seeds,
    }
    files[SUBMISSION] = (json.dumps(facts, indent=1) + "\n").encode()
    labels = {word for record in records.values() for word in (*record.cell.values(), contributor)}
    texts = {file: content.decode("utf-8", "replace") for file, content in files.items()}
    findings += private_findings({f: t for f, t in texts.items() if f != SUBMISSION}, labels)
    findings = joined(findings)
    if refused := refusals(findings):
        raise SubmissionRefused(folder, refused)
    content = pack(name, files)
    replace_bytes(out, content)
    return Submission(out, len(content), len(records), findings)


def read_folder(folder: Path) -> tuple[dict[str, bytes], dict[str, Record], list[Finding]]:
    """A folder's record files with what describes them, its records by file, and what cannot be read.

    Raises:
        RecordError: there is no record.
    """
    with record_folder(folder / "records") as of_records:
        files, records, findings = _read_records(of_records)
    if not records and not findings:
        raise RecordError(f"no records in {folder / 'records'}")
    findings += _matrices(folder, records)
    return files, records, findings


def _read_records(folder: Path) -> tuple[dict[str, bytes], dict[str, Record], list[Finding]]:
    tables = SharedTables(folder)
    files: dict[str, bytes] = {}
    records: dict[str, Record] = {}
    findings: list[Finding] = []
    for place in sorted(folder.glob("*.json")):
        name = f"records/{place.name}"
        try:
            records[name] = read_record(place, tables)
        except RecordError as error:
            reason = str(error).removeprefix(f"{place} is not a record: ")
            findings.append(Finding((name,), reason.partition(". Take the file")[0], RERUN))
            continue
        files[name] = place.read_bytes()
        for beside in files_beside(files[name].decode()):
            files[f"records/{beside}"] = (folder / beside).read_bytes()
    return files, records, findings


def _matrices(folder: Path, records: Named) -> Iterator[Finding]:
    """The findings on the files of the matrices themselves."""
    files = sorted(folder.glob(LOCK))
    if not files:
        what = "there is no matrix.lock.yaml: nobody can tell what the labels mean, or make a cell anew"
        yield Finding(("matrix.lock.yaml",), what, "put it there as the run wrote it")
    for file in files:
        try:
            whole = resolved(parse(read_text(file, file.name), file.name).data)
        except MatrixError as error:
            yield Finding((file.name,), str(error), "put it there as the run wrote it")
            continue
        if not whole:
            yield Finding(
                (file.name,), "it is no matrix as a run resolves it", "put it there as the run wrote it"
            )
