"""How far samples are from the training images, in units of how far other real images are."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from torch import Tensor

from ..bench.api import Estimate, Evaluator, Metric, Subject, SubjectSizes
from ..bench.data.fixed_order import random_rows
from ..bench.metrics import frechet
from ..bench.metrics.frechet import distance_extractors, frechet_distance, frechet_estimate, gaussian
from ..bench.metrics.names import metric_name
from ..bench.metrics.reuse import once
from ..bench.registry import register

NAME = "FDr"
LEAST = 2  # images, which a covariance needs
SMALLEST = 1e-6  # share of the training features' variance below which a distance is rounding

_spread = once(lambda train: gaussian(train).trace)
_between_real = once(frechet_distance)  # the same for all rows


def relative_estimate(samples: Tensor, heldout: Tensor, train: Tensor) -> Estimate | None:
    """FD(samples, train) / FD(heldout, train) of features (n, F), (n, F) and (m, F).

    Replicates are those of the numerator: all rows have the same denominator, which isn't resampled. The
    resamples are those of `FDr` for every extractor, so that replicates of several may be averaged. None
    where the denominator is zero but for rounding.
    """
    denominator = _between_real(heldout, train)
    if denominator <= SMALLEST * _spread(train):
        return None
    distance = frechet_estimate(NAME, samples, train)
    replicates = None if distance.replicates is None else [r / denominator for r in distance.replicates]
    return Estimate(distance / denominator, replicates)


def mean_of(ratios: Sequence[Estimate]) -> Estimate:
    """The arithmetic mean of ratios that share their resamples."""
    replicates = [r.replicates for r in ratios if r.replicates is not None]
    means = [fmean(values) for values in zip(*replicates, strict=True)]
    return Estimate(fmean(ratios), means if len(replicates) == len(ratios) else None)


@register("frechet_ratio")
class FrechetRatio(Evaluator):
    """The distance of samples to training images over that of held-out images, by every extractor.

    The first n samples and n held-out images, a fixed random choice, are compared, with n the smaller of the
    two numbers: a Frechet distance grows as n falls. Real images have 1. A ratio has no unit, so ratios of
    several networks have a mean (FDr_k of k networks); one network has no mean beside its ratio.

    Paper: https://arxiv.org/abs/2604.28190
    """

    metrics = {
        NAME: Metric(
            "generator",
            False,
            "",
            "Frechet distance to training images, samples over held-out images; 1 is real.",
        )
    }

    def run(self, subject: Subject) -> dict[str, float]:
        assert subject.samples is not None
        n, found = count(subject), {}
        for extractor in distance_extractors(subject):
            name = metric_name(NAME, extractor)
            if n < LEAST:
                subject.left_out[name] = f"a Frechet distance needs {LEAST} images on either side, not {n}"
                continue
            features = (subject.features(of, "pooled", extractor) for of in ("samples", "val", "train"))
            samples, heldout, train = features
            chosen = random_rows(subject.dataset.size("val"), n)
            ratio = relative_estimate(samples[:n], heldout[chosen], train)
            if ratio is None:
                reason = "held-out images are as near to the training images as rounding can tell"
                subject.left_out[name] = reason
            else:
                found[name] = ratio
        mean = {NAME: mean_of(list(found.values()))} if len(found) > 1 else {}
        return {**mean, **found}

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        peak = 0
        for extractor in distance_extractors(sizes):
            samples, width = sizes.features("samples", "pooled", extractor)
            heldout, _ = sizes.features("val", "pooled", extractor)
            train, _ = sizes.features("train", "pooled", extractor)
            n = min(samples, heldout)
            peak = max(peak, 4 * n * width + frechet.memory_bytes(n, train, width))
        return peak

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        ratios = {metric_name(NAME, extractor): extractor for extractor in distance_extractors(subject)}
        judges = [ratios[name]] if name in ratios else list(ratios.values())
        common = {
            "n": count(subject),
            "reference": "train",
            "reference_n": len(subject.features("train", "pooled", judges[0])),
            "denominator": "as many held-out images, not resampled",
        }
        if subject.requested_labels() is not None:
            common["sample_classes"] = "in train's proportions"
        if name in ratios:
            return {**common, "features": judges[0].protocol()}
        kept = [judge for judge in judges if metric_name(NAME, judge) not in subject.left_out]
        return {**common, "mean": "arithmetic", "features": {judge.name: judge.protocol() for judge in kept}}


def count(subject: Subject) -> int:
    """The number of samples, and of held-out images, that are compared."""
    assert subject.samples is not None
    return min(len(subject.samples), subject.dataset.size("val"))
