"""How much of the class a linear classifier reads from latents or features (Alain & Bengio, 2016)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Split, Subject, Tokenizer
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.models.latents import CHUNK
from ..bench.registry import register

SPLITS: tuple[Split, ...] = ("train", "val")
WIDEST = 4096  # numbers of a latent that `auto` still takes as they are


@register("linear_probe")
class LinearProbe(Evaluator):
    """Multinomial logistic regression on the latents of train, as drawn; nothing without labels.

    Of tokenizers that have features for it (`resnet`: what is in front of its head), on these as well. LZN's
    table 2 has another classifier: AdamW at 3e-4, 300 epochs of 8192 augmented crops, averaged weights.
    """

    metrics = {
        "probe_accuracy": Metric(
            "tokenizer",
            True,
            "",
            "Share of held-out images whose class a linear classifier of latents tells.",
        ),
        "feature_probe_accuracy": Metric(
            "tokenizer", True, "", "The same by the tokenizer's features, where it has others than latents."
        ),
        "feature_probe_top5": Metric(
            "tokenizer",
            True,
            "",
            "Share whose class is among the five that such a classifier finds likeliest.",
        ),
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
        chosen = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[: self.images]
        classes = known[chosen].cpu()
        latents = [self._vectors(z) for z in (subject.latents("train")[chosen], subject.latents("val"))]
        ranked = {"probe": self._ranked(latents[0], classes, latents[1])}
        if type(subject.tokenizer).features is not Tokenizer.features:
            index = {"train": chosen, "val": torch.arange(len(truth))}
            train, val = (described(subject, split, index[split]).numpy() for split in SPLITS)
            ranked["feature_probe"] = self._ranked(train, classes, val)
        found: dict[str, float] = {}
        for probe, order in ranked.items():
            right = order == truth.cpu()[:, None]
            for suffix, first in (("_accuracy", 1), ("_top5", 5)):
                name = probe + suffix
                if name in self.metrics and order.shape[1] > first:
                    found[name] = mean_estimate(name, right[:, :first].any(1), truth)
        return found

    def _ranked(self, train: Any, classes: Tensor, val: Any) -> Tensor:
        """Arrays (n, F) and (m, F) -> (m, classes): those of train, likeliest first."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        inverse = 1 / (self.strength * len(classes))
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse, max_iter=self.iterations))
        probe.fit(train, classes.numpy())
        likely = torch.from_numpy(probe.predict_proba(val)).argsort(dim=1, descending=True, stable=True)
        return torch.from_numpy(probe.classes_)[likely]

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        of = {"features": "of the tokenizer, standardised by train"}
        if not name.startswith("feature"):
            of = {"latents": "drawn, standardised by train", "pool": self._pooling(subject.latents("val"))}
        return {
            "n": subject.dataset.size("val"),
            **of,
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


@torch.no_grad()
def described(subject: Subject, split: Split, index: Tensor) -> Tensor:
    """The tokenizer's features (n, F) of images of a split, in float64 on the CPU."""
    device = next(subject.tokenizer.parameters()).device
    batches = (subject.dataset.images(split, chunk).to(device) for chunk in index.split(CHUNK))
    return torch.cat([subject.tokenizer.features(images).double().cpu() for images in batches])
