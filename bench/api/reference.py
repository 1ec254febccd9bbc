"""Samples of the distribution that latents should follow, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from .data import Dataset, Split
from .noise import seed_for
from .specs import LatentSpec

CHUNK = 2**12  # samples that are processed at a time


@dataclass(frozen=True)
class Reference:
    """Samples of the distribution that a latent should follow, not paired with images.

    `samples` is (M, N, F): M draws of N tokens (1 if unstructured) of F channels; `labels` is (M,) or None.
    Statistics for centring, scaling or a PCA are taken from the first `fit` samples (None: from all). The
    frame passes train and val as one reference whose `fit` is the size of train, so that both are mapped
    alike and nothing is learned from val.
    """

    samples: Tensor
    labels: Tensor | None = None
    grid: tuple[int, int] | None = None
    fit: int | None = None

    def projected(self, spec: LatentSpec) -> Reference:
        """Tokens in the channels and units of a latent's, mapped the same way for every row of a matrix.

        Tokens are chosen (see `thinned`), features standardised, and, unless the latent has as many channels,
        multiplied by a fixed random matrix with entries N(0, 1/F) (seed 42), which keeps the variance (Flow
        Priors, section 3.2). A method that matches whole latents takes `pooled(spec).projected(spec)`, whose
        tokens are at the latent's positions.
        """
        own, channels = self.thinned(spec), self.samples.shape[-1]
        if channels == spec.channels:
            return own.standardised()
        projection = torch.randn(channels, spec.channels, generator=torch.Generator().manual_seed(42))
        projection = projection / channels**0.5
        mean, scale = own._moments()
        # In chunks: copies of a large set before the projection don't fit into memory.
        parts = [(chunk - mean) / scale @ projection.to(chunk) for chunk in own.samples.split(CHUNK)]
        return replace(own, samples=torch.cat(parts))

    def thinned(self, spec: LatentSpec) -> Reference:
        """At most as many tokens of each sample as the latent has, chosen at random and the same each time.

        The distribution of single tokens stays what it is, where means of several tokens have another, a
        narrower one. Fewer tokens than the latent's are all kept.
        """
        samples = self.samples.float()
        if samples.shape[1] <= spec.tokens:
            return replace(self, samples=samples)
        generator = torch.Generator().manual_seed(seed_for("reference", "tokens"))
        parts = []
        for chunk in samples.split(CHUNK):
            order = torch.rand(chunk.shape[:2], generator=generator).argsort(1)
            chosen = order[:, : spec.tokens, None].to(chunk.device)
            parts.append(chunk.take_along_dim(chosen, 1))
        return replace(self, samples=torch.cat(parts), grid=None)

    def pooled(self, spec: LatentSpec) -> Reference:
        """Tokens average-pooled onto the latent's grid or, without one, along the raster to its token count.

        Means of tokens are not distributed as tokens are: this is for methods that need a token at each of
        the latent's positions. A single token stays single: it has no position.
        """
        samples = self.samples.float()
        if samples.shape[1] in (1, spec.tokens):
            return replace(self, samples=samples)
        maps = samples.transpose(1, 2)  # (M, F, N)
        if self.grid and spec.grid:
            maps = nn.functional.adaptive_avg_pool2d(maps.unflatten(2, self.grid), spec.grid).flatten(2)
        else:
            maps = nn.functional.adaptive_avg_pool1d(maps, spec.tokens)
        return replace(self, samples=maps.transpose(1, 2), grid=spec.grid)

    def standardised(self) -> Reference:
        """Features centred, and divided by one scalar so that their mean variance is 1."""
        mean, scale = self._moments()
        return replace(self, samples=(self.samples - mean) / scale)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """The features' means (F,), and the root of their mean variance ()."""
        chunks = self.samples[: self.fit].split(CHUNK)
        shares = [len(chunk) / sum(map(len, chunks)) for chunk in chunks]
        pairs = list(zip(chunks, shares, strict=True))
        mean = torch.stack([chunk.mean((0, 1)) * share for chunk, share in pairs]).sum(0)
        squares = [(chunk - mean).square().mean() * share for chunk, share in pairs]
        return mean, torch.stack(squares).sum().sqrt()


class ReferenceSource:
    """A source of reference samples: `reference: {use: gaussian}` of a matrix or of a regularizer's row.

    Facts that the frame passes to a constructor that names them: `teacher_spec: LatentSpec`, `image:
    ImageSpec`.
    """

    version: ClassVar[int] = 1  # part of the cache key: raise it when numbers change
    spec: LatentSpec  # of the samples, before any projection
    uses_features: bool = True  # whether draw() reads them; if not, a dataset that decodes has none computed
    labelled: bool = False  # whether samples have the dataset's classes as labels

    def fingerprint(self) -> str | None:
        """sha256 of the source's files, "" without files; None if files are missing."""
        return ""

    def fetch(self) -> None:
        """Gets missing files; the frame calls this before a run.

        Raises:
            FileNotFoundError: naming the file.
        """

    def counts(self, images: Mapping[Split, int], classes: int) -> dict[Split, int]:
        """About how many samples a draw of each split has; by default as many as there are images.

        `classes` is the number of the dataset's classes, 0 without labels.
        """
        return dict(images)

    def memory_bytes(self, images: Mapping[Split, int], classes: int) -> int:
        """Bytes of main memory that drawing both splits takes at its peak; arguments as of `counts`.

        The default is that of samples that are drawn once, in single precision.
        """
        return 4 * sum(self.counts(images, classes).values()) * self.spec.tokens * self.spec.channels

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        """Samples of a split, from the teacher's tokens (n, N, G) and pooled features (n, F) or from neither.

        Methods may learn from "train"; "val" are fresh samples of the same distribution.
        """
        raise NotImplementedError
