"""Accuracy of classification by latent zones (LZN, Lin et al., 2025)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.models.latents import CHUNK, draw, encode
from ..bench.registry import register

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)


def metrics_for(alphas: Sequence[float]) -> dict[str, Metric]:
    """The metrics by name; a name contains alpha."""
    about = "zone_accuracy from latents with the zones' noise scaled by {:g}."
    return {f"zone_accuracy_alpha_{a:g}": Metric("tokenizer", True, "", about.format(a)) for a in alphas}


@register("classification")
class ZoneClassification(Evaluator):
    """Accuracy of the regularizer's own classifier of latents (`lzn` with `align`); none for others.

    Latents are encoded in minibatches of the training's size, `latent_batch` in the protocol; larger ones
    classify better. The paper has 2000 and drops the incomplete last minibatch, whereas here every image
    counts.
    """

    version = 2
    metrics = {
        "zone_accuracy": Metric(
            "tokenizer", True, "", "Share of held-out images whose latents lie in the zone of their class."
        ),
        "zone_accuracy_mean": Metric("tokenizer", True, "", "The same from latents without noise (alpha 0)."),
    }

    def run(self, subject: Subject) -> dict[str, float]:
        latents = (
            (name, subject.latents("val", deterministic=name.endswith("_mean"))) for name in self.metrics
        )
        return accuracies(subject, latents)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return common_protocol(subject) | {"latents": "deterministic" if name.endswith("_mean") else "drawn"}


@register("classification_by_alpha")
class ZoneClassificationByAlpha(Evaluator):
    """`classification` at other scales of the zones' noise than in training (LZN, figure 25)."""

    metrics = metrics_for(ALPHAS)

    def __init__(self, alphas: tuple[Annotated[float, Field(ge=0)], ...] = ALPHAS) -> None:
        self.metrics = metrics_for(alphas)  # type: ignore[misc]
        self.alphas = dict(zip(self.metrics, dict.fromkeys(alphas), strict=True))  # by metric name

    def run(self, subject: Subject) -> dict[str, float]:
        if not hasattr(subject.regularizer, "alpha"):
            return {}
        return accuracies(subject, self._latents(subject))

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return common_protocol(subject) | {"alpha": self.alphas[name]}

    def _latents(self, subject: Subject) -> Iterator[tuple[str, Tensor]]:
        """Metric names, and the latents drawn with the name's alpha."""
        like = next(subject.tokenizer.parameters())
        h = encode(subject.tokenizer, subject.dataset, "val", like.device)
        batch, noise = subject.latent_batch or CHUNK, subject.noise.fork("alphas")
        for name, alpha in self.alphas.items():
            scaled: Any = copy.copy(subject.regularizer)
            scaled.alpha = alpha
            yield name, draw(scaled, h, subject.labels("val"), noise, batch, like.device)


def accuracies(subject: Subject, latents: Iterable[tuple[str, Tensor]]) -> dict[str, float]:
    """Accuracies on held-out images by metric name, from pairs of a metric name and latents (n, T, C).

    Empty without labels, or if the regularizer doesn't classify.
    """
    truth = subject.labels("val")
    if truth is None:
        return {}
    scores: dict[str, float] = {}
    like = next(subject.regularizer.parameters(), torch.zeros(()))
    for name, z in latents:
        predictions = [subject.regularizer.classify(chunk.to(like.device)) for chunk in z.split(CHUNK)]
        labels = [chunk.cpu() for chunk in predictions if chunk is not None]
        if labels:
            scores[name] = mean_estimate(name, torch.cat(labels) == truth.cpu(), truth)
    return scores


def common_protocol(subject: Subject) -> dict[str, Any]:
    """The part of the protocol that both evaluators share."""
    return {
        "n": subject.dataset.size("val"),
        "latent_batch": subject.latent_batch,
        "decision": "the nearest anchor of a label, at the flow's end",
    }
