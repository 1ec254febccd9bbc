"""Classification by latent zones: the label in whose zone an image's latent lies (LZN, Lin et al., 2025)."""

from __future__ import annotations

from typing import Any

import torch

from ..bench.api import Evaluator, Metric, Subject
from ..bench.latents import CHUNK
from ..bench.registry import register
from ..bench.resampling import mean_estimate


@register("classification")
class ZoneClassification(Evaluator):
    """For methods whose latents say their class (`lzn` with `align`), nothing for others.

    Latents are encoded in minibatches of the training's size, `latent_batch` of the protocol: the larger, the
    better they tell; the paper's is 2000. It also drops the incomplete last one and takes the best of several
    `alpha`; here every image counts and alpha is the row's, or 0.
    """

    version = 2
    metrics = {
        "zone_accuracy": Metric(
            "tokenizer", True, "", "Share of held-out images whose latents lie in the zone of their class."
        ),
        "zone_accuracy_mean": Metric("tokenizer", True, "", "The same from latents without noise (alpha 0)."),
    }

    def run(self, subject: Subject) -> dict[str, float]:
        truth = subject.labels("val")
        if truth is None:
            return {}
        found: dict[str, float] = {}
        like = next(subject.regularizer.parameters(), torch.zeros(()))
        for name in self.metrics:
            z = subject.latents("val", deterministic=name.endswith("_mean"))
            told = [subject.regularizer.classify(chunk.to(like.device)) for chunk in z.split(CHUNK)]
            labels = [chunk.cpu() for chunk in told if chunk is not None]
            if labels:
                found[name] = mean_estimate(name, torch.cat(labels) == truth.cpu(), truth)
        return found

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return {
            "n": subject.dataset.size("val"),
            "latents": "deterministic" if name.endswith("_mean") else "drawn",
            "latent_batch": subject.latent_batch,
            "decision": "the nearest anchor of a label, at the flow's end",
        }
