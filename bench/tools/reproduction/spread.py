"""How far a number that is made again may lie from its record: by rounding, or by another training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from ...leaderboard.ranking import LOGARITHMIC
from ...leaderboard.rows import LABELS, full_protocol, shared_name, tokenizer_seed
from ...metrics.names import base_name
from ...records.record import Record

TRAININGS = ("tokenizer", "prior", "generator")  # curves of what is trained
# What another CPU rounds differently when it scores the same weights: a share of the value, and of the
# standard deviation of its resamples, as one image more or less in a count.
OF_VALUE, OF_RESAMPLES = 1e-3, 0.1
Kind = Literal["rounding", "seeds", "unknown"]


@dataclass(frozen=True)
class Spread:
    """The unit in which a difference is measured.

    By "seeds", it is the standard deviation of the difference of two trainings, with degrees of freedom;
    `logs` says that differences are those of logarithms. By "rounding", it is the most that this explains.
    """

    kind: Kind
    size: float
    df: int = 0
    logs: bool = False


def same_training(a: Record, b: Record, scope: str) -> bool:
    """Whether all that was trained for metrics of a scope had the same losses, to the last bit."""
    kinds = TRAININGS if scope == "generator" else TRAININGS[:2]
    return all(a.curves.get(kind) == b.curves.get(kind) for kind in kinds)


def rounding(made: dict[str, Any]) -> Spread:
    """The spread of a number whose weights are the same to the last bit, or that nothing was trained for.

    It is by what was made, for whoever edits a record can widen its resamples too.
    """
    replicates = [value for value in made.get("replicates") or () if value is not None]
    resamples = stdev(replicates) if len(replicates) > 1 else 0.0
    size = OF_VALUE * abs(made["value"]) + OF_RESAMPLES * resamples
    return Spread("rounding", max(size, 1e-9))


def of_seeds(records: Iterable[Record], recorded: Record, made: Record, name: str) -> Spread:
    """The spread of a number that was trained anew, by the seeds of all rows of its dataset and generator.

    The record itself doesn't count, for it may have been edited; what was made in its place does. Rows share
    one variance, as they do in rankings: three seeds of one row know little about it.
    """
    others = [record for record in records if record.cell != recorded.cell]
    rows = _rows([*others, made], made, name)
    logs = bool(LOGARITHMIC.search(base_name(name)))
    numbers = [value for row in rows for value in row] + [recorded.metrics[name]["value"]]
    logs = logs and min(numbers) > 0
    scaled = [[math.log(value) for value in row] if logs else row for row in rows]
    df = sum(len(row) - 1 for row in scaled)
    if df < 1:
        return Spread("unknown", 0.0)
    squares = sum((value - fmean(row)) ** 2 for row in scaled for value in row)
    least = rounding(made.metrics[name]).size / (made.metrics[name]["value"] if logs else 1.0)
    return Spread("seeds", max(math.sqrt(2 * squares / df), least), df, logs)


def _rows(records: Sequence[Record], made: Record, name: str) -> list[list[float]]:
    """The values of a metric by row, of rows with several seeds."""
    entry, shared = made.metrics[name], shared_name(made, name)
    tokenizers = entry["scope"] == "tokenizer"
    protocol = full_protocol(entry)
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for record in records:
        same = record.cell["dataset"] == made.cell["dataset"] and not record.real
        if not same or not (tokenizers or record.cell["generator"] == made.cell["generator"]):
            continue
        for own, one in record.metrics.items():
            if shared_name(record, own) != shared or one["value"] is None or one.get("bound"):
                continue
            if full_protocol(one) == protocol:
                labels = tuple(record.cell[axis] for axis in LABELS[: 3 if tokenizers else 4])
                seed = record.cell["seed"]
                found.setdefault(labels, {}).setdefault(
                    tokenizer_seed(seed) if tokenizers else seed, one["value"]
                )
    return [list(seeds.values()) for seeds in found.values() if len(seeds) > 1]
