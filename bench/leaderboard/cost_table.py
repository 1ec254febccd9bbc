"""The cost table: what each row takes to train and to sample."""

from __future__ import annotations

from .columns import COSTS
from .rows import Row

COST_COLUMNS = {  # of the Markdown's cost table -> what they are the sum of
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
}
COST_ABOUT = (
    "Parameters in millions, of the regularizer with its priors and critics; operations of training on one "
    "image (the regularizer's included) and on one latent; seconds of training and of sampling; peak memory "
    "of the largest stage."
)


def spending(row: Row) -> dict[str, float]:
    """Metrics counted in a unit of cost, what was measured while running, and the largest peak of memory."""
    counted = {c.name: v.mean for c, v in row.values.items() if c.entry.get("unit") in COSTS}
    spent = {name: mean for name, mean in counted.items() if mean is not None} | row.cost
    peaks = [value for name, value in spent.items() if name.endswith("_peak_mib")]
    return spent | ({"peak_mib": max(peaks)} if peaks else {})
