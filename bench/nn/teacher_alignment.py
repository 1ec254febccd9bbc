"""Alignment of latent tokens with the tokens of a frozen teacher (REPA: Yu et al., 2025)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..api import LatentSpec, Step, Unfit


def cosine_loss(projected: Tensor, features: Tensor) -> Tensor:
    """Minus the cosine similarity averaged over tokens and batch, in [-1, 1]: (B, N, F), (B, N, F) -> ()."""
    return -F.cosine_similarity(projected, features, dim=-1).mean()


def regrid(features: Tensor, grid: tuple[int, int], onto: tuple[int, int]) -> Tensor:
    """Tokens (B, h w, F) of `grid` -> (B, h' w', F) of `onto`, each the mean of the cells that it touches."""
    maps = features.transpose(1, 2).unflatten(2, grid)
    return F.adaptive_avg_pool2d(maps, onto).flatten(2).transpose(1, 2)


def check_pairs(spec: LatentSpec, teacher: LatentSpec) -> None:
    """Raises `Unfit` if latent tokens cannot be paired with teacher tokens."""
    if spec.tokens != teacher.tokens and not (spec.grid and teacher.grid):
        lacks = "the latent" if spec.grid is None else "the teacher"
        raise Unfit(
            f"{spec.tokens} latent tokens cannot be aligned with {teacher.tokens} teacher tokens: "
            f"{lacks} has no grid"
        )


def onto_latents(features: Tensor, teacher: LatentSpec, spec: LatentSpec) -> Tensor:
    """The teacher's token (B, N, F) at the position of each latent token: (B, T, F).

    If the latent's grid is not the teacher's, the teacher's tokens are pooled onto the latent's grid; without
    grids tokens are paired in order.
    """
    if spec.grid and teacher.grid and spec.grid != teacher.grid:
        return regrid(features, teacher.grid, spec.grid)
    return features


def paired(step: Step, teacher: LatentSpec, spec: LatentSpec) -> Tensor:
    """The teacher's token at the position of each latent token of a step's images: (B, T, F)."""
    assert step.features is not None
    return onto_latents(step.features, teacher, spec)


def projector(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Three linear layers with SiLU on each token, as in REPA and SoftVQ (there 1,024 to 2,048 wide)."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, outputs),
    )
