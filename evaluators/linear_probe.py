"""How well a linear classifier predicts the class from latents or features (Alain & Bengio, 2016)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Split, Subject, SubjectSizes, Tokenizer
from ..bench.data.fixed_order import fixed_order
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.models.latents import CHUNK
from ..bench.registry import register

SPLITS: tuple[Split, ...] = ("train", "val")
WIDEST = 4096  # `auto` pools latents of more values


@register("linear_probe")
class LinearProbe(Evaluator):
    """Multinomial logistic regression on the drawn latents of train; no value without two classes.

    For tokenizers with `features()` (`resnet`: its layer before the head) also on these features. LZN's table
    2 has another classifier: AdamW at 3e-4, 300 epochs of 8192 augmented crops, averaged weights.
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
            pool: `mean` averages a latent's tokens, `flatten` concatenates them; `auto` is `flatten` for
                latents of up to 4096 values and `mean` above.
            strength: weight of |w|^2 / 2 relative to the mean loss, 1 / (C * images) for scikit-learn's C.
            iterations: largest number of L-BFGS iterations.
            images: largest number of training images; of a larger set a fixed random subset is drawn.
        """
        self.pool, self.strength, self.iterations, self.images = pool, strength, iterations, images

    def run(self, subject: Subject) -> dict[str, float]:
        train_labels, truth = subject.labels("train"), subject.labels("val")
        if train_labels is None or truth is None:
            subject.left_out["probe_accuracy"] = "the dataset has no labels"
            return {}
        subset = fixed_order(len(train_labels), seed=0)[: self.images]
        classes = train_labels[subset].cpu()
        if len(classes.unique()) < 2:
            subject.left_out["probe_accuracy"] = "all training images are of one class"
            return {}
        train, val = (self._vectors(z) for z in (subject.latents("train")[subset], subject.latents("val")))
        predictions = {"probe": self._ranked_classes(train, classes, val)}
        if type(subject.tokenizer).features is not Tokenizer.features:
            index = {"train": subset, "val": torch.arange(len(truth))}
            train, val = (tokenizer_features(subject, split, index[split]).numpy() for split in SPLITS)
            predictions["feature_probe"] = self._ranked_classes(train, classes, val)
        scores: dict[str, float] = {}
        for probe, ranked in predictions.items():
            correct = ranked == truth.cpu()[:, None]
            for suffix, k in (("_accuracy", 1), ("_top5", 5)):
                name = probe + suffix
                if name in self.metrics and ranked.shape[1] > k:
                    scores[name] = mean_estimate(name, correct[:, :k].any(1), truth)
        return scores

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        if sizes.classes < 2:
            return 0
        n, tokens, channels = sizes.latents("train")
        val, _, _ = sizes.latents("val")
        width, n = tokens * channels, min(n, self.images)
        chosen = 4 * n * width
        pooled = channels if self._pools(width) == "mean" else width
        # Vectors of both splits; while the classifier is fitted, standardised ones twice.
        fitted = 8 * (3 * n + val) * pooled
        return chosen + max(8 * (n * width + n * pooled), fitted, 8 * (n + 2 * val) * pooled)

    def _ranked_classes(self, train: Any, classes: Tensor, val: Any) -> Tensor:
        """Classes (m, K) of `val` (m, F), the most probable first, by a classifier of `train` (n, F)."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        inverse = 1 / (self.strength * len(classes))
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse, max_iter=self.iterations))
        probe.fit(train, classes.numpy())
        ranks = torch.from_numpy(probe.predict_proba(val)).argsort(dim=1, descending=True, stable=True)
        return torch.from_numpy(probe.classes_)[ranks]

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        inputs = {"features": "of the tokenizer, standardised by train"}
        if not name.startswith("feature"):
            pool = self._pooling(subject.latents("val"))
            inputs = {"latents": "drawn, standardised by train", "pool": pool}
        return {
            "n": subject.dataset.size("val"),
            **inputs,
            "train": min(self.images, subject.dataset.size("train")),
            "classifier": "logistic regression, L-BFGS",
            "strength": self.strength,
            "iterations": self.iterations,
        }

    def _pooling(self, z: Tensor) -> str:
        return self._pools(z[0].numel())

    def _pools(self, values: int) -> str:
        """How a latent of so many values becomes a vector."""
        if self.pool != "auto":
            return self.pool
        return "flatten" if values <= WIDEST else "mean"

    def _vectors(self, z: Tensor) -> Any:
        """The pooled latents (n, T, C) as a float64 array (n, F)."""
        z = z.double().cpu()
        return (z.mean(1) if self._pooling(z) == "mean" else z.flatten(1)).numpy()


@torch.no_grad()
def tokenizer_features(subject: Subject, split: Split, index: Tensor) -> Tensor:
    """The tokenizer's features (n, F) of images of a split, in float64 on the CPU."""
    device = next(subject.tokenizer.parameters()).device
    batches = (subject.dataset.images(split, chunk).to(device) for chunk in index.split(CHUNK))
    return torch.cat([subject.tokenizer.features(images).double().cpu() for images in batches])
