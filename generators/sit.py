"""A diffusion transformer trained on velocities alone, sampled by an ODE or an SDE (SiT: Ma et al., 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from ..bench.api import Flow, LatentSpec, Noise
from ..bench.nn.blocks import divide_width
from ..bench.nn.dit import DiT, gelu_block, layer_norm
from ..bench.nn.flow_transformer import LATER_OPTIONS
from ..bench.registry import register


@register("sit")
class SiT(DiT):
    """DiT with LayerNorm, GELU and fixed positions; flow matching at uniform times.

    Paper: Ma et al., "SiT", 2024 (arXiv 2401.08740).
    """

    later = LATER_OPTIONS
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "B": {"width": 768, "depth": 12, "heads": 12},
        "L": {"width": 1024, "depth": 24, "heads": 16},
        "XL": {"width": 1152, "depth": 28, "heads": 16},
    }

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        width: Annotated[int, Field(ge=4, multiple_of=4)] = 64,
        depth: Annotated[int, Field(ge=1)] = 3,
        heads: Annotated[int, Field(ge=1)] = 4,
        **options: Any,
    ) -> None:
        """
        Args:
            width: width of the transformer.
            depth: number of blocks.
            heads: attention heads, which divide the width.
        """
        divide_width(width, heads)
        super().__init__(spec, classes, **options)
        self.build(width, depth, partial(gelu_block, width, heads), layer_norm)

    def sample(
        self,
        labels: Tensor,
        guidance: float,
        noise: Noise,
        weak: Flow | None = None,
        *,
        steps: Annotated[int, Field(ge=1)] = 30,
        diffusion: Annotated[float, Field(ge=0)] = 0.0,
        guidance_start: Annotated[float, Field(ge=0, le=1)] = 0.0,
        guidance_channels: Annotated[int, Field(ge=1)] | None = None,
        guidance_end: Annotated[float, Field(ge=0, le=1)] = 1.0,
    ) -> Tensor:
        """Integrates the ODE by Euler's method or, if `diffusion` > 0, the SDE.

        REPA's `guidance-high` of 0.7, whose times run the other way, is `guidance_start` 0.3.

        Args:
            steps: evaluations of the velocity.
            diffusion: strength of the SDE's noise; 0 is the ODE (SiT and REPA: 1).
            guidance_start: samples are unguided at times t below this one.
            guidance_channels: the number of first channels that are guided; null guides all.
            guidance_end: samples are unguided at times t above this one.
        """
        interval = {"start": guidance_start, "end": guidance_end}
        field = self.guided_field(labels, guidance, weak, **interval, channels=guidance_channels)
        return self.solve(field, labels, noise, self.grid_of_times(steps), diffusion)
