"""Reconstruction quality: PSNR, SSIM (Wang et al., 2004), LPIPS and distances of features."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject, SubjectSizes
from ..bench.data.images import psnr
from ..bench.metrics import bootstrap, frechet
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.metrics.edges import SMALLEST, edges, psnr_at
from ..bench.metrics.frechet import distance_extractors, frechet_estimate
from ..bench.metrics.kernel import kernel_estimate
from ..bench.metrics.lpips import Lpips
from ..bench.metrics.names import metric_name
from ..bench.metrics.protocols import distance_protocol
from ..bench.models.latents import CHUNK
from ..bench.registry import register
from ..bench.report.image_grids import grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST = 16  # reconstructions in the figure


def ssim_window(height: int, width: int) -> dict[str, Any] | None:
    """scikit-image's arguments: the paper's 11 x 11 Gaussian or, for smaller images, a box of at most 7 x 7.

    None below 3 pixels, for which SSIM is meaningless.
    """
    side = min(height, width)
    if side >= 11:
        return {"win_size": 11, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return {"win_size": min(7, side - 1 + side % 2)} if side >= 3 else None


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM (B,) of pairs of uint8 images (B, c, H, W), mean over channels and inner window positions."""
    from skimage.metrics import structural_similarity

    window = ssim_window(*a.shape[-2:]) or {}
    pairs = zip(a.cpu().numpy(), b.cpu().numpy(), strict=True)
    values = [structural_similarity(x, y, data_range=255, channel_axis=0, **window) for x, y in pairs]
    return torch.tensor(values, dtype=torch.float64)


@register("reconstruction")
class Reconstruction(Evaluator):
    """Compares reconstructions with the held-out images: PSNR, SSIM, LPIPS, rFD, rKD.

    A tokenizer that only encodes has no values.
    """

    version = 2
    metrics = {
        "PSNR": Metric(
            "tokenizer", True, "dB", "Pixel error of reconstructions from the latent as it is drawn."
        ),
        "PSNR_mean": Metric("tokenizer", True, "dB", "The same from the latent without noise."),
        "SSIM": Metric(
            "tokenizer", True, "", "Similarity of local means, contrasts and structures; 1 is equal."
        ),
        "LPIPS": Metric("tokenizer", False, "", "Distance of deep features, weighted as people judge."),
        "rFD": Metric(
            "tokenizer", False, "", "Frechet distance of features, reconstructions to held-out images."
        ),
        "rFID": Metric("tokenizer", False, "", "rFD on the features of Inception-v3."),
        "rKD": Metric(
            "tokenizer", False, "", "Squared kernel MMD of features; unbiased, so it may be negative."
        ),
        "rKID": Metric("tokenizer", False, "", "rKD on the features of Inception-v3."),
    }

    def __init__(
        self, lpips: Literal["auto", "alex", "vgg", "none"] = "auto", lpips_weights: str | None = None
    ) -> None:
        """
        Args:
            lpips: backbone of LPIPS, whose weights are downloaded if needed; "auto" is AlexNet if its weights
                are on this machine or named, else "none".
            lpips_weights: torchvision's file, or "random"; null is torch.hub's cache.
        """
        metric = Lpips("vgg" if lpips == "vgg" else "alex", lpips_weights)
        if lpips == "auto":
            wanted = metric.here or lpips_weights is not None
        else:
            wanted = lpips != "none"
        self.lpips = metric if wanted else None

    def fingerprint(self) -> str:
        return "" if self.lpips is None else str(self.lpips.protocol())

    def run(self, subject: Subject) -> dict[str, float]:
        if not subject.decodes:
            return {}
        images, labels = subject.images("val"), subject.labels("val")
        reconstructions = subject.reconstructions()
        values = {
            "PSNR": by_chunk(psnr, reconstructions, images),
            "PSNR_mean": by_chunk(psnr, subject.reconstructions(deterministic=True), images),
        }
        if ssim_window(*images.shape[-2:]):  # points of a point set have none
            values["SSIM"] = by_chunk(ssim, reconstructions, images)
            if self.lpips is not None:
                values[self.lpips.name] = by_chunk(self.lpips, reconstructions, images)
        scores: dict[str, float] = {name: mean_estimate(name, x, labels) for name, x in values.items()}
        for extractor in distance_extractors(subject):
            features = subject.features("reconstructions", extractor=extractor)
            originals = subject.features("val", extractor=extractor)
            for base, estimate in (("rFD", frechet_estimate), ("rKD", kernel_estimate)):
                name = metric_name(base, extractor)
                scores[name] = estimate(name, features, originals, paired=True)
        return scores

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        if not sizes.decodes:
            return 0
        n, image = sizes.images("val"), sizes.image
        sizes.reconstructions(), sizes.reconstructions(deterministic=True)
        peak = 3 * 8 * CHUNK * image.channels * image.height * image.width
        if self.lpips is not None and min(image.height, image.width) > 2:
            peak = max(peak, self.lpips.memory_bytes(min(image.height, image.width)))
        for extractor in distance_extractors(sizes):
            _, width = sizes.features("reconstructions", extractor=extractor)
            pairs = 2 * 4 * n * width + bootstrap.memory_bytes(n)
            peak = max(peak, frechet.memory_bytes(n, n, width) + 8 * width * min(n, width), pairs)
        return peak + bootstrap.memory_bytes(n, 8)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        images = subject.images("val")
        n = len(images)
        common = {"n": n, "reference": "val, paired", "rounding": "8 bits"}
        if name.startswith("PSNR"):
            latent = "deterministic" if name == "PSNR_mean" else "drawn"
            return {**common, "latent": latent, "exact_image": "one level off in one value"}
        if name == "SSIM":
            return {**common, "latent": "drawn", "data_range": 255, **(ssim_window(*images.shape[-2:]) or {})}
        if self.lpips is not None and name == self.lpips.name:
            return {**common, "latent": "drawn", **self.lpips.protocol()}
        extractor = next(
            extractor
            for extractor in distance_extractors(subject)
            if name in (metric_name("rFD", extractor), metric_name("rKD", extractor))
        )
        features = extractor.protocol()
        return {**common, "latent": "drawn", "features": features, **distance_protocol(name, n, n)}

    def figures(self, subject: Subject) -> dict[str, Figure | Tensor]:
        if not subject.decodes:
            return {}
        images, reconstructions = subject.images("val"), subject.reconstructions()
        if ssim_window(*images.shape[-2:]) is None:
            return {}
        worst = by_chunk(psnr, reconstructions, images).argsort()[:WORST]
        pairs = torch.cat([images[worst], reconstructions[worst]])
        return {"worst": torch.from_numpy(np.array(grid(pairs, len(worst))))}


@register("edges")
class Edges(Evaluator):
    """Compares reconstructions with the held-out images at their edges alone.

    Most pixels of most images lie in smooth regions, which decide a PSNR. A tokenizer that blurs has its
    errors at edges: of two reconstructions with equal PSNR, the blurred one has the lower PSNR_edges. Images
    of one colour have no edges and are left out. A tokenizer that only encodes has no values.
    """

    metrics = {
        "PSNR_edges": Metric(
            "tokenizer", True, "dB", "PSNR at the pixels with the images' largest gradients."
        )
    }

    def __init__(self, share: Annotated[float, Field(gt=0, le=1)] = 0.1) -> None:
        """
        Args:
            share: share of an image's pixels that count as edges.
        """
        self.share = share

    def run(self, subject: Subject) -> dict[str, float]:
        if not subject.decodes:
            return {}
        images, labels = subject.images("val"), subject.labels("val")
        if min(images.shape[-2:]) < SMALLEST:  # points of a point set
            return {}
        pairs = zip(subject.reconstructions().split(CHUNK), images.split(CHUNK), strict=True)
        values = torch.cat([psnr_at(a, b, edges(b, self.share)) for a, b in pairs])
        kept = ~values.isnan()
        if not kept.any():
            subject.left_out["PSNR_edges"] = "no held-out image has an edge"
            return {}
        return {
            "PSNR_edges": mean_estimate("PSNR_edges", values[kept], None if labels is None else labels[kept])
        }

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        if not sizes.decodes:
            return 0
        n, image = sizes.images("val"), sizes.image
        sizes.reconstructions()
        chunk = min(n, CHUNK) * image.channels * image.height * image.width
        return 10 * 8 * chunk + bootstrap.memory_bytes(n)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        chunks = subject.images("val").split(CHUNK)
        return {
            "n": sum(int(edges(chunk, self.share).any(2).any(1).sum()) for chunk in chunks),
            "reference": "val, paired",
            "rounding": "8 bits",
            "latent": "drawn",
            "edges": "largest squared Sobel gradients, summed over channels, with ties",
            "share": self.share,
            "exact_image": "one level off in one value",
        }


def by_chunk(compare: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """compare(a, b) (n,) for image sets (n, c, H, W), chunk by chunk, as the sets may not fit into memory."""
    return torch.cat([compare(*pair) for pair in zip(a.split(CHUNK), b.split(CHUNK), strict=True)])
