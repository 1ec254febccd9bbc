"""Reconstruction from the first channels of latents alone (DC-AE 1.5: Chen et al., 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject, SubjectSizes
from ..bench.metrics import bootstrap
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.metrics.decoded import memory_bytes, scored
from ..bench.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.125, 0.25, 0.5)  # an eighth is where `nested` starts
Share = Annotated[float, Field(gt=0, lt=1)]


def kept(share: float, channels: int) -> int:
    """The number of channels in a share of them, rounded up."""
    return math.ceil(share * channels)


def metrics_for(shares: Sequence[float]) -> dict[str, Metric]:
    """The metrics by name; a name contains the share of channels in percent."""
    return {
        name(share): Metric(
            "tokenizer",
            True,
            "dB",
            f"PSNR of images decoded from the first {100 * share:g} % of the channels, the others zero.",
        )
        for share in shares
    }


def name(share: float) -> str:
    return f"PSNR_prefix_{100 * share:g}"


@register("prefixes")
class Prefixes(Evaluator):
    """Decodes the first channels of latents, with zeros in the place of the others.

    A tokenizer whose channels are in order of importance (`nested`) loses little; others lose most of the
    image.

    Paper: Chen et al., "DC-AE 1.5", 2025 (arXiv 2508.00413).
    """

    metrics = metrics_for(SHARES)

    def __init__(self, shares: tuple[Share, ...] = SHARES) -> None:
        """
        Args:
            shares: shares of the channels that are kept; their numbers are rounded up.
        """
        self.shares = sorted({*shares})
        self.metrics = metrics_for(self.shares)  # type: ignore[misc]

    def run(self, subject: Subject) -> dict[str, float]:
        if not subject.decodes:
            return {}
        channels, labels = subject.latents("val").shape[2], subject.labels("val")
        return {
            name(share): mean_estimate(name(share), self._psnr(subject, kept(share, channels)), labels)
            for share in self.shares
        }

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        return memory_bytes(sizes) + bootstrap.memory_bytes(sizes.val, 8) if sizes.decodes else 0

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        n, _, channels = subject.latents("val").shape
        share = float(name.rpartition("_")[2]) / 100
        return {
            "n": n,
            "reference": "val, paired",
            "rounding": "8 bits",
            "latent": "drawn",
            "kept": kept(share, channels),
            "of": channels,
        }

    def figures(self, subject: Subject) -> dict[str, Figure | Tensor]:
        if not subject.decodes:
            return {}
        from matplotlib.figure import Figure

        channels = subject.latents("val").shape[2]
        counts = [*sorted({kept(share, channels) for share in self.shares}), channels]
        values = [self._psnr(subject, count).mean().item() for count in counts]
        figure = Figure(figsize=(4, 3), layout="constrained")
        axis = figure.subplots()
        axis.plot(counts, values, marker="o")
        axis.set(xlabel=f"first channels of {channels}", ylabel="PSNR (dB)", title="prefixes of channels")
        return {"prefixes": figure}

    @staticmethod
    def _psnr(subject: Subject, count: int) -> Tensor:
        """PSNRs (n,) of images decoded from the first channels."""

        z, images = subject.latents("val"), subject.images("val")

        def prefix(index: Tensor) -> Tensor:
            chosen = z[index]
            chosen[..., count:] = 0
            return chosen

        return scored(subject, prefix, subject.labels("val"), lambda index: images[index])[0]
