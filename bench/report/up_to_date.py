"""Whether a report is what its inputs would give again: a run that made nothing need not take seconds for it.

results/NAME/.report.json   hashes of what the last report was made from, and of the files that it wrote
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from ..records.record import Record
from ..store.disk import replace_text
from ..store.hashes import sha256

FILE = ".report.json"
PICTURES = ("samples/*", "figures/*")
OUTPUTS = ("leaderboard.*", "analysis/*")
LIBRARIES = ("numpy", "pandas", "scipy", "matplotlib", "tabulate", "jinja2")


def report_inputs(folder: Path, records: Sequence[Record], title: str) -> dict[str, str]:
    """Hashes of what a report is made from: title, records, the folder's pictures, code and libraries.

    They have to be taken before the report is written: another run may add pictures meanwhile.
    """
    package = Path(__file__).parents[1]
    sources = [file for file in sorted(package.rglob("*")) if file.suffix not in ("", ".pyc")]
    code = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sources]
    inputs = {
        "title": title,
        "records": [record.to_json() for record in records],
        "pictures": _hashes(folder, PICTURES),
        "code": code,
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    return {name: _digest(value) for name, value in inputs.items()}


def is_up_to_date(folder: Path, inputs: Mapping[str, str]) -> bool:
    """Whether neither the inputs nor the written files have changed since `note_report`."""
    file = folder / FILE
    return file.is_file() and file.read_text(encoding="utf-8") == _state(folder, inputs)


def note_report(folder: Path, inputs: Mapping[str, str]) -> None:
    """Notes the inputs of a complete report that has just been written, and its files."""
    replace_text(folder / FILE, _state(folder, inputs))


def _state(folder: Path, inputs: Mapping[str, str]) -> str:
    return json.dumps({**inputs, "outputs": _digest(_hashes(folder, OUTPUTS))}, indent=1) + "\n"


def _hashes(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()]
    return {str(file.relative_to(folder)): sha256(file) for file in files}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
