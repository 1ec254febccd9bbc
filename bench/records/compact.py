"""The compact form of a record, format 2: short lists of numbers, and what metrics are in a file beside it.

Format 1, which has no "format", has everything in one file. In format 3, which `bench compact` writes, the
metrics and curves of a tokenizer are in a file too, which its cells share. All give the same record, bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import __version__
from .packed_numbers import lengthen, pack, pack_classes, shorten, unpack, unpack_classes
from .record import Record, json_object, json_text, named_fields
from .shared_tables import DESCRIBED, MEASURED, SHARED, Entry, Table, described, file_name, table_of

FORMAT, SHARED_FORMAT = 2, 3
OF_TOKENIZERS = ("tokenizer", "prior")  # curves
# What a metric holds packed, with the functions that pack and unpack it.
PACKED = {"replicates": (pack, unpack), "classes": (pack_classes, unpack_classes)}


def compact(record: Record, described_in: str | None = None, measured_in: str | None = None) -> str:
    """The text of a record without what is in these files: the tables of `tables_beside`, in their order."""
    fields = dict(named_fields(record))
    fields["metrics"] = {name: _short_entry(entry) for name, entry in record.metrics.items()}
    fields["curves"] = {kind: _short_curve(curve) for kind, curve in record.curves.items()}
    head: dict[str, Any] = {"format": FORMAT}
    if described_in is not None:
        head["described_in"] = described_in
    if measured_in is not None:
        head |= {"format": SHARED_FORMAT, "measured_in": measured_in}
        own = (name for name, entry in record.metrics.items() if entry["scope"] != "tokenizer")
        fields["metrics"] = {name: fields["metrics"][name] for name in own}
        fields["curves"] |= dict.fromkeys(set(OF_TOKENIZERS) & fields["curves"].keys())
    return json_text(head | fields)


def tables_beside(record: Record, shared: bool = False) -> dict[str, Table]:
    """Tables that the compact form leaves out, by file: of descriptions, and if `shared` of a tokenizer."""
    tables = {DESCRIBED: _description(record), MEASURED: _measured(record) if shared else {}}
    return {file_name(table, folder): table for folder, table in tables.items() if table}


def _measured(record: Record) -> Table:
    """The tokenizer's metrics and curves in the compact form, which its cells share; empty without any."""
    metrics = {n: _short_entry(entry) for n, entry in record.metrics.items() if entry["scope"] == "tokenizer"}
    curves = {kind: _short_curve(record.curves[kind]) for kind in OF_TOKENIZERS if kind in record.curves}
    return {"metrics": metrics, "curves": curves} if metrics else {}


def _description(record: Record) -> Table:
    """The description of each of the record's metrics; empty if it has none."""
    guided = {
        name: name.rpartition("@")[0]
        for name, entry in record.metrics.items()
        if entry["scope"] == "generator" and not record.real and "@" in name
    }
    return table_of(record.metrics, guided)


def comes_back(record: Record) -> bool:
    """Whether the record's compact form gives the same record, to the last bit."""
    tables = tables_beside(record, shared=True)
    fields = expanded(json_object(compact(record, *tables)), lambda name, _=DESCRIBED: tables[name])
    return Record.from_fields(fields).to_json() == record.to_json()


def expanded(data: dict[str, Any], table_of_file: Callable[..., Table]) -> dict[str, Any]:
    """The fields of a record from those of its compact form; those of format 1 as they are.

    Args:
        table_of_file: the table of a `described_in` or `measured_in`: `SharedTables` of the record's folder.

    Raises:
        ValueError: with what is wrong, or the file that has it.
    """
    if "format" not in data:
        return data
    if data["format"] not in (FORMAT, SHARED_FORMAT):
        raise ValueError(
            f"its format is {data['format']!r}; latentbench {__version__} reads formats up to {SHARED_FORMAT}"
        )
    shared = data["format"] == SHARED_FORMAT
    head = ("format", "described_in", *(["measured_in"] if shared else []))
    fields = {name: value for name, value in data.items() if name not in head}
    metrics, curves = fields.get("metrics", {}), fields.get("curves", {})
    if not isinstance(metrics, dict) or not isinstance(curves, dict):
        return fields  # which the record refuses
    if shared:
        common = table_of_file(data.get("measured_in"), MEASURED)
        metrics = common.get("metrics", {}) | metrics
        of_tokenizer = common.get("curves", {})
        curves = {kind: of_tokenizer.get(kind) if curve is None else curve for kind, curve in curves.items()}
    if metrics:
        table = table_of_file(data.get("described_in"))
        fields["metrics"] = {name: _entry(name, entry, table) for name, entry in metrics.items()}
    fields["curves"] = {
        kind: {name: _named(f"curves.{kind}.{name}", lengthen, numbers) for name, numbers in curve.items()}
        if isinstance(curve, dict)
        else curve
        for kind, curve in curves.items()
    }
    return fields


def _short_curve(curve: dict[str, Any]) -> dict[str, Any]:
    return {name: shorten(numbers) for name, numbers in curve.items()}


def _short_entry(entry: Entry) -> Entry:
    own = {key: value for key, value in entry.items() if key not in SHARED}
    return own | {key: shorter(own[key]) for key, (shorter, _) in PACKED.items() if key in own}


def _entry(name: str, entry: Any, table: Table) -> Any:
    if not isinstance(entry, dict):
        return entry
    about = described(table, name)
    if about is None:
        raise ValueError(f"the metric {name!r} is not in the file of its described_in")
    unpacked = {
        key: _named(f"the metric {name!r}", longer, entry[key])
        for key, (_, longer) in PACKED.items()
        if key in entry
    }
    return entry | about | unpacked


def _named(what: str, read: Any, value: Any) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
