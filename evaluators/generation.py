"""How close generated images come to the training set, and whether they copy it, by distances of features."""

from __future__ import annotations

import re
from typing import Any

from ..bench.api import Evaluator, Metric, Subject
from ..bench.distances import (
    distance_protocol,
    frechet_distance,
    kernel_distance,
    memorisation,
    precision_recall,
)
from ..bench.naming import metric_name
from ..bench.records import base_name
from ..bench.registry import register


@register("generation")
class Generation(Evaluator):
    """Samples against the train split: gFD, KD, precision, recall, memorisation.

    The distances depend on the number of samples. The `real` row can have no more samples than there are
    held-out images, so every other row is scored at that number too (`gFD@360`): its first samples.
    """

    metrics = {
        "gFD": Metric("generator", False, "", "Frechet distance of features, samples to training images."),
        "gFID": Metric("generator", False, "", "gFD on the features of Inception-v3."),
        "KD": Metric(
            "generator", False, "", "Squared kernel MMD of features; unbiased, so it may be negative."
        ),
        "precision": Metric("generator", True, "", "Share of samples that lie among training images."),
        "recall": Metric("generator", True, "", "Share of training images that lie among samples."),
        "memorisation": Metric(
            "generator",
            None,
            "",
            "Chance that a sample is nearer to training images than a held-out one; 0.5 is ideal.",
        ),
    }

    def run(self, subject: Subject) -> dict[str, float]:
        samples, train = subject.features("samples"), subject.features("train")
        extractor, heldout = subject.extractors[0], subject.dataset.size("val")
        counts: list[int | None] = [] if subject.real else [None]
        if subject.real or len(samples) >= heldout:
            counts.append(len(samples) if subject.real else heldout)
        found: dict[str, float] = {}
        for at in counts:
            some = samples[:at]
            precision, recall = precision_recall(some, train)
            found[metric_name("gFD", extractor, at)] = frechet_distance(some, train)
            found[metric_name("KD", extractor, at)] = kernel_distance(some, train)
            found[metric_name("precision", extractor, at)] = precision
            found[metric_name("recall", extractor, at)] = recall
        if not subject.real:
            found[metric_name("memorisation", extractor)] = memorisation(
                samples, subject.features("val"), train
            )
        return found

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        at = re.search(r"@(\d+)", name)
        n = int(at[1]) if at else len(subject.features("samples"))
        m = len(subject.features("train"))
        common = {
            "n": n,
            "reference": "train",
            "reference_n": m,
            "features": subject.extractors[0].protocol(),
        }
        if base_name(name) == "memorisation":
            return {**common, "heldout_n": len(subject.features("val")), "ties": "half"}
        return {**common, **distance_protocol(name, n, m)}
