"""The batch and the helpers that a training loop passes to a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .noise import Noise


@dataclass(frozen=True)
class Step:
    """One step of the training loop, as losses of tokenizers and regularizers see it."""

    index: int  # tokenizer updates so far
    images: Tensor  # (B, c, H, W) in [-1, 1]
    labels: Tensor | None  # (B,)
    noise: Noise
    decode: Callable[..., Tensor]  # (z, grid=None) -> images, for losses that also constrain the decoder
    features: Tensor | None = None  # (B, N, F) of the teacher, if the constructor names `teacher_spec`
    reference: Tensor | None = None  # (B, N, F) draws from reference(), if it names `reference_spec`
    views: Tensor | None = None  # h of a second augmentation of the images, with gradient, if `two_views`
