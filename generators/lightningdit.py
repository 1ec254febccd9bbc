"""A diffusion transformer on latents, trained by flow matching (LightningDiT: Yao et al., 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from timm.layers import SwiGLUPacked
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..bench.api import LatentSpec, Noise
from ..bench.flow import logit_normal, shift_time
from ..bench.nn.blocks import RMSNorm, divide_width, rotary_table
from ..bench.nn.dit import Attention, Block, DiT
from ..bench.registry import register


@register("lightningdit")
class LightningDiT(DiT):
    """DiT with RMSNorm, SwiGLU, rotary and fixed absolute positions; flow matching with a cosine term.

    Paper: Yao et al., "Reconstruction vs. Generation", 2025 (arXiv 2501.01423).
    """

    later = frozenset({"diffusion"})
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
        label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        """
        Args:
            width: width of the transformer.
            depth: number of blocks.
            heads: attention heads, which divide the width.
            qk_norm: whether queries and keys are normalised.
            time: distribution of training's times: logit-normal, or uniform.
            cosine: whether the loss also has the cosine distance of velocities.
            label_dropout: share of labels that training leaves out, which guidance needs.
        """
        head_width = divide_width(width, heads, multiple=4 if spec.grid else 2)

        def block() -> Block:
            # SwiGLUPacked counts both halves (gate and value) of its first layer as hidden.
            attention, mlp = Attention(width, heads, qk_norm), SwiGLUPacked(width, 2 * int(2 / 3 * 4 * width))
            return Block(width, attention, mlp, RMSNorm)

        super().__init__(spec, classes, width, depth, block, RMSNorm, rotary_table(spec, head_width))
        self.time_law, self.cosine, self.label_dropout = time, cosine, label_dropout

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        t = noise.uniform(z[:, 0, 0], "t")
        if self.time_law == "lognormal":
            t = logit_normal(t)
        predicted, target = self.velocity_and_target(z, labels, noise, t)
        losses = {"velocity": (predicted - target).square().mean()}
        if self.cosine:
            losses["cosine"] = (1 - cosine_similarity(predicted, target, dim=-1)).mean()
        return losses

    def sample(
        self,
        labels: Tensor,
        guidance: float,
        noise: Noise,
        *,
        steps: Annotated[int, Field(ge=1)] = 30,
        shift: Annotated[float, Field(gt=0)] = 1.0,
        guidance_start: Annotated[float, Field(ge=0, le=1)] = 0.0,
        guidance_channels: Annotated[int, Field(ge=1)] | None = None,
        diffusion: Annotated[float, Field(ge=0)] = 0.0,
    ) -> Tensor:
        """Integrates the ODE by Euler's method or, with `diffusion` > 0, the SDE; see bench/nn/dit.py.

        Args:
            steps: evaluations of the velocity. The official "250 steps" are 250 grid points, 249 evaluations.
            shift: warps the ODE's time grid (LightningDiT: 0.3). The SDE's grid is even for every `shift`.
            guidance_start: samples are unguided at times t below this one.
            guidance_channels: the number of first channels that are guided; the other channels stay
                conditional. None guides all channels. The official code has 3 for every latent, as DiT has.
            diffusion: strength of the SDE's noise (DMVAE: 1).
        """
        field = self.guided_field(labels, guidance, guidance_start, guidance_channels)
        times = shift_time(torch.linspace(0, 1, steps + 1, device="cpu"), shift)
        return self.solve(field, labels, noise, times, diffusion)
