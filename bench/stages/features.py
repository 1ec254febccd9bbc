"""The features stage: an extractor's outputs for both splits of a dataset."""

from __future__ import annotations

import torch
from torch import Tensor

from ..api.returned import checked_features
from ..data.subset import Subset
from ..models import build
from ..models.latents import CHUNK
from ..runtime.mapped import rows
from ..runtime.prefetch import prefetch
from ..store.artifacts import Result
from ..training.context import Context
from .inputs import SPLITS, Config, Inputs, stored_outputs


def features(config: Config, inputs: Inputs, context: Context) -> Result:
    """Pooled and token features of both splits, or other outputs of an extractor."""
    dataset = Subset(build.dataset(config["dataset"], context.device), config.get("images"))
    extractor, group = build.extractor(config["extractor"]), context.group
    outputs = config.get("outputs", ["pooled", "tokens"])
    tensors: dict[str, Tensor] = {}
    stored = {split: stored_outputs(split, outputs) for split in SPLITS}
    counts = {split: dataset.size(split) if stored[split] else 0 for split in SPLITS}
    total, before = sum(counts.values()), 0
    for split, names in stored.items():
        chunks = torch.arange(counts[split]).split(CHUNK) if names else ()
        own_chunks = chunks[group.rank :: group.world]
        images = prefetch(dataset, split, own_chunks, context.loaders, context.device)

        def describe(index: Tensor, number: int) -> dict[str, Tensor]:
            found = extractor.describe(next(images), names)  # noqa: B023
            described = checked_features(extractor, found, names, len(index))  # noqa: B023
            context.report(before + int(index[-1]) + 1, total, "images")  # noqa: B023
            return {name: tensor.cpu() for name, tensor in described.items()}

        described = rows(describe, chunks, names, lambda name: context.scratch(f"{name}/{split}"), group)  # noqa: B023
        tensors |= {f"{name}/{split}": described[name] for name in names}
        before += counts[split]
    return Result({"spec": vars(extractor.spec), "protocol": extractor.protocol()}, tensors)
