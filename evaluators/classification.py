"""Accuracy of classification by latent zones (LZN, Lin et al., 2025)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject, SubjectSizes
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.models.latents import CHUNK, draw, encode
from ..bench.registry import register

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)


def settings_for(alphas: Sequence[float], batches: Sequence[int] = ()) -> dict[str, tuple[float, int | None]]:
    """Alpha and the minibatch's size (None: training's) by the metric's name, which contains them."""
    if not batches:
        return {f"zone_accuracy_alpha_{a:g}": (a, None) for a in alphas}
    return {f"zone_accuracy_alpha_{a:g}_batch_{b}": (a, b) for a in alphas for b in batches}


def metrics_for(settings: Mapping[str, tuple[float, int | None]]) -> dict[str, Metric]:
    """The metrics by name."""
    about = "zone_accuracy from latents with the zones' noise scaled by {:g}{}."
    return {
        name: Metric(
            "tokenizer", True, "", about.format(alpha, f", in minibatches of {batch}" if batch else "")
        )
        for name, (alpha, batch) in settings.items()
    }


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

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        shapes = [sizes.latents("val", deterministic) for deterministic in (False, True)]
        return sizes.classifying(min(CHUNK, shapes[0][0]))

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return common_protocol(subject) | {"latents": "deterministic" if name.endswith("_mean") else "drawn"}


@register("classification_by_alpha")
class ZoneClassificationByAlpha(Evaluator):
    """`classification` at other scales of the zones' noise than in training (LZN, figure 25).

    `batches` are sizes of the minibatches in which images are encoded, at most all of them, instead of the
    training's; more images in a minibatch have more exact zones.
    """

    metrics = metrics_for(settings_for(ALPHAS))
    later = frozenset({"batches"})

    def __init__(
        self,
        alphas: tuple[Annotated[float, Field(ge=0)], ...] = ALPHAS,
        batches: tuple[Annotated[int, Field(ge=2)], ...] = (),
    ) -> None:
        """
        Args:
            alphas: scales of the noise; 0 is the zone's centre.
            batches: sizes of the minibatches that images are encoded in, at most all images; none:
                training's.
        """
        self.settings = settings_for(alphas, batches)
        self.metrics = metrics_for(self.settings)  # type: ignore[misc]

    def run(self, subject: Subject) -> dict[str, float]:
        if not hasattr(getattr(subject.regularizer, "underlying", None), "alpha"):
            return {}
        return accuracies(subject, self._latents(subject))

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        if not hasattr(getattr(sizes.regularizer, "underlying", None), "alpha"):
            return 0
        n, tokens, channels = sizes.val, *sizes.latents("val")[1:]
        trained = sizes.latent_batch or CHUNK
        largest = max(min(batch or trained, n) for _, batch in self.settings.values())
        draws = max(sizes.drawing(largest), sizes.classifying(min(CHUNK, n)), sizes.encoding(min(CHUNK, n)))
        return 3 * 4 * n * tokens * channels + draws

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        alpha, batch = self.settings[name]
        protocol = common_protocol(subject) | {"alpha": alpha}
        return protocol if batch is None else protocol | {"latent_batch": min(batch, protocol["n"])}

    def _latents(self, subject: Subject) -> Iterator[tuple[str, Tensor]]:
        """Metric names, and the latents drawn with the name's alpha in the name's minibatches."""
        like = next(subject.tokenizer.parameters())
        h = encode(subject.tokenizer, subject.dataset, "val", like.device)
        trained, noise = subject.latent_batch or CHUNK, subject.noise.fork("alphas")
        for name, (alpha, batch) in self.settings.items():
            scaled: Any = copy.copy(subject.regularizer.underlying)
            scaled.alpha = alpha
            size = trained if batch is None else min(batch, len(h))
            yield name, draw(scaled, h, subject.labels("val"), noise, size, like.device)


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
