"""Latents that were stored beforehand, with the decoder that they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.api import Dataset, ImageSpec, Split, Tokenizer, Unfit
from ..bench.models import stored_latents
from ..bench.registry import Use, register, use
from ..bench.store.user_paths import user_path


@register("cached")
class Cached(Tokenizer):
    """Latents from files, in place of an encoder's, and the tokenizer that decodes them.

    Generators and metrics of latents see the files: LightningDiT's shards, MAR's moments, or arrays of numpy
    (`bench/models/stored_latents.py` says how they lie). Moments fit `kl`, which draws from them; with `none`
    the means are taken. Shards hold draws already, which fit `none`. Images stay the reference, and have to
    be those that were encoded, in the same order: numbers and labels are compared. The row needs
    `budget: {tokenizer_steps: 0}`, as what is stored cannot be trained.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"latents"})

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        dataset: Dataset,
        latents: str = "",
        decoder: Annotated[Use, Tokenizer] = "diffusers",
    ) -> None:
        """
        Args:
            latents: the folder with `train` and `val`.
            decoder: the tokenizer whose latents they are, such as {use: diffusers, path: FOLDER}. Its encoder
                serves metrics that encode other images.
        """
        super().__init__(image, expansion)
        if not latents:
            raise ValueError("the option 'latents' is missing: a folder with latents of `train` and `val`")
        self.folder, self.dataset, self.expansion = user_path(latents), dataset, expansion
        whole = use(Tokenizer, decoder, image=image, expansion=expansion, dataset=dataset)
        self.whole = [whole]  # in a list, so that its weights are this one's encoder's and decoder's alone
        self.spec, self.encoder, self.decoder = whole.spec, whole.encoder, whole.decoder
        self.released_names = whole.released_names  # type: ignore[method-assign]
        self.older_names = whole.older_names  # type: ignore[method-assign]
        self._check_shape(*stored_latents.shape_of(self.folder))

    def _check_shape(self, values: int, height: int, width: int, moments: bool) -> None:
        if self.expansion == 2 and not moments:
            raise Unfit(f"{self.folder} holds draws of latents and no moments: `none` takes them as they are")
        channels, grid = values // (1 + moments), self.spec.grid
        side = height // grid[0] if grid else 0
        folded = (channels * side**2, (height // max(1, side), width // max(1, side)))
        if folded != (self.spec.channels, grid):
            wanted = f"{self.spec.channels} x {grid[0]} x {grid[1]}" if grid else f"{self.spec.tokens} tokens"
            raise Unfit(
                f"{self.folder} holds latents of {channels} x {height} x {width}, the decoder takes {wanted}"
            )
        self.patch = side

    def fingerprint(self) -> str | None:
        own, inner = stored_latents.fingerprint(self.folder), self.whole[0].fingerprint()
        return None if own is None or inner is None else f"{own} {inner}".strip()

    def own_weights(self) -> Path | None:
        return self.whole[0].own_weights()

    def fetch(self) -> None:
        self.whole[0].fetch()

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        return self.whole[0].heads

    def encode(self, images: Tensor) -> Tensor:
        return self.whole[0].encode(images)

    def decode(self, z: Tensor) -> Tensor:
        return self.whole[0].decode(z)

    def stored(self, split: Split) -> Tensor:
        found = stored_latents.read_split(self.folder, split)
        self._check_images(split, found)
        values = found.values
        if found.moments and self.expansion == 1:
            values = values.chunk(2, 1)[0]
        return F.pixel_unshuffle(values, self.patch).flatten(2).transpose(1, 2).contiguous()

    def _check_images(self, split: Split, found: stored_latents.StoredLatents) -> None:
        """Raises LatentsError unless there is a latent for each image, and their labels are the same."""
        count, labels = self.dataset.size(split), self.dataset.labels(split)
        have = len(found.values)
        if have != count:
            raise stored_latents.LatentsError(
                f"{self.folder} has {have:,} {split} latents, and the dataset {count:,} {split} images"
            )
        if found.labels is None or labels is None:
            return
        wrong = torch.nonzero(found.labels != labels).flatten()
        if len(wrong):
            first = int(wrong[0])
            pair = f"{int(found.labels[first])} and {int(labels[first])}"
            raise stored_latents.LatentsError(
                f"{self.folder}: {len(wrong):,} of {count:,} {split} labels differ from the dataset's, "
                f"the first at {first} ({pair}): they are of other images, or in another order"
            )
