"""How a decoder takes latents that no image has: noisy ones (SimFlow, figure 3a) and ones in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Estimate, Evaluator, FeatureExtractor, Metric, Subject, to_uint8
from ..bench.data.images import psnr
from ..bench.metrics.bootstrap import class_means, mean_estimate, means
from ..bench.metrics.frechet import frechet_distance, frechet_estimate
from ..bench.metrics.names import base_name, metric_name
from ..bench.metrics.protocols import distance_protocol
from ..bench.models.latents import CHUNK, decode_all, decode_batch
from ..bench.registry import register
from ..bench.report.image_grids import grid
from ..bench.runtime.onednn import by_onednn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Way = Literal["spherical", "linear"]
Level = Annotated[float, Field(gt=0)]

NOISE, DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.5), (0.1, 0.3)
FALL = 3.0  # dB
PAIRS, STEPS = 8, 7  # of the picture


def between(a: Tensor, b: Tensor, t: float, way: Way, centre: Tensor) -> Tensor:
    """(n, T, C) twice -> the latents at t on the ways from a (t = 0) to b (t = 1).

    On the sphere (White, 2016) around `centre` a midpoint is as far out as its ends are; on the line those of
    independent latents lie nearer by sqrt(2). Ends that point the same or opposite ways are joined by a line.
    """
    x, y = ((z - centre).double().flatten(1) for z in (a, b))
    weights = torch.tensor([1 - t, t], dtype=torch.float64).expand(len(x), 2)
    if way == "spherical":
        angle = torch.nn.functional.cosine_similarity(x, y).clamp(-1, 1).acos()[:, None]
        weights = torch.where(angle.sin() > 1e-6, (weights * angle).sin() / angle.sin(), weights)
    return (weights[:, :1] * x + weights[:, 1:] * y).view_as(a).to(a) + centre


def tolerance(noise: Sequence[float], curve: Sequence[float], beyond: bool = False) -> float:
    """The noise at which a curve of PSNRs, the first without noise, has fallen by 3 dB; NaN if it never does.

    Between two levels the squared error grows with the squared noise, as it does for a linear decoder; and so
    it does `beyond` the largest, if that is wanted, where it grew up to there.
    """
    points = [(s**2, 10 ** (-value / 10)) for s, value in zip(noise, curve, strict=True)]
    target = points[0][1] * 10 ** (FALL / 10)
    ways = list(pairwise(points))
    for i, ((s, below), (following, above)) in enumerate(ways):
        if above >= target or (beyond and i == len(ways) - 1 and above > below):
            return (s + (following - s) * (target - below) / (above - below)) ** 0.5
    return math.nan


def partners(n: int) -> Tensor:
    """(n, 2) pairs of n images, each image once on either side and never with itself (unless alone)."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return torch.stack([order, order.roll(1)], 1)


def shown_pairs(n: int, labels: Tensor | None) -> Tensor:
    """At most 8 pairs of n images: with labels, the first four of one class each, the others of two."""
    if labels is None:
        return partners(n)[:PAIRS]
    members = [torch.nonzero(labels == label).flatten() for label in labels.unique().tolist()]
    same = [own[:2] for own in members if len(own) > 1][: PAIRS // 2]
    mixed = [torch.stack([a[0], b[-1]]) for a, b in pairwise(members)][: PAIRS - len(same)]
    return torch.stack(same + mixed) if same + mixed else partners(n)[:PAIRS]


def metrics_for(levels: Sequence[float], distances: Sequence[float]) -> dict[str, Metric]:
    """What the numbers mean; names carry the noise."""
    found = {
        "noise_tolerance": Metric(
            "tokenizer",
            True,
            "",
            "Noise, in standard deviations of latents, that costs 3 dB: soon, of a high PSNR; none if no "
            "noise that was tried does.",
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
        found[f"PSNR_noise_{s:g}"] = Metric("tokenizer", True, "dB", about)
    for s in distances:
        about = f"rFD with noise of {s:g} standard deviations on latents."
        found[f"rFD_noise_{s:g}"] = Metric("tokenizer", False, "", about)
    return found


@register("robustness")
class Robustness(Evaluator):
    """Decodes latents with noise on them, and the midpoints of two images' latents.

    Noise comes in units of each channel's standard deviation over the held-out latents, which is what a
    generator's errors are relative to. Pairs and draws are the same for every row.
    """

    version = 2
    metrics = metrics_for(NOISE, DISTANCES)

    def __init__(
        self,
        noise: tuple[Level, ...] = NOISE,
        distances: tuple[Level, ...] = DISTANCES,
        midpoints: tuple[Way, ...] = ("spherical",),
    ) -> None:
        """
        Args:
            noise: where PSNR is taken.
            distances: where rFD is taken too: each takes features of all images anew.
            midpoints: the ways between two latents whose midpoints are decoded.
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
        found: dict[str, float] = {}
        for s in self.levels:
            name = f"PSNR_noise_{s:g}"
            found[name] = mean_estimate(name, curve[s], labels)
        if self.levels:
            found["noise_tolerance"] = tolerance_estimate(curve, labels)
        found["noise_unit"] = unit(subject.latents("val")).square().mean().sqrt().item()
        return found | distances

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        n = len(subject.latents("val"))
        common = {"n": n, "rounding": "8 bits", "latent": "drawn"}
        base = base_name(name)
        if base.startswith("rFD"):
            extractor = measured_by(subject)
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
                "not_reached": "no value",
                "between": "squares are linear",
            }
        return {**common, "noise": float(base.rpartition("_")[2])}

    def figures(self, subject: Subject) -> dict[str, Figure | Tensor]:
        if not subject.decodes:
            return {}
        curve, distances = self._measured(subject)
        extractor = measured_by(subject)
        at, label = {}, ""
        if self.distances and extractor is not None:
            pair = [subject.features(of, extractor=extractor) for of in ("reconstructions", "val")]
            names = {s: metric_name(f"rFD_noise_{s:g}", extractor) for s in self.distances}
            label = metric_name("rFD", extractor)
            at = {0.0: frechet_distance(*pair)} | {s: distances[name] for s, name in names.items()}
        found: dict[str, Figure | Tensor] = {
            "noise": drawing({s: one.mean().item() for s, one in curve.items()}, at, label)
        }
        if self.midpoints and min(subject.dataset.image.height, subject.dataset.image.width) > 1:
            found["interpolation"] = self._ways(subject)
        return found

    def _measured(self, subject: Subject) -> tuple[dict[float, Tensor], dict[str, Estimate]]:
        """PSNR of each image by noise, from none up, and the Frechet distances by name."""
        if self._last is None or self._last[0] is not subject:
            z, images, labels = subject.latents("val"), subject.images("val"), subject.labels("val")
            step = unit(z) * subject.noise.fork("robustness").normal(z, "noise")
            extractor = measured_by(subject)
            # What is decoded without noise are the reconstructions.
            pairs = zip(subject.reconstructions().split(CHUNK), images.split(CHUNK), strict=True)
            curve = {0.0: torch.cat([psnr(*pair) for pair in pairs])}
            distances: dict[str, Estimate] = {}

            def distance(base: str, features: Tensor, paired: bool = False) -> None:
                assert extractor is not None
                name = metric_name(base, extractor)
                val = subject.features("val", extractor=extractor)
                distances[name] = frechet_estimate(name, features, val, paired=paired)

            for s in self.levels:
                wanted = extractor if s in self.distances else None
                curve[s], features = judged(
                    subject,
                    lambda i: z[i] + s * step[i],  # noqa: B023
                    labels,
                    images,
                    wanted,
                )
                if features is not None:
                    distance(f"rFD_noise_{s:g}", features, paired=True)
            if extractor is not None:
                one, two = partners(len(z)).T
                middle, first = centre(z), None if labels is None else labels[one]
                for way in self.midpoints:
                    base = "rFD_interpolated" + ("_linear" if way == "linear" else "")
                    _, features = judged(
                        subject,
                        lambda i: between(z[one[i]], z[two[i]], 0.5, way, middle),  # noqa: B023
                        first,
                        None,
                        extractor,
                    )
                    assert features is not None
                    distance(base, features)
            self._last = subject, curve, distances
        return self._last[1:]

    def _ways(self, subject: Subject) -> Tensor:
        """A row for each pair, the two reconstructions at its ends."""
        z = subject.latents("val")
        a, b = (z[side] for side in shown_pairs(len(z), subject.labels("val")).T)
        steps = torch.linspace(0, 1, STEPS).tolist()
        on_the_way = torch.stack([between(a, b, t, self.midpoints[0], centre(z)) for t in steps], 1)
        images = decode_all(subject.tokenizer, on_the_way.flatten(0, 1), device_of(subject))
        return torch.from_numpy(np.array(grid(to_uint8(images), STEPS)))


def unit(z: Tensor) -> Tensor:
    """(n, T, C) -> (C,) standard deviations; a dead channel gets no noise."""
    return z.double().flatten(0, 1).std(0, correction=0).to(z)


def centre(z: Tensor) -> Tensor:
    """(n, T, C) -> (C,) means."""
    return z.double().mean((0, 1)).to(z)


def device_of(subject: Subject) -> torch.device:
    return next(subject.tokenizer.parameters()).device


def measured_by(subject: Subject) -> FeatureExtractor | None:
    """The first extractor that Frechet distances are for."""
    return next((extractor for extractor in subject.extractors if not extractor.cmmd), None)


@torch.no_grad()
def judged(
    subject: Subject,
    latents: Callable[[Tensor], Tensor],
    labels: Tensor | None,
    images: Tensor | None,
    extractor: FeatureExtractor | None,
) -> tuple[Tensor, Tensor | None]:
    """PSNR (n,) of what latents(index) decode to against images, and pooled features (n, F), where asked for.

    Chunk by chunk: no decoded image is kept. Labels (n,) and noise are for decoders that draw.
    """
    device, noise = device_of(subject), subject.noise.fork("decoder")
    values, features = [torch.zeros(0).double()], []
    for number, index in enumerate(torch.arange(len(subject.latents("val"))).split(CHUNK)):
        chosen = None if labels is None else labels[index].to(device)
        with by_onednn():
            drawn = decode_batch(subject.tokenizer, latents(index).to(device), chosen, noise.fork(number))
        shown = drawn.clamp(-1, 1)
        if images is not None:
            values.append(psnr(to_uint8(shown).cpu(), images[index]))
        if extractor is not None:
            features.append(extractor.describe(shown, ["pooled"])["pooled"].cpu())
    return torch.cat(values), torch.cat(features) if features else None


def tolerance_estimate(curve: dict[float, Tensor], labels: Tensor | None) -> Estimate:
    """From the PSNR of each image (n,) by noise: of their mean, of its resamples, and of each class's.

    Where the mean has fallen by 3 dB, resamples that haven't quite are taken on beyond the largest noise, so
    that replicates spread on either side. Without a value there are none; classes without one are left out.
    """
    noise, values = list(curve), list(curve.values())
    value = tolerance(noise, [one.mean().item() for one in values])
    resampled = torch.stack([means("noise_tolerance", one) for one in values], 1).tolist()
    by_class = [class_means(one, labels) or {} for one in values]
    classes = {label: tolerance(noise, [one[label] for one in by_class]) for label in by_class[0]}
    return Estimate(
        value,
        None if math.isnan(value) else [tolerance(noise, line, beyond=True) for line in resampled],
        {label: found for label, found in classes.items() if not math.isnan(found)} or None,
    )


def drawing(psnrs: dict[float, float], distances: dict[float, float], distance: str) -> Figure:
    """PSNR and, where it was taken, rFD against the noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * (1 + bool(distances)), 3), dpi=100, layout="constrained")
    axes = figure.subplots(1, 1 + bool(distances), squeeze=False)[0]
    for axis, points, label in zip(axes, (psnrs, distances), ("PSNR (dB)", distance), strict=False):
        axis.plot(list(points), list(points.values()), "o-", color="#30638e")
        axis.set(xlabel="noise on latents (standard deviations)", ylabel=label, xlim=(0, None))
        axis.grid(alpha=0.25)
    return figure
