"""How close generated images come to the training set, and whether they copy it, by features."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bench.api import Estimate, Evaluator, FeatureExtractor, Metric, Subject
from ..bench.metrics.bootstrap import counts
from ..bench.metrics.frechet import frechet_estimate
from ..bench.metrics.kernel import cmmd_estimate, kernel_estimate
from ..bench.metrics.names import base_name, metric_name
from ..bench.metrics.neighbours import NEAREST, memorisation_estimate, neighbour_protocol, overlap_estimates
from ..bench.metrics.protocols import distance_protocol
from ..bench.registry import register

SPLITS, SPLIT_SEED = 10, 2020  # torch-fidelity's defaults
PAIRS = 50_000  # training images that samples are compared with one by one
NEIGHBOURS = ("precision", "recall", "density", "coverage", "label_agreement")


def inception_score(name: str, logits: Tensor) -> Estimate:
    """exp of the mean KL divergence from a sample's classes to all samples' (Salimans et al., 2016).

    The mean over shuffled tenths of the samples, as in torch-fidelity. Replicates are to the first order in
    the samples' weights, from each tenth without one of its samples, as a jackknife: by derivatives, a class
    that only one sample has would count too little. They spread as values of new samples do with tenths of
    36, and 1.2 times as wide with tenths of 10; with tenths of one or two there are none.
    """
    n = len(logits)
    order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(n))
    splits = min(SPLITS, n)
    scores, change = [], torch.zeros(n, dtype=torch.float64)
    for i in range(splits):
        rows = order[i * n // splits : (i + 1) * n // splits]
        p = logits[rows].detach().cpu().double().softmax(1)
        own = entropy(p)
        scores.append((entropy(p.mean(0)) - own.mean()).exp())
        if (size := len(rows)) > 2:
            without = (entropy((p.sum(0) - p) / (size - 1)) - (own.sum() - own) / (size - 1)).exp()
            change[rows] = (without.mean() - without) * (size - 1) / size / splits
    value = torch.stack(scores).mean().item()
    return Estimate(value, value + (counts(name, n) - 1) @ change if n // splits > 2 else None)


def entropy(p: Tensor) -> Tensor:
    """(..., K) probabilities, up to rounding below 0 -> (...) in nats."""
    return torch.special.entr(p.clamp(min=0)).sum(-1)


def thinned(n: int) -> slice:
    """Of n training images at most 50,000, evenly spaced, as they may come sorted by class."""
    return slice(None, None, math.ceil(n / PAIRS))


@register("generation")
class Generation(Evaluator):
    """Samples against the train split, by every extractor: Frechet and kernel distances, shares, copies.

    Many of these depend on the number of samples. The `real` row has as many as the others where there are
    as many held-out images; else the others are scored at that number too (`gFD@360`): their first samples.
    Classes have kernel distances and shares; a Frechet distance of so few images would be all bias.
    """

    version = 3
    metrics = {
        "gFD": Metric("generator", False, "", "Frechet distance of features, samples to training images."),
        "gFID": Metric("generator", False, "", "gFD on the features of Inception-v3."),
        "sFD": Metric("generator", False, "", "gFD on a map of features, which keeps where things are."),
        "sFID": Metric("generator", False, "", "sFD on the features of Inception-v3."),
        "KD": Metric(
            "generator", False, "", "Squared kernel MMD of features; unbiased, so it may be negative."
        ),
        "KID": Metric("generator", False, "", "KD on the features of Inception-v3."),
        "CMMD": Metric("generator", False, "", "Squared MMD of CLIP's embeddings, Gaussian kernel, x1000."),
        "IS": Metric(
            "generator", True, "", "How sure a classifier is of each sample, and how varied its classes are."
        ),
        "precision": Metric("generator", True, "", "Share of samples that lie among training images."),
        "recall": Metric("generator", True, "", "Share of training images that lie among samples."),
        "density": Metric(
            "generator",
            True,
            "",
            "How densely training images surround samples; may exceed 1, which is where real images lie.",
        ),
        "coverage": Metric(
            "generator", True, "", "Share of training images that have a sample in their neighbourhood."
        ),
        "label_agreement": Metric(
            "generator", True, "", "Share of a sample's 5 nearest training images that are of its class."
        ),
        "memorisation": Metric(
            "generator",
            None,
            "",
            "Chance that a sample is nearer to training images than a held-out one; 0.5 is ideal.",
        ),
    }

    def run(self, subject: Subject) -> dict[str, float]:
        assert subject.samples is not None
        n, heldout = len(subject.samples), subject.dataset.size("val")
        found: dict[str, float] = {}
        for extractor in subject.extractors:
            if not subject.real:
                found |= self._score(subject, extractor, None)
            if subject.real or n > heldout:
                found |= self._score(subject, extractor, n if subject.real else heldout)
        return found

    def _score(self, subject: Subject, extractor: FeatureExtractor, at: int | None) -> dict[str, float]:
        """The metrics of the first `at` samples."""
        samples, train = (subject.features(of, "pooled", extractor) for of in ("samples", "train"))
        samples, few = samples[:at], thinned(len(train))
        labels = self._labels(subject, at, len(train), few)

        def name(base: str) -> str:
            return metric_name(base, extractor, at)

        if extractor.cmmd:
            return {name("CMMD"): cmmd_estimate(name("CMMD"), samples, train[few], labels)}
        found: dict[str, float] = {name("gFD"): frechet_estimate(name("gFD"), samples, train)}
        if "spatial" in extractor.outputs and at is None:
            maps, others = (subject.features(of, "spatial", extractor) for of in ("samples", "train"))
            found[name("sFD")] = frechet_estimate(name("sFD"), maps, others)
        found[name("KD")] = kernel_estimate(name("KD"), samples, train[few], labels=labels)
        if "logits" in extractor.outputs:
            logits = subject.features("samples", "logits", extractor)[:at]
            found[name("IS")] = inception_score(name("IS"), logits)
        if min(len(samples), len(train)) <= NEAREST:
            return found
        names = {base: name(base) for base in NEIGHBOURS}
        shares, near = overlap_estimates(names, samples, train[few], labels)
        if at is None:
            full, heldout = name("memorisation"), subject.features("val", "pooled", extractor)
            asked = labels[0] if labels else None
            shares[full] = memorisation_estimate(full, near, heldout, train[few], asked)
        return found | shares

    def _names(self, extractor: FeatureExtractor, at: int | None) -> set[str]:
        return {metric_name(base, extractor, at) for base in self.metrics}

    def _labels(
        self, subject: Subject, at: int | None, train: int, few: slice
    ) -> tuple[Tensor, Tensor] | None:
        """Of samples and of the training images they are compared with, if there are classes.

        Those that are others mirrored, beyond the first `train`, have no features.
        """
        asked, known = subject.requested_labels(), subject.labels("train")
        if asked is None or known is None:
            return None
        return asked[:at], known[:train][few].cpu()

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        assert subject.samples is not None
        base, at = base_name(name), re.search(r"@(\d+)", name)
        n = int(at[1]) if at else len(subject.samples)
        extractor = next(e for e in subject.extractors if name in self._names(e, int(at[1]) if at else None))
        features = {"features": extractor.protocol()}
        if base == "IS":
            return {"n": n, "splits": min(SPLITS, n), "split_seed": SPLIT_SEED, **features}
        m = len(subject.features("train", "pooled", extractor))
        common = {"n": n, "reference": "train", "reference_n": m, **features}
        if base in ("gFD", "gFID"):
            return common
        if base in ("sFD", "sFID"):
            return {**common, "output": "spatial"}
        common["reference_n"] = m = len(range(m)[thinned(m)])
        if base in ("KD", "KID", "CMMD"):
            return {**common, **distance_protocol(name, n, m)}
        if base == "memorisation":
            common["heldout_n"] = subject.dataset.size("val")
        return {**common, **neighbour_protocol(name)}
