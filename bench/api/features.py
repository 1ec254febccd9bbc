"""The interface of feature extractors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from .specs import LatentSpec


class FeatureExtractor:
    """A frozen network that describes images: one vector for distances, a grid of tokens for teachers.

    `outputs` names what `describe` can give: "pooled" (B, F), "tokens" (B, N, G), "logits" (B, K) of a
    classifier, which the inception score needs, and "spatial" (B, S), a flattened map, for sFD.
    """

    version: ClassVar[int] = 1
    outputs: tuple[str, ...] = ("pooled", "tokens")
    cmmd: ClassVar[bool] = False  # images are compared by CMMD's kernel in place of FD, KD and the rest
    # How images come to the network; other than these only in an audit, which changes an instance's.
    resizing: str = "clean"  # one of images.RESIZINGS
    rounds: bool = True  # to 8 bits
    name: str  # what metric names carry in brackets, unless the weights are those that define a metric
    channels: int  # F of the pooled features
    widths: Mapping[
        str, int
    ] = {}  # of other outputs than pooled features and tokens, as far as they are said
    spec: LatentSpec  # of the token features

    def fingerprint(self) -> str | None:
        """sha256 of the weights; None if they aren't there yet."""
        raise NotImplementedError

    def fetch(self) -> None:
        """Downloads weights that aren't there, if they can be had; called before a run.

        Raises:
            FileNotFoundError: naming the file, where it would have to be downloaded offline.
        """

    def protocol(self) -> dict[str, Any]:
        """Everything besides the images that a feature depends on: weights, resolution, resizing, layer."""
        raise NotImplementedError

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, c, H, W) in [-1, 1] -> pooled (B, F), tokens (B, N, G); rounds to 8 bits first."""
        found = self.describe(images, ("pooled", "tokens"))
        return found["pooled"], found["tokens"]

    def describe(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """(B, c, H, W) in [-1, 1] -> the outputs asked for, in one pass through the network.

        A part has this or, where there are no other outputs, `__call__`: each is made of the other.
        """
        found = dict(zip(("pooled", "tokens"), self(images), strict=True))
        return {name: found[name] for name in outputs}
