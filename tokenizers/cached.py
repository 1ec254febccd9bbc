"""Latents that were stored beforehand, with the decoder that they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from ..bench.api import Dataset, ImageSpec, Split, Tokenizer, Unfit
from ..bench.models.latent_folder import LatentFolder, LatentSet
from ..bench.models.stored_latents import LatentsError, StoredLatents, as_tokens
from ..bench.registry import Use, register, use
from ..bench.store.user_paths import user_path


@register("cached")
class Cached(Tokenizer):
    """Latents from files, in place of an encoder's, and the tokenizer that decodes them.

    Generators and metrics of latents see the files: LightningDiT's shards, MAR's moments, or arrays of numpy
    (`bench/models/stored_latents.py` says how they lie). Moments fit `kl`, which draws from them; with `none`
    the means are taken. Shards hold draws already, which fit `none`. Images stay the reference, and have to
    be those that were encoded, in the same order: numbers and labels are compared. Where there are no images,
    the dataset `latents` has the files and the decoder, and the row is `cached: {}`. The row needs `budget:
    {tokenizer_steps: 0}`, as what is stored cannot be trained.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"latents"})
    weights: Path | None  # the file of the dataset's decoder, where that isn't the decoder's own

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        dataset: Dataset,
        latents: str = "",
        decoder: Annotated[Use, Tokenizer] | None = None,
    ) -> None:
        """
        Args:
            latents: the folder with `train` and `val`; those of the dataset `latents` unless given.
            decoder: the tokenizer whose latents they are, such as {use: diffusers, path: FOLDER}, or the
                dataset's. Its encoder serves metrics that encode other images.
        """
        super().__init__(image, expansion)
        self.dataset, self.expansion, self.weights = dataset, expansion, None
        folder = LatentFolder(user_path(latents)) if latents else None
        if isinstance(dataset, LatentSet):
            folder = folder or dataset.latents
            if decoder is None:
                decoder, self.weights = dataset.decoder, dataset.decoder_weights()
        if folder is None:
            raise ValueError(
                "the option 'latents' is missing: a folder with latents of `train` and `val` (if there "
                "are no images, `dataset: {use: latents}` names it)"
            )
        if decoder is None:
            raise ValueError("the option 'decoder' is missing: such as {use: diffusers, path: FOLDER}")
        self.latents = folder
        whole = use(Tokenizer, decoder, image=image, expansion=expansion, dataset=dataset)
        self.whole = [whole]  # in a list, so that its weights are this one's encoder's and decoder's alone
        self.spec, self.encoder, self.decoder = whole.spec, whole.encoder, whole.decoder
        self.released_names = whole.released_names  # type: ignore[method-assign]
        self.older_names = whole.older_names  # type: ignore[method-assign]
        shape = folder.stored("train").shape
        if expansion == 2 and not shape.moments:
            raise Unfit(f"{folder.root} holds draws of latents and no moments: `none` takes them as they are")
        self.patch = shape.patch(self.spec, folder.root)

    def fingerprint(self) -> str | None:
        own, inner = self.latents.fingerprint(), self.whole[0].fingerprint()
        return None if inner is None else f"{own} {inner}".strip()

    def own_weights(self) -> Path | None:
        return self.weights or self.whole[0].own_weights()

    def notes(self) -> list[str]:
        return self.whole[0].notes()

    def memory_bytes(self) -> int:
        return self.whole[0].memory_bytes()

    def fetch(self) -> None:
        self.whole[0].fetch()

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        return self.whole[0].heads

    def encode(self, images: Tensor) -> Tensor:
        return self.whole[0].encode(images)

    def decode(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.whole[0].decode(z)

    def stored(self, split: Split) -> Tensor:
        found = self.latents.stored(split)
        self._check_images(split, found)
        every = torch.arange(len(found))
        return as_tokens(found.means(every) if self.expansion == 1 else found.rows(every), self.patch)

    def _check_images(self, split: Split, found: StoredLatents) -> None:
        """Raises LatentsError unless there is a latent for each image, and their labels are the same."""
        count, labels = self.dataset.size(split), self.dataset.labels(split)
        if len(found) != count:
            raise LatentsError(
                f"{self.latents.root} has {len(found):,} {split} latents, and the dataset {count:,} {split} "
                "images"
            )
        if found.labels is None or labels is None:
            return
        wrong = torch.nonzero(found.labels != labels).flatten()
        if len(wrong):
            first = int(wrong[0])
            pair = f"{int(found.labels[first])} and {int(labels[first])}"
            raise LatentsError(
                f"{self.latents.root}: {len(wrong):,} of {count:,} {split} labels differ from the dataset's, "
                f"the first at {first} ({pair}): they are of other images, or in another order"
            )
