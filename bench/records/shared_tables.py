"""Tables that the records of a folder share: files with a part of each record.

The descriptions of metrics (protocol, unit, direction) are in a file:

    records/digits--vit--kl--mar--0.json    "described_in": "metrics/857287c0ffee1a2b.json"
    records/metrics/857287c0ffee1a2b.json   {"PSNR": {"protocol": …, "scope": …, "better": …, …}, …}

`bench compact` also puts the metrics and curves of a tokenizer, which its cells have in common, into a file:

    records/digits--vit--kl--mar--0.json       "measured_in": "tokenizers/1a2b857287c0ffee.json"
    records/tokenizers/1a2b857287c0ffee.json   {"metrics": {"PSNR": {"value": …, …}, …}, "curves": {…}}

A file's name is a hash of its content, which never changes: runs that write one folder at the same time don't
disturb each other, and records of several groups are put together by copying files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..store.disk import replace_text
from .record import json_text

DESCRIBED, MEASURED = "metrics", "tokenizers"  # folders in `records`
SHARED = ("protocol", "scope", "better", "unit", "about")  # keys of a metric that don't depend on the cell
NAME = re.compile(rf"({DESCRIBED}|{MEASURED})/[0-9a-f]{{16}}\.json")
Entry = dict[str, Any]
Table = dict[str, Entry]


class SharedTables:
    """The tables beside a folder's records; each file is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Table] = {}

    def __call__(self, name: Any, folder: str = DESCRIBED) -> Table:
        """The table of a record's `described_in`, or with the folder MEASURED of its `measured_in`.

        Raises:
            ValueError: naming the file that is missing, or isn't what its name says.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name) or not name.startswith(folder):
            key = "described_in" if folder == DESCRIBED else "measured_in"
            raise ValueError(f"{key} must be {folder}/ and 16 hex digits and .json, not {name!r}")
        if name not in self._read:
            self._read[name] = self._table(name)
        return self._read[name]

    def _table(self, name: str) -> Table:
        file = self.folder / name
        try:
            table = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(
                f"{file}, which has a part of this record, is missing: copy it from where the record is from"
            ) from error
        except (ValueError, RecursionError, OSError) as error:
            raise ValueError(f"{file}, which has a part of this record, cannot be read: {error}") from error
        if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
            raise ValueError(f"{file} must be an object with an object for each metric")
        if (now := file_name(table, name.partition("/")[0])) != name:
            raise ValueError(f"{file} was changed: its name is the hash of its content, which is now {now}")
        return table


def write_beside(folder: Path, name: str, table: Table) -> None:
    """Writes a table into a folder of records under its `file_name`, unless it is there."""
    lines = [f" {json.dumps(key)}: {json.dumps(entry)}" for key, entry in table.items()]
    file, text = folder / name, "{\n" + ",\n".join(lines) + "\n}\n"
    if name.startswith(MEASURED):
        text = json_text(table)
    if not file.is_file() or file.read_bytes().replace(b"\r\n", b"\n") != text.encode():  # or damaged
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, text)


def file_name(table: Table, folder: str = DESCRIBED) -> str:
    """The name of a table's file; spaces and line ends in the file don't matter."""
    text = json.dumps(table, separators=(",", ":"))
    return f"{folder}/{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def table_of(metrics: Mapping[str, Entry], without_guidance: Mapping[str, str]) -> Table:
    """Descriptions of metrics; those of one metric at several guidances stand once, under its name.

    Args:
        without_guidance: the name of each metric that has a guidance, without it.
    """
    table: Table = {}
    own = {name: {key: entry[key] for key in SHARED if key in entry} for name, entry in metrics.items()}
    for name in sorted(own):
        table.setdefault(without_guidance.get(name, name), own[name])
    while wrong := [name for name in own if described(table, name) != own[name]]:
        table |= {name: own[name] for name in wrong}
    return dict(sorted(table.items()))


def described(table: Table, name: str) -> Entry | None:
    """The description of a metric, by its name with or without its guidance; None if there is none."""
    return table.get(name, table.get(name.rpartition("@")[0]))
