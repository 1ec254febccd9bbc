"""A note on generators that had unequal numbers of updates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..records.generators import JOINT, learns_jointly
from ..records.record import Record


def updates_note(records: Iterable[Record]) -> str:
    """How many updates a regularizer's own generator and other generators had; empty where they are equal.

    The own one learns along with the tokenizer and has its number of updates. Generators without a curve,
    which are fitted in closed form, have none, and records without a budget aren't counted.
    """
    joint: set[int] = set()
    fresh: set[int] = set()
    for record in records:
        budget: dict[str, Any] = record.provenance.get("budget") or {}
        if not {"tokenizer_steps", "generator_steps"} <= budget.keys() or record.status != "done":
            continue
        if learns_jointly(record):
            joint.add(budget["tokenizer_steps"])
        elif "generator" in record.curves:
            fresh.add(budget["generator_steps"])
    if not joint or not fresh or (joint == fresh and len(joint) == 1):
        return ""
    return (
        f"Generators had unequal numbers of updates: the regularizer's own ({JOINT}) learns along with the "
        f"tokenizer, for {_span(joint)} updates, and the others afterwards, for {_span(fresh)}."
    )


def _span(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
