"""What a tokenizer keeps of an image: PSNR, SSIM (Wang et al., 2004), feature distances to the originals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject
from ..bench.distances import distance_protocol, frechet_distance, kernel_distance
from ..bench.images import to_uint8
from ..bench.naming import metric_name
from ..bench.registry import register


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """uint8 (B, c, H, W) twice -> (B,) decibels of a peak of 255.

    An exact image counts as one level off in one value, the smallest error that 8 bits can show, so that it
    doesn't make the mean infinite.
    """
    error = (a.double() - b.double()).square().flatten(1)
    return 10 * torch.log10(255**2 / error.mean(1).clamp(min=1 / error.shape[1]))


def ssim_window(height: int, width: int) -> dict[str, Any] | None:
    """scikit-image's arguments: the paper's 11 x 11 Gaussian, on smaller images a box of at most 7 x 7.

    None below 3 pixels, where SSIM means nothing.
    """
    side = min(height, width)
    if side >= 11:
        return {"win_size": 11, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return {"win_size": min(7, side - 1 + side % 2)} if side >= 3 else None


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """uint8 (B, c, H, W) twice -> (B,), mean over channels and positions where the window fits."""
    from skimage.metrics import structural_similarity

    window = ssim_window(*a.shape[-2:]) or {}
    pairs = zip(a.cpu().numpy(), b.cpu().numpy(), strict=True)
    values = [structural_similarity(x, y, data_range=255, channel_axis=0, **window) for x, y in pairs]
    return torch.tensor(values, dtype=torch.float64)


@register("reconstruction")
class Reconstruction(Evaluator):
    """Reconstructions of the held-out images against those images: PSNR, SSIM, rFD, rKD."""

    metrics = {
        "PSNR": Metric(
            "tokenizer", True, "dB", "Pixel error of reconstructions from the latent as it is drawn."
        ),
        "PSNR_mean": Metric("tokenizer", True, "dB", "The same from the latent without noise."),
        "SSIM": Metric(
            "tokenizer", True, "", "Similarity of local means, contrasts and structures; 1 is equal."
        ),
        "rFD": Metric(
            "tokenizer", False, "", "Frechet distance of features, reconstructions to held-out images."
        ),
        "rFID": Metric("tokenizer", False, "", "rFD on the features of Inception-v3."),
        "rKD": Metric(
            "tokenizer", False, "", "Squared kernel MMD of features; unbiased, so it may be negative."
        ),
    }

    def run(self, subject: Subject) -> dict[str, float]:
        images = to_uint8(subject.images("val")).cpu()
        drawn = to_uint8(subject.reconstructions()).cpu()
        found = {
            "PSNR": psnr(drawn, images).mean().item(),
            "PSNR_mean": psnr(to_uint8(subject.reconstructions(deterministic=True)).cpu(), images)
            .mean()
            .item(),
        }
        if ssim_window(*images.shape[-2:]):
            found["SSIM"] = ssim(drawn, images).mean().item()
        features = subject.features("reconstructions"), subject.features("val")
        extractor = subject.extractors[0]
        found[metric_name("rFD", extractor)] = frechet_distance(*features)
        found[metric_name("rKD", extractor)] = kernel_distance(*features)
        return found

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        images = subject.images("val")
        n = len(images)
        common = {"n": n, "reference": "val, paired", "rounding": "8 bits"}
        if name.startswith("PSNR"):
            latent = "deterministic" if name == "PSNR_mean" else "drawn"
            return {**common, "latent": latent, "exact_image": "one level off in one value"}
        if name == "SSIM":
            return {**common, "latent": "drawn", "data_range": 255, **(ssim_window(*images.shape[-2:]) or {})}
        extras = distance_protocol(name, n, n)
        return {**common, "latent": "drawn", "features": subject.extractors[0].protocol(), **extras}
