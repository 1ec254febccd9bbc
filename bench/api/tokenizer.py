"""The interfaces of tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from .errors import Unfit
from .noise import Noise
from .specs import ImageSpec, LatentSpec
from .step import Step


class Tokenizer(nn.Module):
    """An autoencoder: `encoder` and `decoder` together hold every trainable parameter.

    Facts that the frame passes beside `image` and `expansion` to a constructor that names them: `dataset:
    Dataset`. A constructor initialises the encoder's output layer last, so that rows with another `expansion`
    start from the same weights.

    A tokenizer that only encodes has `decodes = False` and an empty decoder: the regularizer's loss alone
    trains it, and generators are skipped.
    """

    version: ClassVar[int] = 1  # part of the cache key: raise it when numbers change
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # published sets of options, see Generator
    decodes: ClassVar[bool] = True
    spec: LatentSpec
    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, image: ImageSpec, expansion: int) -> None:
        super().__init__()

    def fingerprint(self) -> str | None:
        """sha256 of files that the part reads besides its weights; "" without any, None if one is missing.

        Cache keys contain it. Files that a plugin's constructor opens by Python are in them anyway.
        """
        return ""

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        """The weights of the last layers: {"encoder": …} and, if the tokenizer decodes, "decoder"."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, c, H, W) in [-1, 1] -> h (B, T, C * expansion)."""
        return self.encoder(images)

    def decode(self, z: Tensor) -> Tensor:
        """Latents z (B, T, C) -> images (B, c, H, W), not clamped."""
        if not self.decodes:
            raise Unfit(f"{type(self).__name__} only encodes")
        return self.decoder(z)

    def features(self, images: Tensor) -> Tensor:
        """Features for a linear probe in place of latents, if a tokenizer has any: (B, c, H, W) -> (B, F)."""
        raise NotImplementedError

    def loss(self, images: Tensor, z: Tensor, step: Step) -> dict[str, Tensor] | None:
        """Loss terms that replace the matrix's reconstruction losses, or None to use those."""
        return None if self.decodes else {}

    @staticmethod
    def released_names(state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        """The names that a released checkpoint has for the tensors of a state dict of this class.

        Tensors of several names are concatenated along dimension 0.
        """
        return {name: (name,) for name in state}


class FlowTokenizer(Tokenizer):
    """A tokenizer whose decoder draws images: a flow from noise (B, c, H, W) to images, conditioned on z.

    The frame decodes by `latents.decode_batch`, with labels where they are known and noise keyed by chunk.
    """

    evaluations: int  # of `velocity` in one decode, as far as the number is known without values

    def velocity(self, x: Tensor, t: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        """The velocity: x (B, c, H, W), t (B,), z (B, T, C), labels (B,) -> (B, c, H, W)."""
        raise NotImplementedError

    def drawn(self, x: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        """The images (B, c, H, W), not clamped, to which the flow maps noise x (B, c, H, W)."""
        raise NotImplementedError

    def inverted(self, images: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        """The noise (B, c, H, W) that `drawn` maps to these images (B, c, H, W)."""
        raise NotImplementedError

    def decode(self, z: Tensor, labels: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        """Latents z (B, T, C) -> images (B, c, H, W), not clamped; without noise, from one fixed draw."""
        raise NotImplementedError
