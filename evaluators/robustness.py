"""How a decoder handles latents of no image: with noise (SimFlow, figure 3a), and between two images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Bound, Estimate, Evaluator, FeatureExtractor, Metric, Subject, SubjectSizes, to_uint8
from ..bench.data.fixed_order import fixed_order
from ..bench.data.images import psnr
from ..bench.metrics import bootstrap, frechet
from ..bench.metrics.bootstrap import class_means, mean_estimate, means
from ..bench.metrics.decoded import scored
from ..bench.metrics.frechet import distance_extractors, frechet_distance, frechet_estimate
from ..bench.metrics.names import base_name, metric_name
from ..bench.metrics.protocols import distance_protocol
from ..bench.metrics.proxies import slerp
from ..bench.models.latents import CHUNK, decode_all
from ..bench.registry import register
from ..bench.report.image_grids import grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Way = Literal["spherical", "linear"]
Level = Annotated[float, Field(gt=0)]

NOISE, DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.5), (0.1, 0.3)
FALL = 3.0  # dB
PAIRS, STEPS = 8, 7  # rows and columns of the interpolation figure


def between(a: Tensor, b: Tensor, t: float, way: Way, centre: Tensor) -> Tensor:
    """Latents (n, T, C) at t on the paths from a (t = 0) to b (t = 1), both (n, T, C).

    On the sphere around `centre` (White, 2016) a midpoint is as far from the centre as the ends are;
    midpoints on the line between independent latents are nearer by sqrt(2). Ends in the same or in opposite
    directions are joined by a line.
    """
    x, y = ((z - centre).double() for z in (a, b))
    return (slerp(x, y, t) if way == "spherical" else torch.lerp(x, y, t)).to(a) + centre


def tolerance(noise: Sequence[float], curve: Sequence[float], beyond: bool = False) -> float:
    """The noise at which a curve of PSNRs, the first without noise, has fallen by 3 dB.

    Infinite if it never does, NaN if a PSNR is. Between two noise levels the squared error is interpolated
    linearly in the squared noise, which is exact for a linear decoder. With `beyond`, it is extrapolated
    after the largest level if it was still growing.
    """
    points = [(level**2, 10 ** (-value / 10)) for level, value in zip(noise, curve, strict=True)]
    target = points[0][1] * 10 ** (FALL / 10)
    segments = list(pairwise(points))
    for i, ((start, error), (end, next_error)) in enumerate(segments):
        extrapolated = beyond and i == len(segments) - 1 and next_error > error
        if next_error >= target or extrapolated:
            return (start + (end - start) * (target - error) / (next_error - error)) ** 0.5
    return math.nan if any(map(math.isnan, curve)) else math.inf


def partners(n: int) -> Tensor:
    """Pairs (n, 2) of n images: every image is once first and once second, never with itself unless n = 1."""
    order = fixed_order(n, seed=0)
    return torch.stack([order, order.roll(1)], 1)


def shown_pairs(n: int, labels: Tensor | None) -> Tensor:
    """At most 8 pairs of n images: with labels, up to four pairs within a class, the rest across classes."""
    if labels is None:
        return partners(n)[:PAIRS]
    order = fixed_order(n)
    classes = [order[labels[order] == label] for label in labels.unique().tolist()]
    same = [images[:2] for images in classes if len(images) > 1][: PAIRS // 2]
    mixed = [torch.stack([a[0], b[-1]]) for a, b in pairwise(classes)][: PAIRS - len(same)]
    return torch.stack(same + mixed) if same + mixed else partners(n)[:PAIRS]


def metrics_for(levels: Sequence[float], distances: Sequence[float]) -> dict[str, Metric]:
    """The metrics by name; a name contains the noise level."""
    metrics = {
        "noise_tolerance": Metric(
            "tokenizer",
            True,
            "",
            "Noise, in standard deviations of latents, that costs 3 dB: soon, of a high PSNR; above the "
            "largest noise that was tried if none does; no value for constant latents.",
        ),
        "noise_unit": Metric(
            "tokenizer", None, "", "The standard deviation of latents, in which noise comes."
        ),
        "rFD_interpolated": Metric(
            "tokenizer", False, "", "From images decoded half-way between two latents to held-out images."
        ),
        "rFD_interpolated_linear": Metric(
            "tokenizer", False, "", "The same with midpoints on a line, not on a sphere."
        ),
    }
    for s in levels:
        about = f"PSNR with noise of {s:g} standard deviations on latents."
        metrics[f"PSNR_noise_{s:g}"] = Metric("tokenizer", True, "dB", about)
    for s in distances:
        about = f"rFD with noise of {s:g} standard deviations on latents."
        metrics[f"rFD_noise_{s:g}"] = Metric("tokenizer", False, "", about)
    return metrics


@register("robustness")
class Robustness(Evaluator):
    """Decodes latents with noise, and the midpoints between the latents of two images.

    The unit of noise is each channel's standard deviation over the held-out latents, to which a generator's
    errors are relative. Pairs and draws are the same for every row.
    """

    version = 3
    metrics = metrics_for(NOISE, DISTANCES)

    def __init__(
        self,
        noise: tuple[Level, ...] = NOISE,
        distances: tuple[Level, ...] = DISTANCES,
        midpoints: tuple[Way, ...] = ("spherical",),
    ) -> None:
        """
        Args:
            noise: noise levels for PSNR.
            distances: noise levels for PSNR and rFD; each needs features of all images again.
            midpoints: paths between two latents whose midpoints are decoded.
        """
        self.levels, self.distances = sorted({*noise, *distances}), sorted(set(distances))
        self.midpoints = tuple(dict.fromkeys(midpoints))
        self.metrics = metrics_for(self.levels, self.distances)  # type: ignore[misc]
        self._last: tuple[Subject, dict[float, Tensor], dict[str, Estimate]] | None = None

    def run(self, subject: Subject) -> dict[str, float]:
        if not subject.decodes:
            return {}
        curve, distances = self._measured(subject)
        labels = subject.labels("val")
        scores: dict[str, float] = {}
        for s in self.levels:
            name = f"PSNR_noise_{s:g}"
            scores[name] = mean_estimate(name, curve[s], labels)
        scores["noise_unit"] = unit(subject.latents("val")).square().mean().sqrt().item()
        if self.levels and scores["noise_unit"] != 0:  # constant latents get no noise, and tolerate none
            scores["noise_tolerance"] = tolerance_estimate(curve, labels)
        return scores | distances

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        if not sizes.decodes:
            return 0
        n, tokens, channels = sizes.latents("val")
        sizes.images("val"), sizes.reconstructions()
        values, image = n * tokens * channels, sizes.image
        chunk = min(CHUNK, n)
        decoded = sizes.decoding(chunk) + 5 * 4 * chunk * image.channels * image.height * image.width
        distances, extractor = 0, distance_extractor(sizes)
        if extractor is not None and (self.distances or self.midpoints):
            _, width = sizes.features("reconstructions", extractor=extractor)
            decoded += extractor.memory_bytes()
            distances = 2 * 4 * n * width + frechet.memory_bytes(n, n, width)
        return max(2 * 8 * values, 2 * 4 * values + max(decoded, distances)) + bootstrap.memory_bytes(n, 8)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        n = len(subject.latents("val"))
        common = {"n": n, "rounding": "8 bits", "latent": "drawn"}
        base = base_name(name)
        if base.startswith("rFD"):
            extractor = distance_extractor(subject)
            assert extractor is not None
            common |= {"features": extractor.protocol(), **distance_protocol(name, n, n)}
        if base.startswith("rFD_interpolated"):
            way = "linear" if base.endswith("linear") else "spherical, around the channels' means"
            return {**common, "reference": "val", "way": way, "pairs": "a cycle through all images, seed 0"}
        unit = "each channel's standard deviation over val"
        if base == "noise_unit":
            return {"n": n, "latent": "drawn", "unit": unit, "over_channels": "root mean square"}
        common |= {"reference": "val, paired", "unit": unit}
        if base == "noise_tolerance":
            return {
                **common,
                "noise": [0.0, *self.levels],
                "fall_dB": FALL,
                "not_reached": "a bound",
                "between": "squares are linear",
            }
        return {**common, "noise": float(base.rpartition("_")[2])}

    def figures(self, subject: Subject) -> dict[str, Figure | Tensor]:
        if not subject.decodes:
            return {}
        curve, distances = self._measured(subject)
        extractor = distance_extractor(subject)
        rfd, label = {}, ""
        if self.distances and extractor is not None:
            pair = [subject.features(of, extractor=extractor) for of in ("reconstructions", "val")]
            label, rfd = metric_name("rFD", extractor), {0.0: frechet_distance(*pair)}
            rfd |= {s: distances[metric_name(f"rFD_noise_{s:g}", extractor)] for s in self.distances}
        psnrs = {s: values.mean().item() for s, values in curve.items()}
        figures: dict[str, Figure | Tensor] = {"noise": drawing(psnrs, rfd, label)}
        if self.midpoints and min(subject.dataset.image.height, subject.dataset.image.width) > 1:
            figures["interpolation"] = self._interpolations(subject)
        return figures

    def _measured(self, subject: Subject) -> tuple[dict[float, Tensor], dict[str, Estimate]]:
        """PSNRs (n,) of the images by noise level from 0 upward, and Frechet distances by metric name."""
        if self._last is None or self._last[0] is not subject:
            z, images, labels = subject.latents("val"), subject.images("val"), subject.labels("val")
            step = unit(z) * subject.noise.fork("robustness").normal(z, "noise")
            extractor = distance_extractor(subject)
            # The images decoded without noise are the reconstructions.
            pairs = zip(subject.reconstructions().split(CHUNK), images.split(CHUNK), strict=True)
            curve = {0.0: torch.cat([psnr(*pair) for pair in pairs])}
            distances: dict[str, Estimate] = {}

            def distance(base: str, features: Tensor, paired: bool = False) -> None:
                assert extractor is not None
                name = metric_name(base, extractor)
                val = subject.features("val", extractor=extractor)
                distances[name] = frechet_estimate(name, features, val, paired=paired)

            for s in self.levels:
                curve[s], features = scored(
                    subject,
                    lambda i: z[i] + s * step[i],  # noqa: B023
                    labels,
                    lambda i: images[i],
                    [extractor] if extractor is not None and s in self.distances else [],
                )
                for found in features:
                    distance(f"rFD_noise_{s:g}", found, paired=True)
            if extractor is not None:
                a, b = partners(len(z)).T
                mean, labels_of_a = centre(z), None if labels is None else labels[a]
                for way in self.midpoints:
                    base = "rFD_interpolated_linear" if way == "linear" else "rFD_interpolated"
                    _, (found,) = scored(
                        subject,
                        lambda i: between(z[a[i]], z[b[i]], 0.5, way, mean),  # noqa: B023
                        labels_of_a,
                        None,
                        [extractor],
                    )
                    distance(base, found)
            self._last = subject, curve, distances
        return self._last[1:]

    def _interpolations(self, subject: Subject) -> Tensor:
        """Pixels of a grid: one row per pair of images, decoded from one latent to the other."""
        z = subject.latents("val")
        a, b = (z[side] for side in shown_pairs(len(z), subject.labels("val")).T)
        steps = torch.linspace(0, 1, STEPS).tolist()
        latents = torch.stack([between(a, b, t, self.midpoints[0], centre(z)) for t in steps], 1)
        images = decode_all(subject.tokenizer, latents.flatten(0, 1), device_of(subject))
        return torch.from_numpy(np.array(grid(to_uint8(images), STEPS)))


def unit(z: Tensor) -> Tensor:
    """Standard deviations (C,) of the channels of z (n, T, C); a constant channel gets no noise."""
    return z.double().flatten(0, 1).std(0, correction=0).to(z)


def centre(z: Tensor) -> Tensor:
    """Means (C,) of the channels of z (n, T, C)."""
    return z.double().mean((0, 1)).to(z)


def device_of(subject: Subject) -> torch.device:
    return next(subject.tokenizer.parameters()).device


def distance_extractor(subject: Subject | SubjectSizes) -> FeatureExtractor | None:
    """The first extractor whose features have Frechet distances."""
    return next(iter(distance_extractors(subject)), None)


def tolerance_estimate(curve: dict[float, Tensor], labels: Tensor | None) -> Estimate:
    """The noise tolerance of the mean PSNR, with its resamples and its values by class.

    `curve` has the PSNRs (n,) of the images by noise level. If the mean has fallen by 3 dB, resamples that
    haven't are extrapolated beyond the largest noise, so that replicates vary to both sides. Where it hasn't,
    the value, or a class's, is a bound.
    """
    noise, psnrs = list(curve), list(curve.values())

    def bounded(value: float) -> float:
        return Bound(noise[-1], "above") if value == math.inf else value

    by_class = [class_means(values, labels) or {} for values in psnrs]
    classes = {
        label: bounded(tolerance(noise, [level[label] for level in by_class])) for label in by_class[0]
    }
    value = tolerance(noise, [values.mean().item() for values in psnrs])
    if value == math.inf:
        return Bound(noise[-1], "above", classes or None)
    resampled = torch.stack([means("noise_tolerance", values) for values in psnrs], 1).tolist()
    return Estimate(value, [tolerance(noise, one, beyond=True) for one in resampled], classes or None)


def drawing(psnrs: dict[float, float], distances: dict[float, float], distance: str) -> Figure:
    """PSNR and, if distances were measured, rFD against the noise."""
    from matplotlib.figure import Figure

    panels = [(psnrs, "PSNR (dB)")]
    if distances:
        panels.append((distances, distance))
    figure = Figure(figsize=(4 * len(panels), 3), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (points, label) in zip(axes, panels, strict=True):
        axis.plot(list(points), list(points.values()), "o-", color="#30638e")
        axis.set(xlabel="noise on latents (standard deviations)", ylabel=label, xlim=(0, None))
        axis.grid(alpha=0.25)
    return figure
