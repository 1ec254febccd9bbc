"""Classification by latent zones: the label in whose zone an image's latent lies (LZN, Lin et al., 2025)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject
from ..bench.latents import CHUNK, draw, encode
from ..bench.registry import register
from ..bench.resampling import mean_estimate


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

    def __init__(self, alphas: tuple[Annotated[float, Field(ge=0)], ...] = ()) -> None:
        """
        Args:
            alphas: scales of the zones' noise to try beside the row's own and 0; the paper has 0, 0.2, … 1.2.
        """
        self.alphas = {f"zone_accuracy_alpha_{alpha:g}": alpha for alpha in alphas}
        about = "The same from latents with the zones' noise scaled by so much."
        more = {name: Metric("tokenizer", True, "", about) for name in self.alphas}
        self.metrics = {**type(self).metrics, **more}  # type: ignore[misc]

    def run(self, subject: Subject) -> dict[str, float]:
        truth = subject.labels("val")
        if truth is None:
            return {}
        found: dict[str, float] = {}
        like = next(subject.regularizer.parameters(), torch.zeros(()))
        for name, z in self._latents(subject):
            told = [subject.regularizer.classify(chunk.to(like.device)) for chunk in z.split(CHUNK)]
            labels = [chunk.cpu() for chunk in told if chunk is not None]
            if labels:
                found[name] = mean_estimate(name, torch.cat(labels) == truth.cpu(), truth)
        return found

    def _latents(self, subject: Subject) -> Iterator[tuple[str, Tensor]]:
        """Of the held-out images, by the name of the metric that is over them."""
        for name in type(self).metrics:
            yield name, subject.latents("val", deterministic=name.endswith("_mean"))
        if not self.alphas or not hasattr(subject.regularizer, "alpha"):
            return
        like = next(subject.tokenizer.parameters())
        h = encode(subject.tokenizer, subject.dataset, "val", like.device)
        batch, noise = subject.latent_batch or CHUNK, subject.noise.fork("alphas")
        for name, alpha in self.alphas.items():
            scaled: Any = copy.copy(subject.regularizer)
            scaled.alpha = alpha
            yield name, draw(scaled, h, subject.labels("val"), noise, batch, like.device)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return {
            "n": subject.dataset.size("val"),
            "latents": "deterministic" if name.endswith("_mean") else "drawn",
            "latent_batch": subject.latent_batch,
            "decision": "the nearest anchor of a label, at the flow's end",
            **({"alpha": self.alphas[name]} if name in self.alphas else {}),
        }
