"""The cost table: what each row takes to train and to sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..records.labels import natural
from .baselines import baselines
from .columns import COSTS
from .rows import Row, first_seen

COST_COLUMNS = {  # header -> the costs that a column is the sum of
    "tokenizer M": ("tokenizer_parameters_million",),
    "regularizer M": ("regularizer_parameters_million",),
    "generator M": ("generator_parameters_million",),
    "GFLOP/image": ("tokenizer_gflop_per_image", "regularizer_gflop_per_image"),
    "GFLOP/latent": ("generator_gflop_per_latent",),
    "prior s": ("prior_seconds",),
    "tokenizer s": ("tokenizer_seconds",),
    "generator s": ("generator_seconds",),
    "sampling s": ("samples_seconds",),
    "peak MiB": ("peak_mib",),
    "latents/image": ("latents_per_image",),
    "encoded images/s": ("encode_images_per_second",),
    "decoded images/s": ("decode_images_per_second",),
    "sampled images/s": ("sampling_images_per_second",),
}
COST_ABOUT = (
    "Parameters are in millions; the regularizer's include its priors and critics. Operations are of "
    "training on one image, with the regularizer, and on one latent. Seconds are of training and of "
    "sampling, and the peak memory is that of the largest stage. All are means over the seeds that finished."
)

TIMED_ABOUT = (
    " Images per second are of batches on the machine that scored the row, without decoding where they are "
    "sampled; the CSV has their range over repeats."
)


class CostTable(NamedTuple):
    """Rows by generator, with a sum per column (None: a cost isn't known); only rows and columns with one."""

    headers: list[str]
    lines: list[tuple[Row, list[float | None]]]
    others: list[str]  # columns of leaderboard.csv with costs that the table doesn't show as they are


def cost_table(rows: Iterable[Row]) -> CostTable:
    """The costs of all rows but the real one, with baselines last."""
    rows = [row for row in rows if not row.real]
    last = baselines(rows)
    rows.sort(key=lambda row: (row.generator in last, natural(row.generator)))
    costs = [row_costs(row) for row in rows]
    sums = {header: [_sum(of_row, names) for of_row in costs] for header, names in COST_COLUMNS.items()}
    used = {header: values for header, values in sums.items() if any(value is not None for value in values)}
    lines = [
        (row, [values[i] for values in used.values()])
        for i, row in enumerate(rows)
        if any(values[i] is not None for values in used.values())
    ]
    measured = {name for row in rows for name in row.cost}
    alone = {names[0] for names in COST_COLUMNS.values() if len(names) == 1}
    rest = [name for name in first_seen(costs) if name not in alone]
    return CostTable(list(used), lines, [f"cost_{name}" if name in measured else name for name in rest])


def cost_about(headers: Iterable[str]) -> str:
    """The meaning of a cost table's columns."""
    timed = any(header.endswith("images/s") for header in headers)
    return COST_ABOUT + (TIMED_ABOUT if timed else "")


def row_costs(row: Row) -> dict[str, float]:
    """Metrics in a unit of cost, what was measured while running, and the largest peak of memory."""
    counted = {c.name: v.mean for c, v in row.values.items() if c.entry.get("unit") in COSTS}
    costs = {name: mean for name, mean in counted.items() if mean is not None} | row.cost
    peaks = [value for name, value in costs.items() if name.endswith("_peak_mib")]
    return {**costs, "peak_mib": max(peaks)} if peaks else costs


def training_seconds(costs: Mapping[str, float], *stages: str) -> float | None:
    """The seconds of stages such as "tokenizer" in a row's costs; None if the tokenizer's aren't known."""
    if "tokenizer_seconds" not in costs:
        return None
    return sum(costs.get(f"{stage}_seconds", 0.0) for stage in stages)


def _sum(costs: dict[str, float], names: tuple[str, ...]) -> float | None:
    return sum(costs[name] for name in names) if costs.keys() >= set(names) else None
