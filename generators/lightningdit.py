"""A diffusion transformer on latents, trained by flow matching (LightningDiT: Yao et al., 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..bench.api import Flow, LatentSpec, Noise
from ..bench.flow import interpolate, logit_normal
from ..bench.nn.blocks import RMSNorm, divide_width, rotary_table
from ..bench.nn.dit import DiT, swiglu_block
from ..bench.nn.flow_transformer import LATER_OPTIONS
from ..bench.registry import register


@register("lightningdit")
class LightningDiT(DiT):
    """DiT with RMSNorm, SwiGLU, rotary and fixed absolute positions; flow matching with a cosine term.

    Paper: Yao et al., "Reconstruction vs. Generation", 2025 (arXiv 2501.01423).
    """

    later = LATER_OPTIONS | {"diffusion", "time_mean", "time_std"}
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # DMVAE's sizes normalise queries and keys; its B and XL are the ones below with `qk_norm: true`.
        "Mini": {"width": 256, "depth": 6, "heads": 4, "qk_norm": True},
        "S": {"width": 384, "depth": 12, "heads": 6, "qk_norm": True},
        "L": {"width": 1024, "depth": 24, "heads": 16, "qk_norm": True},
        "B": {"width": 768, "depth": 12, "heads": 12},
        "XL": {"width": 1152, "depth": 28, "heads": 16},
        "1.0B": {"width": 1536, "depth": 24, "heads": 24},
        "1.6B": {"width": 1792, "depth": 28, "heads": 28},
    }

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        width: Annotated[int, Field(ge=4)] = 64,
        depth: Annotated[int, Field(ge=1)] = 3,
        heads: Annotated[int, Field(ge=1)] = 4,
        qk_norm: bool = False,
        time: Literal["lognormal", "uniform"] = "lognormal",
        cosine: bool = True,
        time_mean: float = 0.0,
        time_std: Annotated[float, Field(gt=0)] = 1.0,
        **options: Any,
    ) -> None:
        """
        Args:
            width: width of the transformer.
            depth: number of blocks.
            heads: attention heads, which divide the width.
            qk_norm: whether queries and keys are normalised.
            time: distribution of training's times: logit-normal, or uniform.
            cosine: whether the loss also has the cosine distance of velocities.
            time_mean: mean of the normal of logit-normal times; below 0 they lie nearer to noise (JiT: -0.8).
            time_std: standard deviation of that normal (JiT: 0.8).
        """
        head_width = divide_width(width, heads, multiple=4 if spec.grid else 2)
        super().__init__(spec, classes, **options)
        self.time_law, self.cosine, self.time_mean, self.time_std = time, cosine, time_mean, time_std
        block = partial(swiglu_block, width, heads, qk_norm)
        self.build(width, depth, block, RMSNorm, rotary_table(spec, head_width))

    def times(self, uniform: Tensor) -> Tensor:
        return uniform if self.time_law == "uniform" else logit_normal(uniform, self.time_mean, self.time_std)

    def velocity_losses(self, output: Tensor, z: Tensor, start: Tensor, t: Tensor) -> dict[str, Tensor]:
        losses = super().velocity_losses(output, z, start, t)
        if self.cosine:  # of directions alone, in which velocities to data are the data less x_t
            direction = output - interpolate(z, start, t) if self.predicts_data else output
            losses["cosine"] = (1 - cosine_similarity(direction, z - start, dim=-1)).mean()
        return losses

    def sample(
        self,
        labels: Tensor,
        guidance: float,
        noise: Noise,
        weak: Flow | None = None,
        *,
        steps: Annotated[int, Field(ge=1)] = 30,
        shift: Annotated[float, Field(gt=0)] = 1.0,
        guidance_start: Annotated[float, Field(ge=0, le=1)] = 0.0,
        guidance_channels: Annotated[int, Field(ge=1)] | None = None,
        diffusion: Annotated[float, Field(ge=0)] = 0.0,
        guidance_end: Annotated[float, Field(ge=0, le=1)] = 1.0,
    ) -> Tensor:
        """Integrates the ODE by Euler's method or, if `diffusion` > 0, the SDE.

        Args:
            steps: evaluations of the velocity. The official "250 steps" are 250 grid points, 249 evaluations.
            shift: warps the ODE's time grid (LightningDiT: 0.3). The SDE's grid is even for every `shift`.
            guidance_start: samples are unguided at times t below this one.
            guidance_channels: the number of first channels that are guided; the other channels stay
                conditional. None guides all channels. The official code has 3 for every latent, as DiT has.
            diffusion: strength of the SDE's noise (DMVAE: 1).
            guidance_end: samples are unguided at times t above this one.
        """
        interval = {"start": guidance_start, "end": guidance_end}
        field = self.guided_field(labels, guidance, weak, **interval, channels=guidance_channels)
        return self.solve(field, labels, noise, self.grid_of_times(steps, shift), diffusion)
