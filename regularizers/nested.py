"""Latents whose first channels alone can be decoded (DC-AE 1.5: Chen et al., 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import LatentSpec, Shown, Step, Unfit
from ..bench.nn.corruption import Corruption
from ..bench.registry import register


def prefix(z: Tensor, channels: int) -> Tensor:
    """Latents (B, T, C) with zeros in all but the first channels."""
    return z * (torch.arange(z.shape[-1], device=z.device) < channels)


def prefixes(channels: int, least: int, stride: int) -> list[int]:
    """The numbers of channels that are kept: least, least + stride, …, and all."""
    return [*range(least, channels, stride), channels]


@register("nested")
class Nested(Corruption):
    """The decoder learns from the first c' of the latent's channels, so that these hold what matters most.

    Each update draws c' uniformly from least, least + stride, …, C, for the whole batch, and sets the other
    channels to zero. The decoder's refinement does the same. The evaluator `prefixes` measures
    reconstruction by prefixes. No code is released: the law of c', that a batch shares it and the default
    `least` are our choice. Generators learn whole latents; the paper's augmented diffusion training isn't
    here.

    Paper: Chen et al., "DC-AE 1.5", 2025 (arXiv 2508.00413).
    """

    shown_in_refinement = True

    def __init__(
        self,
        spec: LatentSpec,
        least: Annotated[int, Field(ge=1)] | None = None,
        stride: Annotated[int, Field(ge=1)] = 1,
        **options: object,
    ) -> None:
        """
        Args:
            least: the smallest number of channels; null: an eighth of them, rounded up.
            stride: difference of two numbers of channels (other implementations: 4).
        """
        super().__init__(spec, **options)  # type: ignore[arg-type]
        if spec.channels < 2:
            raise Unfit("nested channels need latents of 2 channels or more, not 1")
        least = -(-spec.channels // 8) if least is None else least
        if least > spec.channels:
            raise ValueError(f"least {least} exceeds the latent's {spec.channels} channels")
        self.prefixes = prefixes(spec.channels, least, stride)

    def shown(self, z: Tensor, step: Step) -> Sequence[Shown]:
        kept = self.prefixes[int(step.noise.shared("channels") * len(self.prefixes))]
        return [Shown(prefix(z, kept), step.images)]
