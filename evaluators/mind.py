"""The sliced distance between samples and training images in feature space (MIND)."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from ..bench.api import Evaluator, FeatureExtractor, Metric, Subject, SubjectSizes
from ..bench.data.fixed_order import random_rows
from ..bench.metrics import sliced
from ..bench.metrics.names import metric_name
from ..bench.metrics.sliced import DIRECTIONS, DIRECTIONS_SEED, sliced_estimate
from ..bench.registry import register

NAME = "MIND"


def equally_many(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, F) of both sets, of the larger one a fixed random choice of as many as the smaller has."""
    n = min(len(a), len(b))
    return a[random_rows(len(a), n)], b[random_rows(len(b), n)]


@register("mind")
class Mind(Evaluator):
    """Compares the sorted projections of samples and of training images on 1000 random directions.

    No Gaussian is fitted, as the Frechet distance does, so 5,000 samples order rows as 50,000 do, says the
    paper. The value falls with the number of samples. If there are fewer held-out images than samples, the
    `real` row has fewer images, and the first samples of the other rows are scored at that number, too.

    Paper: https://arxiv.org/abs/2605.06797
    """

    metrics = {
        NAME: Metric("generator", False, "", "Sliced Wasserstein distance of features to training images.")
    }

    def run(self, subject: Subject) -> dict[str, float]:
        assert subject.samples is not None
        n, heldout = len(subject.samples), subject.dataset.size("val")
        counts: list[int | None] = [] if subject.real else [None]
        if subject.real or n > heldout:
            counts.append(n if subject.real else heldout)
        scores: dict[str, float] = {}
        for extractor in subject.extractors:
            for at in counts:
                name = metric_name(NAME, extractor, at)
                scores[name] = sliced_estimate(name, *compared(subject, extractor, at))
        return scores

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        peak = 0
        for extractor in sizes.extractors:
            samples, width = sizes.features("samples", "pooled", extractor)
            train, _ = sizes.features("train", "pooled", extractor)
            n = min(samples, train)
            peak = max(peak, 2 * 4 * n * width + sliced.memory_bytes(n, width))
        return peak

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        match = re.search(r"@(\d+)", name)
        at = int(match[1]) if match else None
        extractor = next(e for e in subject.extractors if name == metric_name(NAME, e, at))
        samples, _ = compared(subject, extractor, at)
        common = {
            "n": len(samples),
            "reference": "train",
            "reference_n": len(samples),
            "directions": DIRECTIONS,
            "directions_seed": DIRECTIONS_SEED,
            "features": extractor.protocol(),
        }
        if subject.requested_labels() is not None:
            common["sample_classes"] = "in train's proportions"
        return common


def compared(subject: Subject, extractor: FeatureExtractor, at: int | None) -> tuple[Tensor, Tensor]:
    """Features of the first `at` samples (None: of all) and of training images, equally many."""
    samples, train = (subject.features(of, "pooled", extractor) for of in ("samples", "train"))
    return equally_many(samples[:at], train)
