"""The digest of a record: a hash of its content, which tells a value that was edited after it was written.

A digest is no signature: whoever edits a record can compute a new one. It finds slips and careless edits;
`bench reproduce` finds numbers that were never measured.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from typing import Any

from ..store.stage import digest
from .record import Record, named_fields

KEY = "digest"  # in a record's provenance; records of older versions have none


def with_digest(record: Record) -> Record:
    """The record with the digest of its content in its provenance."""
    return replace(record, provenance={**record.provenance, KEY: content_digest(record)})


def content_digest(record: Record) -> str:
    """sha256 of all fields but the digest itself; neither the file's form nor the order of keys matters."""
    return digest(_content(record))


def check_digest(record: Record) -> None:
    """Raises ValueError if a record isn't what its digest says; one without a digest passes."""
    stated = record.provenance.get(KEY)
    if stated is None:
        return
    found = content_digest(record)
    if stated != found:
        raise ValueError(
            f"it was changed after it was written: its digest is {str(stated)[:12]}, that of its content "
            f"{found[:12]}. Take the file that the run wrote, or make the cell anew"
        )


def _content(record: Record) -> Any:
    fields = dict(named_fields(record))
    fields["provenance"] = {name: value for name, value in record.provenance.items() if name != KEY}
    return _short(fields)


def _short(value: Any) -> Any:
    """The value with hashes for lists of floats: their bits take less time than their digits."""
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    if isinstance(value, list) and value and set(map(type, value)) == {float}:
        bits = struct.pack(f"<{len(value)}d", *value)
        return {"floats": hashlib.sha256(bits).hexdigest()}
    return [_short(item) for item in value] if isinstance(value, list) else value
