"""Cosine alignment of latents with a frozen teacher's features (REPA, Yu et al., 2025; DMVAE, eq. 2)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.api import LatentSpec, Regularizer, Step, Unfit
from ..bench.registry import register


def cosine_loss(projected: Tensor, features: Tensor) -> Tensor:
    """Minus the cosine similarity, averaged over tokens and batch, in [-1, 1]: (B, N, F), (B, N, F) -> ()."""
    return -F.cosine_similarity(projected, features, dim=-1).mean()


def regrid(features: Tensor, grid: tuple[int, int], onto: tuple[int, int]) -> Tensor:
    """(B, h w, F) on `grid` -> (B, h' w', F) on `onto`: a new cell is the mean of the cells it touches."""
    maps = features.transpose(1, 2).unflatten(2, grid)
    return F.adaptive_avg_pool2d(maps, onto).flatten(2).transpose(1, 2)


@register("repa")
class REPA(Regularizer):
    """Cosine similarity of projected latents to a frozen teacher's tokens.

    The projector is an MLP of three linear layers with SiLU on each token, as in REPA and SoftVQ (there
    1,024 to 2,048 wide). Where the latent's grid is not the teacher's, the teacher's tokens are pooled onto
    it; without grids there must be as many latents as teacher tokens, paired in order. SoftVQ's weight.
    """

    def __init__(
        self,
        spec: LatentSpec,
        teacher_spec: LatentSpec,
        weight: Annotated[float, Field(ge=0)] = 0.1,
        width: Annotated[int, Field(ge=1)] = 256,
    ) -> None:
        super().__init__(spec)
        paired = spec.tokens == teacher_spec.tokens
        if not paired and not (spec.grid and teacher_spec.grid):
            lacks = "the latent" if spec.grid is None else "the teacher"
            raise Unfit(
                f"{spec.tokens} latent tokens cannot be aligned with {teacher_spec.tokens} teacher tokens: "
                f"{lacks} has no grid"
            )
        self.weight, self.teacher = weight, teacher_spec
        self.projector = nn.Sequential(
            nn.Linear(spec.channels, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, teacher_spec.channels),
        )

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        assert step.features is not None
        features = step.features
        if self.spec.grid and self.teacher.grid and self.spec.grid != self.teacher.grid:
            features = regrid(features, self.teacher.grid, self.spec.grid)
        return {"repa": self.weight * cosine_loss(self.projector(z), features)}
