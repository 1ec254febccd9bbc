"""Notes under a table: taught rows, collapsed latents, and priors that are worse than a Gaussian."""

from __future__ import annotations

from collections.abc import Sequence

from ..metrics.names import kind_of_metric
from ..statistics.significance import ALPHA, difference
from .collapse import collapse_note
from .columns import TAUGHT
from .numbers import number
from .rows import Column, Row


def notes(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """The sentences that a table of these rows and columns needs."""
    return [note for note in (collapse_note(rows), taught_note(rows, columns), prior_note(rows)) if note]


def judged_by_teacher(row: Row, columns: Sequence[Column]) -> list[str]:
    """The networks that taught the row and judge it, by the names of metrics: `effnet_lite0`, `LPIPS`."""
    return list(dict.fromkeys(_network(column) for column in columns if row.taught_by(column)))


def taught_note(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The meaning of the sign at numbers of taught rows; empty without one."""
    found = dict.fromkeys(name for row in rows for name in judged_by_teacher(row, columns))
    names = ", ".join(found)
    text = (
        f"{TAUGHT} marks a number by a network that also taught the row ({names}), which may favour the row."
    )
    return text if found else ""


def prior_note(rows: Sequence[Row]) -> str:
    """The rows whose prior is significantly farther from its reference than one fitted Gaussian is."""
    found: dict[str, None] = {}
    for row in rows:
        values = {column.name: value for column, value in row.values.items() if value.mean is not None}
        for name in [name for name in values if kind_of_metric(name) == "prior_FD"]:
            prior, gaussian = values[name], values.get(name.replace("prior_FD", "prior_FD_gaussian"))
            if gaussian is None:
                continue
            found_difference = difference(gaussian.observations, prior.observations, shared=True)
            if found_difference.effect > 0 and found_difference.p < ALPHA:
                numbers = f"{name} {number(prior.mean or 0)}, Gaussian {number(gaussian.mean or 0)}"
                found[f"{row.tokenizer} {row.regularizer} ({numbers})"] = None
    text = "These priors are farther from their reference than one fitted Gaussian is"
    return f"{text}: {', '.join(found)}." if found else ""


def _network(column: Column) -> str:
    """The network in a metric's name: `effnet_lite0` of `gFD[effnet_lite0]`, else the metric's own name."""
    return column.name.partition("[")[2].rstrip("]") or column.base
