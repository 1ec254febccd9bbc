"""How close generated images come to the training set in feature space, and whether they copy it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bench.api import Estimate, Evaluator, FeatureExtractor, Metric, Subject, SubjectSizes
from ..bench.data.fixed_order import random_rows
from ..bench.metrics import bootstrap, frechet, kernel, neighbours
from ..bench.metrics.bootstrap import counts
from ..bench.metrics.frechet import frechet_estimate
from ..bench.metrics.kernel import PAIRS, cmmd_estimate, kernel_estimate
from ..bench.metrics.names import base_name, metric_name
from ..bench.metrics.neighbours import NEAREST, memorisation_estimate, neighbour_protocol
from ..bench.metrics.one_pass import kernel_and_overlap_estimates
from ..bench.metrics.protocols import distance_protocol
from ..bench.registry import register

SPLITS, SPLIT_SEED = 10, 2020  # torch-fidelity's defaults
ROWS = 64  # of probabilities at a time, which fit a cache
NEIGHBOURS = ("precision", "recall", "density", "coverage", "label_agreement")


def inception_score(name: str, logits: Tensor) -> Estimate:
    """exp of the mean KL divergence from a sample's classes to all samples' (Salimans et al., 2016).

    As in torch-fidelity, this is the mean over ten splits of the shuffled samples. Replicates are linear in
    the samples' weights. A weight's coefficient comes from its split without the sample, as in a jackknife,
    since derivatives would underestimate the effect of a class with a single sample. Replicates vary as much
    as values of new samples do for splits of 36, and 1.2 times as much for splits of 10; for splits of one or
    two there are no replicates.
    """
    n = len(logits)
    order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(n))
    splits = min(SPLITS, n)
    scores, influence = [], torch.zeros(n, dtype=torch.float64)
    for i in range(splits):
        rows = order[i * n // splits : (i + 1) * n // splits]
        parts = [some.double().softmax(1) for some in logits[rows].detach().cpu().split(ROWS)]
        p = torch.cat(parts)
        entropies = torch.cat([entropy(some) for some in parts])
        scores.append((entropy(p.mean(0)) - entropies.mean()).exp())
        if (size := len(rows)) > 2:
            total = p.sum(0)
            mean_without = (entropies.sum() - entropies) / (size - 1)
            others = torch.cat([entropy((total - some) / (size - 1)) for some in parts])
            score_without = (others - mean_without).exp()  # each sample left out
            influence[rows] = (score_without.mean() - score_without) * (size - 1) / size / splits
    value = torch.stack(scores).mean().item()
    return Estimate(value, value + (counts(name, n) - 1) @ influence if n // splits > 2 else None)


def entropy(p: Tensor) -> Tensor:
    """Entropies (...) in nats of probabilities (..., K), which rounding may have made negative."""
    return torch.special.entr(p.clamp(min=0)).sum(-1)


def compared(n: int) -> Tensor:
    """Rows of n training images, at most 50,000: a fixed random choice, as they may be sorted by class."""
    return random_rows(n, PAIRS)


@register("generation")
class Generation(Evaluator):
    """Compares samples with the train split by every extractor: distances, precision, recall, copies.

    Many of these metrics depend on the number of samples. If there are fewer held-out images than samples,
    the `real` row has fewer images, and the first samples of the other rows are scored at that number, too
    (`gFD@360`). Single classes have kernel distances and shares, but no Frechet distances, whose bias would
    dominate for so few images.
    """

    version = 4
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
        scores: dict[str, float] = {}
        for extractor in subject.extractors:
            if not subject.real:
                scores |= self._score(subject, extractor, None)
            if subject.real or n > heldout:
                scores |= self._score(subject, extractor, n if subject.real else heldout)
        return scores

    def _score(self, subject: Subject, extractor: FeatureExtractor, at: int | None) -> dict[str, float]:
        """The metrics of the first `at` samples (None: of all)."""
        samples, train = (subject.features(of, "pooled", extractor) for of in ("samples", "train"))
        samples, subset = samples[:at], compared(len(train))
        labels = self._labels(subject, at, subset)

        def name(base: str) -> str:
            return metric_name(base, extractor, at)

        if extractor.cmmd:
            return {name("CMMD"): cmmd_estimate(name("CMMD"), samples, train[subset], labels)}
        scores: dict[str, float] = {name("gFD"): frechet_estimate(name("gFD"), samples, train)}
        if "spatial" in extractor.outputs and at is None:
            maps, train_maps = (subject.features(of, "spatial", extractor) for of in ("samples", "train"))
            scores[name("sFD")] = frechet_estimate(name("sFD"), maps, train_maps)
        if "logits" in extractor.outputs:
            logits = subject.features("samples", "logits", extractor)[:at]
            scores[name("IS")] = inception_score(name("IS"), logits)
        if (fewer := min(len(samples), len(train))) <= NEAREST:
            reason = f"{NEAREST} neighbours need more than {NEAREST} images on either side, not {fewer}"
            subject.left_out |= {name(base): reason for base in NEIGHBOURS}
            return scores | subject.attempt(
                name("KD"), lambda: kernel_estimate(name("KD"), samples, train[subset], labels=labels)
            )
        names = {base: name(base) for base in NEIGHBOURS}
        shares, nearest = kernel_and_overlap_estimates(name("KD"), names, samples, train[subset], labels)
        if at is None:
            full_name, heldout = name("memorisation"), subject.features("val", "pooled", extractor)
            sample_labels = labels[0] if labels else None
            shares[full_name] = memorisation_estimate(
                full_name, nearest, heldout, train[subset], sample_labels
            )
        return scores | shares

    def _names(self, extractor: FeatureExtractor, at: int | None) -> set[str]:
        return {metric_name(base, extractor, at) for base in self.metrics}

    def _labels(self, subject: Subject, at: int | None, subset: Tensor) -> tuple[Tensor, Tensor] | None:
        """Labels of the samples and of the training images they are compared with; None without classes."""
        requested, train_labels = subject.requested_labels(), subject.labels("train")
        if requested is None or train_labels is None:
            return None
        return requested[:at], train_labels.cpu()[subset]

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        peak = 0
        for extractor in sizes.extractors:
            n, width = sizes.features("samples", "pooled", extractor)
            train, _ = sizes.features("train", "pooled", extractor)
            m, labelled = min(train, PAIRS), sizes.classes
            subset, kernels = 4 * m * width, kernel.memory_bytes(n, m, width, labelled)
            if extractor.cmmd:
                peak = max(peak, subset + kernel.memory_bytes(n, m, width, labelled, double=True))
                continue
            peak = max(
                peak,
                frechet.memory_bytes(n, train, width),
                2 * subset
                + kernels
                + neighbours.memory_bytes(n, m, sizes.val, width)
                + bootstrap.memory_bytes(n, 4),
            )
            if "spatial" in extractor.outputs:
                peak = max(
                    peak, frechet.memory_bytes(n, train, sizes.features("samples", "spatial", extractor)[1])
                )
        return peak

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        assert subject.samples is not None
        base, match = base_name(name), re.search(r"@(\d+)", name)
        at = int(match[1]) if match else None
        n = len(subject.samples) if at is None else at
        extractor = next(e for e in subject.extractors if name in self._names(e, at))
        features = {"features": extractor.protocol()}
        if base == "IS":
            return {"n": n, "splits": min(SPLITS, n), "split_seed": SPLIT_SEED, **features}
        m = len(subject.features("train", "pooled", extractor))
        common = {"n": n, "reference": "train", "reference_n": m, **features}
        if subject.requested_labels() is not None:
            common["sample_classes"] = "in train's proportions"
        if base in ("gFD", "gFID"):
            return common
        if base in ("sFD", "sFID"):
            return {**common, "output": "spatial"}
        if m > PAIRS:
            common |= {"reference_n": (m := PAIRS), "reference_drawn": "without replacement"}
        if base in ("KD", "KID", "CMMD"):
            return {**common, **distance_protocol(name, n, m)}
        if base == "memorisation":
            common["heldout_n"] = subject.dataset.size("val")
        return {**common, **neighbour_protocol(name)}
