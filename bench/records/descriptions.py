"""Descriptions of metrics (protocol, unit, direction) in files that the records of a folder share.

    records/digits--vit--kl--mar--0.json    "described_in": "metrics/857287c0ffee1a2b.json"
    records/metrics/857287c0ffee1a2b.json   {"PSNR": {"protocol": …, "scope": …, "better": …, …}, …}

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

FOLDER = "metrics"  # in `records`
SHARED = ("protocol", "scope", "better", "unit", "about")  # keys of a metric that don't depend on the cell
NAME = re.compile(FOLDER + r"/[0-9a-f]{16}\.json")
Entry = dict[str, Any]
Table = dict[str, Entry]


class Descriptions:
    """The descriptions beside a folder's records; each file is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Table] = {}

    def __call__(self, name: Any) -> Table:
        """The table of a record's `described_in`.

        Raises:
            ValueError: naming the file that is missing, or isn't what its name says.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"described_in must be {FOLDER}/ and 16 hex digits and .json, not {name!r}")
        if name not in self._read:
            self._read[name] = self._table(name)
        return self._read[name]

    def _table(self, name: str) -> Table:
        file = self.folder / name
        try:
            table = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(
                f"{file}, which says what its metrics are, is missing: copy it from where the record is from"
            ) from error
        except (ValueError, RecursionError, OSError) as error:
            raise ValueError(f"{file}, which says what its metrics are, cannot be read: {error}") from error
        if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
            raise ValueError(f"{file} must be an object with an object for each metric")
        if file_name(table) != name:
            raise ValueError(
                f"{file} was changed: its name is the hash of its content, which is now {file_name(table)}"
            )
        return table


def write_description(folder: Path, table: Table) -> str:
    """Writes a table into a folder of records, unless it is there; returns its name for `described_in`."""
    name = file_name(table)
    lines = (f" {json.dumps(metric)}: {json.dumps(entry)}" for metric, entry in table.items())
    file, text = folder / name, "{\n" + ",\n".join(lines) + "\n}\n"
    if not file.is_file() or file.read_bytes().replace(b"\r\n", b"\n") != text.encode():  # or damaged
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, text)
    return name


def file_name(table: Table) -> str:
    """The name of a table's file; spaces and line ends in the file don't matter."""
    text = json.dumps(table, separators=(",", ":"))
    return f"{FOLDER}/{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


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
