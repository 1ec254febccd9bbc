"""The sizes of a cell, from which evaluators say how much memory they will take."""

from __future__ import annotations

from typing import Literal

from .data import Dataset, Of, Split
from .features import FeatureExtractor
from .generator import Generator
from .regularizer import Regularizer
from .specs import ImageSpec
from .tokenizer import Tokenizer


class SubjectSizes:
    """The sizes of what a `Subject` gives, known before anything is computed; networks have no weights.

    A subject keeps what it has computed for its other evaluators. So what is asked for here counts as held in
    memory until the stage ends: an evaluator asks for what its `run` asks for.
    """

    scope: Literal["tokenizer", "generator"]
    real: bool
    decodes: bool
    dataset: Dataset
    image: ImageSpec
    classes: int  # 0 without labels
    train: int  # images of a split
    val: int
    samples: int  # 0 in the tokenizer's scope
    extractors: tuple[FeatureExtractor, ...]
    tokenizer: Tokenizer | None  # on the meta device, as are the next two
    regularizer: Regularizer | None
    generator: Generator | None
    latent_batch: int | None  # size of the minibatches that latents are encoded in, if they depend on it

    def images(self, split: Split) -> int:
        """The number of images of a split, which are held as uint8."""
        raise NotImplementedError

    def reconstructions(self, deterministic: bool = False) -> int:
        """The number of reconstructions, which are held as uint8."""
        raise NotImplementedError

    def latents(self, split: Split, deterministic: bool = False) -> tuple[int, int, int]:
        """The shape (n, T, C) of a split's latents."""
        raise NotImplementedError

    def features(
        self, of: Of, output: str = "pooled", extractor: FeatureExtractor | None = None
    ) -> tuple[int, int]:
        """The shape (n, F) of an image set's features by an extractor (None: the first)."""
        raise NotImplementedError

    def reference(self, split: Split, own: bool = False) -> tuple[int, int, int]:
        """The shape (M, N, C) of a split of the reference in the latent's space."""
        raise NotImplementedError

    @property
    def reads_reference(self) -> bool:
        """Whether the regularizer has priors, or a loss that draws from a reference."""
        raise NotImplementedError

    @property
    def own_reference(self) -> bool:
        """Whether the row's own reference may differ from the matrix's."""
        raise NotImplementedError

    def encoding(self, images: int) -> int:
        """Bytes that encoding so many images at a time takes, their pixels included."""
        raise NotImplementedError

    def drawing(self, latents: int) -> int:
        """Bytes that drawing so many latents at a time takes."""
        raise NotImplementedError

    def classifying(self, latents: int) -> int:
        """Bytes that the regularizer's classification of so many latents at a time takes."""
        raise NotImplementedError

    def sampling(self, prior: Generator, latents: int) -> int:
        """Bytes that sampling so many latents of a prior at a time takes."""
        raise NotImplementedError

    def decoding(self, latents: int) -> int:
        """Bytes that decoding so many latents at a time takes, the images included."""
        raise NotImplementedError

    def decoding_flops(self) -> int:
        """Operations of decoding a latent; 0 where they cannot be counted."""
        raise NotImplementedError

    def velocity_flops(self) -> int:
        """Operations of the generator's velocity of a latent; 0 if it has none or cannot be counted."""
        raise NotImplementedError
