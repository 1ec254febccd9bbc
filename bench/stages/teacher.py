"""The teacher's tokens of training images: stored ones, or computed if the dataset decodes files."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..models import build
from .inputs import Config, Inputs

# (images (B, c, H, W), or None where tokens are stored, index (B,)) -> tokens (B, N, F)
Describe = Callable[[Tensor | None, Tensor], Tensor]


def teacher(config: Config, inputs: Inputs) -> Describe | None:
    """Maps (images, index) to tokens, if the stage's training learns from a teacher."""
    if "teacher" in inputs:
        stored = inputs["teacher"].tensors["tokens/train"]
        return lambda images, index: stored[index]
    if "teacher" not in config:
        return None
    extractor = build.extractor(config["teacher"])
    if extractor.resizing == "clean":
        extractor.resizing = "torch"  # on the device, where the images are

    def describe(images: Tensor | None, index: Tensor) -> Tensor:
        assert images is not None
        return extractor.describe(images, ["tokens"])["tokens"]

    return describe
