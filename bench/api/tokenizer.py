"""The interfaces of tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from .data import Split
from .errors import Unfit
from .noise import Noise
from .specs import ImageSpec, LatentSpec
from .step import Step


class Tokenizer(nn.Module):
    """An autoencoder: `encoder` and `decoder` together hold every trainable parameter.

    Facts that the frame passes beside `image` and `expansion` to a constructor that names them: `dataset:
    Dataset`, and `extra: int`, the outputs of each token beside `expansion` times the latent's channels; a
    tokenizer that doesn't name it fits only regularizers without any. A constructor initialises the encoder's
    output layer last, so that rows with another `expansion` start from the same weights.

    A tokenizer that only encodes has `decodes = False` and an empty decoder: the regularizer's loss alone
    trains it, and generators are skipped.
    """

    version: ClassVar[int] = 1  # part of the cache key: raise it when numbers change
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # published sets of options, see Generator
    decodes: ClassVar[bool] = True
    # Options that say where files are: cache keys have the files' hashes, by `fingerprint`, in their place.
    paths: ClassVar[frozenset[str]] = frozenset()
    frozen: bool = False  # whether the encoder has no parameters: no loss on latents changes it
    regrids: bool = False  # whether decode() takes other grids than the spec's
    spec: LatentSpec
    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, image: ImageSpec, expansion: int, extra: int = 0) -> None:
        super().__init__()
        self.extra = extra

    def fingerprint(self) -> str | None:
        """sha256 of files that the part reads besides its weights; "" without any, None if one is missing.

        Cache keys contain it. Files that a plugin's constructor opens by Python are in them anyway.
        """
        return ""

    def own_weights(self) -> Path | None:
        """The weight file from which training starts where the row of a matrix names none; it may be missing.

        None: training starts from the weights of the constructor.
        """
        return None

    def fetch(self) -> None:
        """Downloads what is missing for `own_weights` and `fingerprint`; the frame calls this before a run.

        Raises:
            OSError, ValueError: naming the file that is missing and cannot be downloaded, or must not be
            offline.
        """

    @classmethod
    def first_options(cls, image: ImageSpec, tokens: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options beside those `given` for a first try at such images with at most `tokens` latent tokens.

        `bench init` writes them into a matrix. A first try takes minutes on a laptop; {}: the defaults.
        """
        return {}

    def notes(self) -> list[str]:
        """Sentences that `bench plan` and `bench run` say of a row with this tokenizer, if there are any."""
        return []

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        """The weights of the last layers: {"encoder": …} and, if the tokenizer decodes, "decoder".

        A frozen encoder has none.
        """
        raise NotImplementedError

    def memory_bytes(self) -> int:
        """Bytes that networks which aren't submodules take, with a pass through them; 0 by default."""
        return 0

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, c, H, W) in [-1, 1] -> h (B, T, C * expansion + extra)."""
        return self.encoder(images)

    def encode_in_training(self, images: Tensor, noise: Noise) -> Tensor:
        """`encode` in the tokenizer's own updates, for one that hides or disturbs what its encoder sees.

        Draws come from `noise` alone. Nobody else calls this: probes, the decoder's refinement, generators
        and metrics see what `encode` gives.
        """
        return self.encode(images)

    def decode(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Latents z (B, T, C) -> images (B, c, H, W), not clamped.

        Where `regrids` says so, also latents on another grid (h', w'), of which images of as many pixels a
        token come. The frame passes `grid` by keyword, and only for a grid that isn't the spec's.
        """
        if not self.decodes:
            raise Unfit(f"{type(self).__name__} only encodes")
        return self.decoder(z)

    def stored(self, split: Split) -> Tensor | None:
        """h (n, T, C * expansion) of a split's images in their order, if it is read and not encoded.

        Whoever overrides this method cannot be trained.
        """
        return None

    def features(self, images: Tensor) -> Tensor:
        """Features for a linear probe in place of latents, if a tokenizer has any: (B, c, H, W) -> (B, F)."""
        raise NotImplementedError

    def loss(self, images: Tensor, z: Tensor, step: Step) -> dict[str, Tensor] | None:
        """Loss terms that replace the matrix's reconstruction losses, or None to use those."""
        return None if self.decodes else {}

    def as_diffusers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The config, with `_class_name`, and the state of a model of diffusers that is the same network.

        Raises:
            Unfit: there is none, with the reason.
        """
        raise Unfit(f"{type(self).__name__} isn't a network of diffusers")

    @staticmethod
    def released_names(state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        """The names that a released checkpoint has for the tensors of a state dict of this class.

        Tensors of several names are concatenated along dimension 0.
        """
        return {name: (name,) for name in state}

    @classmethod
    def older_names(cls, state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        """The names in checkpoints of an older layout, where there is one; see `released_names`."""
        return cls.released_names(state)


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

    def decode(  # type: ignore[override]  # images have one size: there are no other grids
        self, z: Tensor, labels: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Latents z (B, T, C) -> images (B, c, H, W), not clamped; without noise, from one fixed draw."""
        raise NotImplementedError
