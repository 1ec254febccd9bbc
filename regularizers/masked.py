"""Random tokens of the latents that the decoder learns from are replaced (LMR of SSVAE: Liu et al., 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ..bench.api import LatentSpec, Noise, Shown, Step, Unfit
from ..bench.api.transfer import sent
from ..bench.nn.corruption import Corruption
from ..bench.registry import register
from ..bench.runtime.processes import of_all

Shares = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]


def masked(z: Tensor, token: Tensor, places: Tensor) -> Tensor:
    """Latents (B, T, C) with `token` (C,) at those places (T,) of all images that are true."""
    return torch.where(places[:, None], token.to(z), z)


def masked_places(tokens: int, ratio: float, noise: Noise) -> Tensor:
    """Random places, max(1, floor(tokens * ratio)) or none for ratio 0: bool (tokens,) on the CPU.

    All processes draw the same places.
    """
    places = torch.zeros(tokens, dtype=torch.bool, device="cpu")
    if ratio:
        order = of_all(noise).uniform(torch.empty(tokens, device="cpu"), "places").argsort()
        places[order[: max(1, int(tokens * ratio))]] = True
    return places


@register("masked")
class Masked(Corruption):
    """A learned token takes the place of some tokens of the latents that the decoder learns from.

    Each update draws one ratio; the places are random and the same for all images of the batch. Ratios,
    probabilities and blocks of one token are those of the released code for 256 pixels. That code masks in
    validation, too; here evaluators get whole latents. The decoder's refinement goes on masking.

    Paper: Liu et al., "Delving into Latent Spectral Biasing of Video VAEs for Superior Diffusability", 2025
    (arXiv 2512.05394).
    """

    shown_in_refinement = True

    def __init__(
        self,
        spec: LatentSpec,
        ratios: Shares = (0.0, 0.25, 0.5, 0.75),
        probabilities: Shares = (0.7, 0.1, 0.1, 0.1),
        **options: object,
    ) -> None:
        """
        Args:
            ratios: shares of tokens that may be masked.
            probabilities: the probability of each ratio; their sum is 1.
        """
        super().__init__(spec, **options)  # type: ignore[arg-type]
        if len(ratios) != len(probabilities) or abs(sum(probabilities) - 1) > 1e-6:
            raise ValueError(
                f"probabilities {list(probabilities)} must be as many as ratios {list(ratios)}, with sum 1"
            )
        if spec.tokens < 4:
            raise Unfit(f"masking needs latents of 4 tokens or more, not {spec.tokens}")
        self.ratios, self.probabilities = ratios, probabilities
        self.token = nn.Parameter(torch.randn(spec.channels))

    def shown(self, z: Tensor, step: Step) -> Sequence[Shown]:
        draw = step.noise.shared("ratio")
        passed = sum(draw >= bound for bound in accumulate(self.probabilities[:-1]))
        places = masked_places(self.spec.tokens, self.ratios[passed], step.noise)
        return [Shown(masked(z, self.token, sent(places, z.device)), step.images)]
