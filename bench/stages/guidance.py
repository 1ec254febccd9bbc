"""The guidance stage: the guidance that a cell's ranked samples are drawn at, chosen on other samples."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from .. import registry
from ..api import Dataset, Diverged, FeatureExtractor, from_uint8
from ..data.fixed_order import random_rows
from ..metrics.frechet import frechet_distance
from ..metrics.kernel import PAIRS, cmmd_estimate
from ..metrics.names import decoded_name, metric_name
from ..models import build
from ..models.latents import CHUNK
from ..records.sweep import Sweep
from ..store.artifacts import Result
from ..training.context import Context
from .inputs import Config, Inputs

CHOSEN = "chosen"  # in place of a guidance in the config of a stage that takes it from its parent


def guidance(config: Config, inputs: Inputs, context: Context) -> Result:
    """The guidance of a sweep whose samples are nearest to the training images, by one extractor.

    Raises:
        Diverged: no guidance gives finite samples.
    """
    extractor = build.extractor(config["extractor"])
    train, tried = inputs["features"].tensors["pooled/train"], config["sweep"]
    name = metric_name("CMMD" if extractor.cmmd else "gFD", extractor)
    dataset = cast(type[Dataset], registry.get("datasets", inputs["features"].config["dataset"]["name"]))
    if dataset.decoded:
        name = decoded_name(name, extractor.name)
    distances: list[float | None] = []
    for position, w in enumerate(tried):
        drawn = inputs[f"samples/{w:g}"].tensors
        distance = math.nan
        if "images" in drawn:  # no sample was infinite
            samples = _described(extractor, drawn["images"], context.device)
            if extractor.cmmd:
                distance = float(cmmd_estimate(name, samples, train[random_rows(len(train), PAIRS)]))
            else:
                distance = frechet_distance(samples, train)
        distances.append(distance if math.isfinite(distance) else None)
        context.report(position + 1, len(tried), f"guidance {w:g}")
    sweep = Sweep(name, config["samples"], tuple(tried), tuple(distances))
    try:
        chosen = sweep.chosen
    except ValueError as error:
        raise Diverged(str(error)) from None
    return Result({"chosen": chosen, "edge": sweep.edge, "curve": sweep.curve()})


def guidance_of(config: Config, inputs: Inputs) -> float | None:
    """The guidance in a stage's config, or the one that its parent has chosen; None without any."""
    given = config.get("guidance")
    return inputs["guidance"].info["chosen"] if given == CHOSEN else given


def _described(extractor: FeatureExtractor, images: Tensor, device: str) -> Tensor:
    """Pooled features (n, F) of 8-bit images."""
    chunks = (from_uint8(chunk).to(device) for chunk in images.split(CHUNK))
    return torch.cat([extractor.describe(chunk, ("pooled",))["pooled"].cpu() for chunk in chunks])
