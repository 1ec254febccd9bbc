"""The interface of evaluators, and what they may ask of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from .data import Dataset, Split
from .features import FeatureExtractor
from .generator import Generator
from .noise import Noise
from .reference import Reference
from .regularizer import Regularizer
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Metric:
    """What a number means; a leaderboard needs its direction."""

    scope: Literal["tokenizer", "generator"]
    higher_is_better: bool | None  # None: descriptive
    unit: str = ""
    about: str = ""  # one sentence for tables
    cost: bool = False  # seconds, bytes, parameters, operations: filed under `cost`, not a score


class Estimate(float):
    """A metric's value with what is known of its uncertainty; a plain float has neither.

    `replicates` are its values on `resampling.REPLICATES` resamples of the images (or tokens) that it is
    over, whose indices depend on the metric's name and the replicate alone (`resampling.counts`): differences
    between two rows' replicates are paired. `classes` are its values by class.
    """

    replicates: Sequence[float] | None
    classes: Mapping[str, float] | None

    def __new__(
        cls,
        value: float,
        replicates: Sequence[float] | Tensor | None = None,
        classes: Mapping[str, float] | None = None,
    ) -> Estimate:
        self = super().__new__(cls, value)
        self.replicates = replicates.tolist() if isinstance(replicates, Tensor) else replicates
        self.classes = classes
        return self


Of = Literal["train", "val", "reconstructions", "samples"]


class Subject:
    """What an evaluator may ask of a cell: computed when asked, and shared between evaluators.

    `scope` is "tokenizer" (samples and generator are None) or "generator". The subject of the `real` row has
    held-out images as its samples, as many as the others if there are, `real` set, and neither tokenizer,
    regularizer nor generator.
    """

    scope: Literal["tokenizer", "generator"]
    real: bool
    dataset: Dataset
    extractors: tuple[FeatureExtractor, ...]  # those of the matrix; metrics over features are made for each
    noise: Noise
    tokenizer: Tokenizer
    regularizer: Regularizer
    generator: Generator | None
    guidance: float | None
    samples: Tensor | None  # (n, c, H, W) uint8
    sample_labels: Tensor | None  # (n,)
    facts: dict[str, Any]  # what the regularizer's constructor was given by name
    latent_batch: int | None  # the minibatch that latents are encoded in, where they depend on it
    costs: dict[str, dict[str, float]]  # of each stage behind this subject: {"tokenizer": {"seconds": …}, …}

    @property
    def decodes(self) -> bool:
        """Whether there are images of latents: evaluators that look at them have no numbers without."""
        return self.real or self.tokenizer is None or self.tokenizer.decodes

    def images(self, split: Split) -> Tensor:
        """(n, c, H, W) uint8; large sets of images or latents are mapped files: read them chunk by chunk."""
        raise NotImplementedError

    def labels(self, split: Split) -> Tensor | None:
        """(n,) int64."""
        raise NotImplementedError

    def requested_labels(self) -> Tensor | None:
        """(n,) classes that samples were asked for, on the CPU; None if there is no class, or no other."""
        asked, known = self.sample_labels, self.labels("train")
        if asked is None or known is None or (asked < 0).any() or len(known.unique()) < 2:
            return None
        return asked.cpu()

    def reconstructions(self, deterministic: bool = False) -> Tensor:
        """Decoded held-out images, uint8, from latent(h, noise) or, deterministic, latent(h, None)."""
        raise NotImplementedError

    def latents(self, split: Split, deterministic: bool = False) -> Tensor:
        """(n, T, C), drawn with noise or without, as the tokenizer gives them (not normalised)."""
        raise NotImplementedError

    def trajectory(self) -> tuple[Tensor, Tensor]:
        """Training steps (P,) and the latents (P, n, T, C) of the first n training images at each.

        As the matrix's `probes: {every: 100}` has them; P = 0 without.
        """
        raise NotImplementedError

    def features(self, of: Of, output: str = "pooled", extractor: FeatureExtractor | None = None) -> Tensor:
        """Pooled features (n, F), or another output, of an image set by an extractor (None: the first).

        The first extractor has "tokens" of "train" and "val" alone.
        """
        raise NotImplementedError

    def reference(self, split: Split, own: bool = False) -> Reference:
        """The matrix's reference in the latent's space, by the base class's projection or by the row's own.

        "train" is what methods may learn from, "val" are fresh samples of the same distribution.
        """
        raise NotImplementedError

    @property
    def own_reference(self) -> bool:
        """Whether the row has a reference of its own, other than the matrix's or in another space."""
        raise NotImplementedError

    def reference_protocol(self, own: bool = False) -> dict[str, Any]:
        """What reference() depends on besides the latent's shape."""
        raise NotImplementedError


class Evaluator:
    """A family of metrics; `metrics` is keyed by base name: what precedes any "[" or "@" of a full name."""

    version: ClassVar[int] = 1
    metrics: ClassVar[dict[str, Metric]]

    def run(self, subject: Subject) -> dict[str, float]:
        """All metrics of the subject's scope, by full name, e.g. {"gFD[effnet_lite0]": Estimate(81.2, …)}."""
        raise NotImplementedError

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        """Everything that the value under this full name depends on besides the images; always with `n`."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Stands for the files that numbers depend on beside the subject, as far as they are there."""
        return ""

    def figures(self, subject: Subject) -> Mapping[str, Figure | Tensor]:
        """Pictures by name, saved as PNG: matplotlib's `Figure` (not pyplot), or pixels, uint8 (H, W, 3)."""
        return {}

    @classmethod
    def scopes(cls) -> set[str]:
        """The scopes that this evaluator has metrics for."""
        return {metric.scope for metric in cls.metrics.values()}
