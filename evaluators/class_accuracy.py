"""Whether samples show the requested class: the GAN-test of Shmelkov et al., 2018."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, FeatureExtractor, Metric, Subject, SubjectSizes
from ..bench.data.fixed_order import fixed_order
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.metrics.names import metric_name
from ..bench.metrics.reuse import once
from ..bench.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure

READABLE = 20  # a figure of more classes has neither class names nor numbers


@register("class_accuracy")
class ClassAccuracy(Evaluator):
    """Accuracy on samples of a linear classifier of training images, for every extractor's features.

    No value without labels or requested classes. The `real` row has the accuracy on held-out images. It is
    the ceiling, except that samples which are all easy to classify may exceed it.
    """

    metrics = {
        "class_accuracy": Metric(
            "generator",
            True,
            "",
            "Share of samples that a classifier of real images finds to be of the class that was asked for.",
        )
    }

    def __init__(
        self,
        strength: Annotated[float, Field(gt=0)] = 0.001,
        iterations: Annotated[int, Field(ge=1)] = 1000,
        images: Annotated[int, Field(ge=2)] = 60_000,
    ) -> None:
        """
        Args:
            strength: weight of |w|^2 / 2 relative to the mean loss, 1 / (C * images) for scikit-learn's C.
            iterations: largest number of L-BFGS iterations.
            images: largest number of training images; of a larger set a fixed random subset is drawn.
        """
        self.strength, self.iterations, self.images = strength, iterations, images

    def run(self, subject: Subject) -> dict[str, float]:
        requested = subject.requested_labels()
        if requested is None:
            subject.left_out["class_accuracy"] = "samples are of no class, or all of one"
            return {}
        scores: dict[str, float] = {}
        for extractor in subject.extractors:
            name = metric_name("class_accuracy", extractor)
            scores[name] = mean_estimate(name, self._predicted(subject, extractor) == requested, requested)
        return scores

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        if sizes.classes < 2:
            return 0
        peak = 0
        for extractor in sizes.extractors:
            n, width = sizes.features("samples", "pooled", extractor)
            train, _ = sizes.features("train", "pooled", extractor)
            m = min(train, self.images)
            # A subset of the features, and standardised ones with their squares.
            subset = m * width if train > self.images else 0
            peak = max(peak, 4 * (subset + 3 * m * width + n * width))
        return peak

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        assert subject.samples is not None
        extractor = next(e for e in subject.extractors if name == metric_name("class_accuracy", e))
        available = len(subject.features("train", "pooled", extractor))
        subset = {"reference_drawn": "without replacement, seed 0"} if available > self.images else {}
        return {
            "n": len(subject.samples),
            "reference": "train",
            "reference_n": min(self.images, available),
            **subset,
            "features": extractor.protocol(),
            "classifier": "logistic regression on standardised features, L-BFGS",
            "strength": self.strength,
            "iterations": self.iterations,
        }

    def figures(self, subject: Subject) -> dict[str, Figure]:
        """The confusion matrix of the samples by the first extractor; none for real images."""
        requested = subject.requested_labels()
        if requested is None or subject.real:
            return {}
        # The figures of all guidances of a cell are saved together.
        name = "classes" if subject.guidance is None else f"classes@{subject.guidance:g}"
        predicted = self._predicted(subject, subject.extractors[0])
        return {name: drawing(*confusion(requested, predicted))}

    def _predicted(self, subject: Subject, extractor: FeatureExtractor) -> Tensor:
        """The classes (n,) that the classifier predicts for the samples."""
        samples, train = (subject.features(of, "pooled", extractor) for of in ("samples", "train"))
        labels = subject.labels("train")
        assert labels is not None
        labels = labels[: len(train)].cpu()  # mirrored copies, at the end, have no features
        if len(train) > self.images:
            subset = fixed_order(len(train), seed=0)[: self.images]
            train, labels = train[subset], labels[subset]
        classifier = fit_classifier(train, labels, self.strength, self.iterations)
        return torch.from_numpy(classifier.predict(samples.float().cpu().numpy()))


@once
def fit_classifier(train: Tensor, labels: Tensor, strength: float, iterations: int) -> Any:
    """Multinomial logistic regression of labels (n,) on features (n, F), in single precision.

    60,000 images of Fashion-MNIST take 6 CPU seconds; converging in double precision takes 45 and changes the
    prediction for 13 of 10,000 held-out images, with 2 fewer of them right.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=1 / (strength * len(labels)), max_iter=iterations)
    return make_pipeline(StandardScaler(), regression).fit(train.float().cpu().numpy(), labels.numpy())


def confusion(requested: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """The K classes that occur in two label tensors (n,), and the confusion matrix (K, K); its rows sum to 1.

    Rows are requested classes, columns predicted ones. A class that was never requested has a row of zeros.
    """
    classes, index = torch.stack([requested, predicted]).unique(return_inverse=True)
    size = len(classes)
    counts = (index[0] * size + index[1]).bincount(minlength=size**2).view(size, size).double()
    return classes, counts / counts.sum(1, keepdim=True).clamp(min=1)


def drawing(classes: Tensor, shares: Tensor) -> Figure:
    """The confusion matrix as an image, with percentages for up to 20 classes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=100, layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="class found", ylabel="class asked for", title="samples by class, %")
    if len(classes) <= READABLE:
        axis.set_xticks(range(len(classes)), classes.tolist())
        axis.set_yticks(range(len(classes)), classes.tolist())
        for i, j in (shares >= 0.005).nonzero().tolist():
            share = shares[i, j].item()
            colour = "white" if share > 0.5 else "black"
            axis.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return figure
