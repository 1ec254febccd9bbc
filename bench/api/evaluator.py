"""The interface of evaluators, and of the cell that they score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from torch import Tensor

from .data import Dataset, Of, Split
from .errors import Unfit
from .features import FeatureExtractor
from .generator import Generator
from .noise import Noise
from .reference import Reference
from .regularizer import Regularizer
from .sizes import SubjectSizes
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Metric:
    """The meaning of a metric's numbers: its scope, direction and unit."""

    scope: Literal["tokenizer", "generator"]
    higher_is_better: bool | None  # None: neither, the number only describes
    unit: str = ""
    about: str = ""  # one sentence for tables
    cost: bool = False  # whether it is a cost (seconds, bytes, parameters, operations) and no score


class Estimate(float):
    """A metric's value with bootstrap replicates and values by class, where there are any.

    `replicates` are the metric's values on `bootstrap.REPLICATES` resamples of its images (or tokens). The
    resamples' indices depend only on the metric's name and the replicate's number (`bootstrap.counts`), so
    that differences between two rows' replicates are paired. `classes` are the metric's values by class,
    which may be bounds.
    """

    replicates: Sequence[float] | None
    classes: Mapping[str, float] | None

    def __new__(
        cls,
        value: float,
        replicates: Sequence[float] | Tensor | None = None,
        classes: Mapping[str, float] | None = None,
    ) -> Self:
        self = super().__new__(cls, value)
        self.replicates = replicates.tolist() if isinstance(replicates, Tensor) else replicates
        self.classes = classes
        return self


class Bound(Estimate):
    """A limit in place of a value that what was tried didn't reach: the metric lies above or below it.

    A table prints "> 0.5", and ranks it beyond every value without a bound; two bounds tie.
    """

    side: Literal["above", "below"]

    def __new__(
        cls, limit: float, side: Literal["above", "below"], classes: Mapping[str, float] | None = None
    ) -> Self:
        self = super().__new__(cls, limit, None, classes)
        self.side = side
        return self


class Subject:
    """A cell as evaluators see it; its values are computed on demand and shared between evaluators.

    `scope` is "tokenizer" (samples and generator are None) or "generator". The subject of the `real` row has
    `real` set and neither tokenizer, regularizer nor generator; its samples are held-out images, as many as
    other rows have samples if there are enough.
    """

    scope: Literal["tokenizer", "generator"]
    real: bool
    dataset: Dataset
    extractors: tuple[FeatureExtractor, ...]  # of the matrix; metrics over features are computed for each
    noise: Noise
    tokenizer: Tokenizer
    regularizer: Regularizer
    generator: Generator | None
    guidance: float | None
    samples: Tensor | None  # (n, c, H, W) uint8
    sample_labels: Tensor | None  # (n,)
    facts: dict[str, Any]  # arguments that the frame passed to the regularizer's constructor
    latent_batch: int | None  # size of the minibatches that latents are encoded in, if they depend on it
    costs: dict[str, dict[str, float]]  # by stage: {"tokenizer": {"seconds": …}, …}
    left_out: dict[str, str]  # metrics that this cell cannot have, and why: tables list them

    @property
    def decodes(self) -> bool:
        """Whether latents can be decoded to images; if not, evaluators of images return no numbers."""
        return self.real or self.tokenizer is None or self.tokenizer.decodes

    def attempt(self, name: str, compute: Callable[[], float]) -> dict[str, float]:
        """The metric {name: compute()}; empty, with the reason in `left_out`, where that raises Unfit."""
        try:
            return {name: compute()}
        except Unfit as error:
            self.left_out[name] = str(error)
            return {}

    def images(self, split: Split) -> Tensor:
        """Images of a split, (n, c, H, W) uint8; large sets, as of latents, are mapped files: read chunks."""
        raise NotImplementedError

    def labels(self, split: Split) -> Tensor | None:
        """The labels of a split: (n,) int64, or None without labels."""
        raise NotImplementedError

    def requested_labels(self) -> Tensor | None:
        """The classes (n,) that samples were conditioned on, on the CPU; None with fewer than two classes."""
        labels, known = self.sample_labels, self.labels("train")
        if labels is None or known is None or (labels < 0).any() or len(known.unique()) < 2:
            return None
        return labels.cpu()

    def sampler(self) -> dict[str, Any]:
        """The options of `generator.sample` that the row's samples were drawn with.

        Of a row with `autoguidance`, `weak` among them is the other model.
        """
        raise NotImplementedError

    def reconstructions(self, deterministic: bool = False) -> Tensor:
        """Decoded held-out images, uint8, from latent(h, noise) or, deterministic, latent(h, None)."""
        raise NotImplementedError

    def latents(self, split: Split, deterministic: bool = False) -> Tensor:
        """Latents of a split, (n, T, C), drawn with noise or deterministic, not normalised."""
        raise NotImplementedError

    def generator_latents(self, split: Split) -> Tensor:
        """Latents of a split, (n, T, C), drawn with noise and normalised as the generator learned them."""
        raise NotImplementedError

    def trajectory(self) -> tuple[Tensor, Tensor]:
        """Training steps (P,), and latents (P, n, T, C) of a fixed random choice of training images at each.

        The steps follow the matrix's `probes: {every: 100}`; P = 0 without probes.
        """
        raise NotImplementedError

    def features(self, of: Of, output: str = "pooled", extractor: FeatureExtractor | None = None) -> Tensor:
        """Pooled features (n, F), or another output, of an image set by an extractor (None: the first).

        "tokens" exist only of "train" and "val", and only by the first extractor.
        """
        raise NotImplementedError

    def reference(self, split: Split, own: bool = False) -> Reference:
        """The matrix's reference in the latent's space or, with `own`, the row's own reference or mapping.

        Methods may learn from "train"; "val" are fresh samples of the same distribution.
        """
        raise NotImplementedError

    @property
    def own_reference(self) -> bool:
        """Whether the row's own reference differs from the matrix's, by its samples or its mapping."""
        raise NotImplementedError

    def reference_protocol(self, own: bool = False) -> dict[str, Any]:
        """Everything that reference() depends on besides the latent's shape."""
        raise NotImplementedError


class Evaluator:
    """A family of metrics; the keys of `metrics` are base names: a full name up to its first "[" or "@"."""

    version: ClassVar[int] = 1  # part of the cache key: raise it when numbers change
    metrics: ClassVar[dict[str, Metric]]

    def run(self, subject: Subject) -> dict[str, float]:
        """All metrics of the subject's scope, by full name, e.g. {"gFD[effnet_lite0]": Estimate(81.2, …)}.

        A value that what was tried didn't reach is a `Bound`. NaN is a value that can't be computed, as of a
        training that diverged; a metric that a row can't have, as one of labels without labels, is left out.
        """
        raise NotImplementedError

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        """Everything that the metric of this full name depends on besides the images; always with `n`."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A hash of the existing files that numbers depend on besides the subject; "" without files."""
        return ""

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        """Bytes of main memory that `run` takes at its peak beside what it asks the subject for.

        Plans and the check before a run count them; 0, the default, stands for a small number.
        """
        return 0

    def flops(self, sizes: SubjectSizes) -> int:
        """Operations that `run` takes beside those of extractors, for plans; 0, the default: not counted."""
        return 0

    def figures(self, subject: Subject) -> Mapping[str, Figure | Tensor]:
        """Pictures by name, saved as PNG: a matplotlib `Figure` (not pyplot) or pixels, uint8 (H, W, 3)."""
        return {}

    @classmethod
    def scopes(cls) -> set[str]:
        """The scopes that this evaluator has metrics for."""
        return {metric.scope for metric in cls.metrics.values()}
