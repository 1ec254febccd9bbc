"""The operations of a row's whole training, from what its record counted and its budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COUNTED = ("tokenizer_gflop_per_image", "regularizer_gflop_per_image", "prior_gflop_per_sample")


def tokenizer_gflop(cost: Mapping[str, float | None], budget: Mapping[str, Any]) -> float | None:
    """GFLOP of a tokenizer, its regularizer with critics and its priors; None if a part is unknown.

    Refinement of the decoder counts as whole steps of the tokenizer, which is more than it takes.
    """
    counted = [cost.get(name) for name in COUNTED]
    if not {"batch", "tokenizer_steps", "prior_steps"} <= set(budget) or None in counted:
        return None
    image, regularizer, prior = (value or 0.0 for value in counted)
    steps, refined = budget["tokenizer_steps"], budget.get("refine_steps", 0)
    of_priors = prior * budget["prior_steps"] * budget.get("prior_batch", budget["batch"])
    return budget["batch"] * (image * (steps + refined) + regularizer * steps) + of_priors


def generator_gflop(
    cost: Mapping[str, float | None], budget: Mapping[str, Any], steps: int | None = None
) -> float | None:
    """GFLOP of a generator to its last step or to `steps`; 0 if nothing was trained, None if unknown."""
    if "generator_parameters_million" not in cost or not {"batch", "generator_steps"} <= set(budget):
        return None
    per_latent = cost.get("generator_gflop_per_latent") or 0.0
    per_step = per_latent * budget.get("generator_batch", budget["batch"])
    return per_step * (budget["generator_steps"] if steps is None else steps)
