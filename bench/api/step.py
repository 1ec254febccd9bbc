"""The batch and the helpers that a training loop hands to a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .noise import Noise


@dataclass(frozen=True)
class Step:
    """What the training loop knows when it asks for a loss."""

    index: int  # tokenizer updates so far
    images: Tensor  # (B, c, H, W) in [-1, 1]
    labels: Tensor | None  # (B,)
    noise: Noise
    decode: Callable[[Tensor], Tensor]  # z -> images, for methods that constrain the decoder too
    features: Tensor | None = None  # (B, N, F) teacher features, for those that name `teacher_spec`
    reference: Tensor | None = None  # (B, N, F) draws from reference(), for those that name `reference_spec`
    views: Tensor | None = None  # h of another augmentation of the images, with gradient, if `two_views`
