"""How much of the class a linear classifier reads from latents (Alain & Bengio, 2016)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject
from ..bench.registry import register
from ..bench.resampling import mean_estimate

WIDEST = 4096  # numbers of a latent that `auto` still takes as they are


@register("linear_probe")
class LinearProbe(Evaluator):
    """Multinomial logistic regression on the latents of train, as drawn; nothing without labels."""

    metrics = {
        "probe_accuracy": Metric(
            "tokenizer",
            True,
            "",
            "Share of held-out images whose class a linear classifier of latents tells.",
        )
    }

    def __init__(
        self,
        pool: Literal["auto", "mean", "flatten"] = "auto",
        strength: Annotated[float, Field(gt=0)] = 0.01,
        iterations: Annotated[int, Field(ge=1)] = 1000,
        images: Annotated[int, Field(ge=2)] = 10_000,
    ) -> None:
        """
        Args:
            pool: the mean of a latent's tokens, or all of them as one vector; `auto`: that, up to 4096 wide.
            strength: the weight of |w|^2 / 2 beside the mean loss: scikit-learn's 1 / C by the images.
            iterations: of L-BFGS at most.
            images: of train that it learns from, drawn once, if there are more.
        """
        self.pool, self.strength, self.iterations, self.images = pool, strength, iterations, images

    def run(self, subject: Subject) -> dict[str, float]:
        known, truth = subject.labels("train"), subject.labels("val")
        if known is None or truth is None:
            return {}
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        chosen = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[: self.images]
        inverse = 1 / (self.strength * len(chosen))
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse, max_iter=self.iterations))
        probe.fit(self._vectors(subject.latents("train")[chosen]), known[chosen].cpu().numpy())
        told = torch.from_numpy(probe.predict(self._vectors(subject.latents("val"))))
        return {"probe_accuracy": mean_estimate("probe_accuracy", told == truth.cpu(), truth)}

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return {
            "n": subject.dataset.size("val"),
            "latents": "drawn, standardised by train",
            "pool": self._pooling(subject.latents("val")),
            "train": min(self.images, subject.dataset.size("train")),
            "classifier": "logistic regression, L-BFGS",
            "strength": self.strength,
            "iterations": self.iterations,
        }

    def _pooling(self, z: Tensor) -> str:
        if self.pool != "auto":
            return self.pool
        return "flatten" if z[0].numel() <= WIDEST else "mean"

    def _vectors(self, z: Tensor) -> Any:
        """(n, T, C) -> float64 array (n, F)."""
        z = z.double().cpu()
        return (z.mean(1) if self._pooling(z) == "mean" else z.flatten(1)).numpy()
