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

    A constructor that names `dataset: Dataset` is given it by the frame. One that only encodes says so by
    `decodes`, and its decoder is empty: the regularizer's loss alone trains it, and generators are skipped.

    The encoder's output layer is initialised last, so that rows with another `expansion` start from the same
    weights.
    """

    version: ClassVar[int] = 1
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # as a generator's
    decodes: ClassVar[bool] = True
    spec: LatentSpec
    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, image: ImageSpec, expansion: int) -> None:
        super().__init__()

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        """{"encoder": weight of the encoder's last layer, "decoder": the decoder's, if it decodes}."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """(B, c, H, W) in [-1, 1] -> h (B, T, C * expansion)."""
        return self.encoder(images)

    def decode(self, z: Tensor) -> Tensor:
        """z (B, T, C) -> (B, c, H, W), not clamped."""
        if not self.decodes:
            raise Unfit(f"{type(self).__name__} only encodes")
        return self.decoder(z)

    def features(self, images: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, F) for a linear probe, of a tokenizer that has others than its latents."""
        raise NotImplementedError

    def loss(self, images: Tensor, z: Tensor, step: Step) -> dict[str, Tensor] | None:
        """A loss of its own in place of the matrix's reconstruction losses, or None."""
        return None if self.decodes else {}


class FlowTokenizer(Tokenizer):
    """A tokenizer whose decoder draws images: a flow from noise (B, c, H, W) to images that is told z.

    The frame decodes by `latents.decoded`, with labels where they are known and noise keyed by chunk.
    """

    evaluations: int  # of `velocity` in one decode, as far as that is known without values

    def velocity(self, x: Tensor, t: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        """x (B, c, H, W), t (B,), z (B, T, C), labels (B,) -> (B, c, H, W)."""
        raise NotImplementedError

    def drawn(self, x: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        """The images (B, c, H, W), not clamped, that the flow makes of noise x."""
        raise NotImplementedError

    def inverted(self, images: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        """The noise (B, c, H, W) of which `drawn` makes these images."""
        raise NotImplementedError

    def decode(self, z: Tensor, labels: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        """z (B, T, C) -> (B, c, H, W), not clamped; without noise, of one fixed draw."""
        raise NotImplementedError
