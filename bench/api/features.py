"""The interface of feature extractors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from .specs import LatentSpec


class FeatureExtractor:
    """A frozen network that describes images: a pooled vector for distances, a grid of tokens for teachers.

    `outputs` are the names that `describe` takes: "pooled" (B, F), "tokens" (B, N, G), "logits" (B, K) of a
    classifier, which the inception score needs, and "spatial" (B, S), a flattened map, for sFD. A subclass
    implements `describe` or, if it has only the first two outputs, `__call__`; each is defined by the other.
    """

    version: ClassVar[int] = 1  # part of the cache key: raise it when numbers change
    outputs: tuple[str, ...] = ("pooled", "tokens")
    cmmd: ClassVar[bool] = False  # whether CMMD replaces FD, KD and the other distances
    # How images are prepared for the network; `bench audit`, teachers and `frozen_encoder` override these.
    resizing: str = "clean"  # one of images.RESIZINGS
    rounds: bool = True  # whether images are rounded to 8 bits first
    name: str  # in brackets in metrics' names, unless the weights are those that define a metric
    channels: int  # F of the pooled features
    widths: Mapping[str, int] = {}  # of the outputs other than "pooled" and "tokens", where known
    spec: LatentSpec  # of the token features

    def fingerprint(self) -> str | None:
        """sha256 of the weights; None if they are missing."""
        raise NotImplementedError

    def fetch(self) -> None:
        """Downloads missing weights; the frame calls this before a run.

        Raises:
            FileNotFoundError: naming the file that is missing and cannot be downloaded, or must not be
            offline.
        """

    def memory_bytes(self) -> int:
        """Bytes that the network and describing a few images with it take; 0, the default, is unknown."""
        return 0

    def protocol(self) -> dict[str, Any]:
        """Everything that features depend on besides the images: weights, resolution, resizing, layer."""
        raise NotImplementedError

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, c, H, W) in [-1, 1], rounded to 8 bits first -> pooled (B, F), tokens (B, N, G)."""
        described = self.describe(images, ("pooled", "tokens"))
        return described["pooled"], described["tokens"]

    def describe(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """The named outputs of images (B, c, H, W) in [-1, 1], in one pass through the network.

        For images on the meta device the network is one without weights, so that plans can count its cost.
        """
        described = dict(zip(("pooled", "tokens"), self(images), strict=True))
        return {name: described[name] for name in outputs}
