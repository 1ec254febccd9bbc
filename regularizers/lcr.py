"""Local correlation of neighbouring latent tokens (SSVAE: Liu et al., 2025)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..bench.api import LatentSpec, Regularizer, Step, Unfit
from ..bench.metrics.local_correlation import local_correlation as local_correlation
from ..bench.metrics.local_correlation import standardised as standardised
from ..bench.metrics.local_correlation import window_correlation as window_correlation
from ..bench.registry import register
from ..bench.runtime.processes import gathered


def lcr_loss(z: Tensor, grid: tuple[int, int], threshold: float) -> Tensor:
    """The distance of the local correlation to a threshold above it: z (B, h w, C) -> (), at least 0."""
    return F.relu(threshold - local_correlation(z, grid))


@register("lcr")
class LCR(Regularizer):
    """Neighbouring latent tokens are pulled together until their correlation reaches a threshold.

    Correlations are between tokens of the same 2 x 2 window, over channels that are first standardised by
    the minibatch. `weight` is the size of the term's gradient at the encoder's last layer, as a share of the
    reconstruction's.

    In the released code the loss is on the mean of a KL posterior of a video VAE, in windows of two frames.
    Here it is on a deterministic latent of images, without a KL term. The paper's other method, masked
    latents, is no part of this one.

    Paper: Liu et al., "Delving into Latent Spectral Biasing of Video VAEs for Superior Diffusability", 2025
    (arXiv 2512.05394).
    """

    couples = "loss"
    gathers = True

    def __init__(
        self,
        spec: LatentSpec,
        weight: Annotated[float, Field(ge=0)] = 0.002,
        threshold: Annotated[float, Field(ge=-1, le=1)] = 0.75,
    ) -> None:
        """
        Args:
            weight: size of the term's gradient at the encoder's last layer, as a share of the
                reconstruction's. The default is the released code's product of 0.1 and 0.02.
            threshold: correlation from which on the loss is 0.
        """
        super().__init__(spec)
        if spec.grid is None or spec.grid[0] % 2 or spec.grid[1] % 2:
            found = "there is none" if spec.grid is None else f"it is {spec.grid[0]} x {spec.grid[1]}"
            raise Unfit(f"windows of 2 x 2 tokens need a grid with even sides: {found}")
        if spec.channels < 2:
            raise Unfit("a correlation over channels needs at least 2 of them: the latent has 1")
        self.balanced, self.threshold, self.grid = {"lcr": weight}, threshold, spec.grid

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        return {"lcr": lcr_loss(gathered(z, step.noise), self.grid, self.threshold)}
