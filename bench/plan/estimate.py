"""Estimates of the cost of a plan's stages from modules on the meta device: no data, weights or network."""

from __future__ import annotations

from collections.abc import Iterable

from ..store.stage import Stage
from .cost import Cost
from .counts import Counts
from .data_cost import features_cost, latents_cost, reference_cost, samples_cost
from .plan import Plan
from .scores_cost import guidance_cost, scores_cost
from .training_cost import generator_cost, tokenizer_cost


def costs(plan: Plan, stages: Iterable[Stage]) -> dict[str, Cost]:
    """Costs by stage id; equal modules, as of several seeds, are counted once."""
    counts = Counts(plan)
    return {stage.id: _cost(counts, stage) for stage in stages}


def _cost(counts: Counts, stage: Stage) -> Cost:
    built, config = counts.plan.built.get(stage.id), stage.config
    if stage.kind == "scores":
        return scores_cost(counts, stage)
    if stage.kind == "guidance":
        return guidance_cost(counts, stage)
    if built is None:
        return Cost(flops_per_image=None, note="not counted: what evaluators compute")
    match stage.kind:
        case "features":
            return features_cost(built, config)
        case "reference":
            return reference_cost(built, config)
        case "tokenizer":
            return tokenizer_cost(counts, built, stage)
        case "latents":
            return latents_cost(counts, built, stage)
        case "samples":
            return samples_cost(counts, built, config)
        case _:
            return generator_cost(counts, built, stage)
