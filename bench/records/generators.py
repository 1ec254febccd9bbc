"""How the generator of a record came to be: the regularizer's own, trained, or fitted by a formula."""

from __future__ import annotations

from .record import Record

JOINT = "joint"  # the name, in matrices, of the regularizer's own generator in place of a part


def learns_jointly(record: Record) -> bool:
    """Whether the record's generator is the regularizer's own, which learns along with the tokenizer."""
    label = record.cell["generator"]
    return (record.provenance.get("uses", {}).get("generator") or label) == JOINT


def trains_generator(record: Record) -> bool:
    """Whether the record's generator learned by gradients; one that is fitted by a formula has no curve."""
    return learns_jointly(record) or "generator" in record.curves
