"""Classification by latent zones: the label in whose zone an image's latent lies (LZN, Lin et al., 2025)."""

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
    """What the numbers mean; names carry alpha."""
    about = "zone_accuracy from latents with the zones' noise scaled by {:g}."
    return {f"zone_accuracy_alpha_{a:g}": Metric("tokenizer", True, "", about.format(a)) for a in alphas}


@register("classification")
class ZoneClassification(Evaluator):
    """For methods whose latents say their class (`lzn` with `align`), nothing for others.

    Latents are encoded in minibatches of the training's size, `latent_batch` of the protocol: the larger, the
    better they tell; the paper's is 2000. It also drops the incomplete last one; here every image counts.
    """

    version = 2
    metrics = {
        "zone_accuracy": Metric(
            "tokenizer", True, "", "Share of held-out images whose latents lie in the zone of their class."
        ),
        "zone_accuracy_mean": Metric("tokenizer", True, "", "The same from latents without noise (alpha 0)."),
    }

    def run(self, subject: Subject) -> dict[str, float]:
        drawn = (
            (name, subject.latents("val", deterministic=name.endswith("_mean"))) for name in self.metrics
        )
        return classified(subject, drawn)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return decided(subject) | {"latents": "deterministic" if name.endswith("_mean") else "drawn"}


@register("classification_by_alpha")
class ZoneClassificationByAlpha(Evaluator):
    """`classification` with the zones' noise scaled otherwise than in training; figure 25."""

    metrics = metrics_for(ALPHAS)

    def __init__(self, alphas: tuple[Annotated[float, Field(ge=0)], ...] = ALPHAS) -> None:
        self.metrics = metrics_for(alphas)  # type: ignore[misc]
        self.alphas = dict(zip(self.metrics, dict.fromkeys(alphas), strict=True))

    def run(self, subject: Subject) -> dict[str, float]:
        return classified(subject, self._latents(subject)) if hasattr(subject.regularizer, "alpha") else {}

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return decided(subject) | {"alpha": self.alphas[name]}

    def _latents(self, subject: Subject) -> Iterator[tuple[str, Tensor]]:
        like = next(subject.tokenizer.parameters())
        h = encode(subject.tokenizer, subject.dataset, "val", like.device)
        batch, noise = subject.latent_batch or CHUNK, subject.noise.fork("alphas")
        for name, alpha in self.alphas.items():
            scaled: Any = copy.copy(subject.regularizer)
            scaled.alpha = alpha
            yield name, draw(scaled, h, subject.labels("val"), noise, batch, like.device)


def classified(subject: Subject, latents: Iterable[tuple[str, Tensor]]) -> dict[str, float]:
    """Shares of held-out images that their latents (n, T, C) classify rightly, by the name of a metric."""
    truth = subject.labels("val")
    if truth is None:
        return {}
    found: dict[str, float] = {}
    like = next(subject.regularizer.parameters(), torch.zeros(()))
    for name, z in latents:
        told = [subject.regularizer.classify(chunk.to(like.device)) for chunk in z.split(CHUNK)]
        labels = [chunk.cpu() for chunk in told if chunk is not None]
        if labels:
            found[name] = mean_estimate(name, torch.cat(labels) == truth.cpu(), truth)
    return found


def decided(subject: Subject) -> dict[str, Any]:
    """What the protocols have in common."""
    return {
        "n": subject.dataset.size("val"),
        "latent_batch": subject.latent_batch,
        "decision": "the nearest anchor of a label, at the flow's end",
    }
