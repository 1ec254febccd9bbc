"""The reference stage: samples of the reference distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from ..api import Noise, Reference
from ..data.subset import Subset
from ..models import build
from ..store.artifacts import Result
from ..store.stage import hashes_of_used, without_locations
from ..training.context import Context
from .inputs import SPLITS, Config, Inputs
from .reference_samples import reference_samples
from .trained_cell import TrainedCell


def reference(config: Config, inputs: Inputs, context: Context) -> Result:
    """Samples of the reference distribution for both splits, before any projection."""
    dataset = Subset(build.dataset(config["dataset"], context.device), config.get("images"))
    if "features" in inputs:
        features = inputs["features"]
        spec, basis = build.spec_from(features.info["spec"]), {"features": features.info["protocol"]}
        tokens_and_pooled = {
            split: [features.tensors[f"{output}/{split}"] for output in ("tokens", "pooled")]
            for split in SPLITS
        }
    elif "tokenizer" not in inputs:  # a reference that needs no image
        spec, basis = build.spec_from(config["spec"]), {}
        tokens_and_pooled = {split: [torch.zeros(0), torch.zeros(0)] for split in SPLITS}
    else:  # another tokenizer's latents
        cell = TrainedCell(inputs, context.device, scratch=context.scratch)
        spec, noise = cell.tokenizer.spec, Noise(cell.config["seed"], ("reference",))
        basis = {"steps": cell.config["steps"], "seed": cell.config["seed"]}
        tokens_and_pooled = {
            split: [z := cell.latents(split, noise)[dataset.index[split]], z.mean(1)] for split in SPLITS
        }
    source = build.reference(config["reference"], dataset, spec)
    tensors: dict[str, Tensor] = {}
    for split in SPLITS:
        drawn = source.draw(split, dataset, *tokens_and_pooled[split])
        tensors[f"samples/{split}"] = drawn.samples
        if drawn.labels is not None:
            tensors[f"labels/{split}"] = drawn.labels
    part = without_locations(config["reference"])
    protocol = {"use": part["name"], **part["options"], **basis}
    if files := hashes_of_used(part):
        protocol["files"] = files
    if "images" in config:
        protocol["images"] = config["images"]
    return Result({"spec": vars(source.spec), "protocol": protocol}, tensors)


def regularizer_reference(inputs: Inputs, context: Context) -> Reference:
    """The reference of a regularizer or a prior; a large one is in a file of this process's own."""
    return reference_samples(inputs["reference"], context.scratch(f"reference/{context.group.rank}"))
