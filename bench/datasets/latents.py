"""Stored latents alone: their decodings stand for images that aren't there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from .. import registry
from ..api import ImageSpec, Split, Tokenizer, Unfit, from_uint8, to_uint8
from ..models.latent_folder import LatentFolder, LatentSet
from ..models.stored_latents import LatentsError, as_tokens
from ..nn import released_weights
from ..nn.weight_shards import weights_sha256
from ..registry import Use, register, use
from ..store.user_paths import user_path


@register("latents")
class Latents(LatentSet):
    """Latents from files, in place of images: generators learn them by the tokenizer `cached: {}`.

    Training images and held-out ones are the latents' decodings, so metrics that compare with them are named
    `gFD_decoded`, never gFD or gFID, and metrics of reconstructions have no numbers. Files lie in ROOT/train
    and ROOT/val, as LightningDiT's shards, MAR's moments or arrays of numpy
    (`bench/models/stored_latents.py` says how); of moments the means are decoded. Labels are the files'.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"root", "splits", "weights"})

    def __init__(
        self,
        root: str = "latents",
        decoder: Annotated[Use, Tokenizer] = "diffusers",
        size: Annotated[int, Field(ge=1)] = 256,
        channels: Literal[1, 3] = 3,
        weights: str | None = None,
        splits: Mapping[str, str] | None = None,
        held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    ) -> None:
        """
        Args:
            root: a folder with `train` and `val`, or with files of train alone.
            decoder: the tokenizer whose latents they are, such as {use: diffusers, path: FOLDER}.
            size: side of the decoded squares in pixels.
            channels: 3, or 1 if they are grey.
            weights: the decoder's weights where it has none of its own, as every tokenizer but `diffusers`.
            splits: folders of splits with other names, {train: FOLDER, val: FOLDER} or {train: FOLDER}, below
                the root or anywhere; or arrays of numpy.
            held_out: fraction that is `val` where no files of it are: a fixed random choice.
        """
        if splits is not None and set(splits) not in ({"train"}, {"train", "val"}):
            raise ValueError(
                f"splits must be {{train: FOLDER, val: FOLDER}} or {{train: FOLDER}}, not {dict(splits)}"
            )
        if splits is not None and splits["train"] == splits.get("val"):
            raise ValueError(f"train and val are the same latents: {splits['train']}")
        self.latents = LatentFolder(user_path(root), splits, held_out)
        self.image, self.decoder, self.weights = ImageSpec(channels, size, size), decoder, weights
        name = decoder if isinstance(decoder, str) else decoder["use"]
        part = registry.get("tokenizers", name)
        if part.stored is not Tokenizer.stored:  # type: ignore[attr-defined]
            raise ValueError(f"decoder: {name} reads latents itself; name the tokenizer that decodes them")
        if part.own_weights is Tokenizer.own_weights and weights is None:  # type: ignore[attr-defined]
            raise ValueError(
                f"decoder: {name} has no weights of its own: `weights: FILE` names them, or "
                "`decoder: {use: diffusers, path: FOLDER}` is a folder that has them"
            )

    def decoder_weights(self) -> Path | None:
        return None if self.weights is None else user_path(self.weights)

    @cached_property
    def classes(self) -> int:  # type: ignore[override]
        labels = self.labels("train")
        return 0 if labels is None else int(labels.max()) + 1

    def fetch(self) -> None:
        if self.weights is None:
            self._decoder.fetch()
        if not self._weights_file.is_file():
            raise FileNotFoundError(f"there is no file {self._weights_file}, the weights of the decoder")

    def fingerprint(self) -> str | None:
        self._check_labels()
        decoder, patch, file = self._decoder.fingerprint(), self._patch, self._weights_file
        if decoder is None or not file.is_file():
            return None
        released_weights.state(self._decoder, file)  # raises if it is of another network
        image, latents = self.image, self.latents.fingerprint()
        text = f"{image.channels} {image.height} {patch} {decoder} {weights_sha256(file)} {latents}"
        return hashlib.sha256(text.encode()).hexdigest()

    def size(self, split: Split) -> int:
        return len(self.latents.stored(split))

    def labels(self, split: Split) -> Tensor | None:
        return self.latents.stored(split).labels

    def images(self, split: Split, index: Tensor) -> Tensor:
        return from_uint8(self.levels(split, index))

    @torch.no_grad()
    def levels(self, split: Split, index: Tensor) -> Tensor:
        # Each latent is decoded alone, so that its image depends on no other, not even by rounding.
        decoder, patch = self._loaded, self._patch
        means = self.latents.stored(split).means(index)
        images = [decoder.decode(as_tokens(one[None], patch).to(self.device)) for one in means]
        return torch.cat([to_uint8(image).cpu() for image in images])

    def description(self) -> list[str]:
        first, *others = super().description()
        shape = self.latents.stored("train").shape
        kind = "means of moments" if shape.moments else "latents"
        lines = [
            first,
            *others,
            f"decoded from {kind} of {shape} by {self._name}: metrics that compare with them are named "
            "`_decoded`, as there are no images",
        ]
        if self.latents.holds_out:
            lines.append(f"val is a fixed random choice of {self.latents.held_out:g} of train's files")
        return lines

    @property
    def _name(self) -> str:
        return self.decoder if isinstance(self.decoder, str) else self.decoder["use"]

    @cached_property
    def _weights_file(self) -> Path:
        file = self.decoder_weights() or self._decoder.own_weights()
        assert file is not None
        return file

    def _built(self) -> Tokenizer:
        expansion = 2 if self.latents.stored("train").shape.moments else 1
        try:
            return use(Tokenizer, self.decoder, image=self.image, expansion=expansion, dataset=self)
        except ValueError as error:  # Unfit too
            raise LatentsError(f"decoder: {error}") from None

    @cached_property
    def _decoder(self) -> Tokenizer:
        """The decoder without values, for its facts."""
        with torch.device("meta"):
            return self._built()

    @cached_property
    def _patch(self) -> int:
        try:
            return self.latents.stored("train").shape.patch(self._decoder.spec, self.latents.root)
        except Unfit as error:
            height = self.image.height
            raise LatentsError(f"{error}, for images of {height} x {height} (`size`)") from None

    @cached_property
    def _loaded(self) -> Tokenizer:
        with torch.random.fork_rng(devices=[]):
            decoder = self._built()
        decoder.load_state_dict(released_weights.state(decoder, self._weights_file))
        return decoder.to(self.device).eval()

    def _check_labels(self) -> None:
        """Raises LatentsError unless labels are numbers of classes that train has."""
        for split in ("train", "val"):
            labels = self.labels(split)  # type: ignore[arg-type]
            if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
                low, high = int(labels.min()), int(labels.max())
                known = f"0 to {self.classes - 1}"
                raise LatentsError(f"labels of {split} are {low} to {high}, and the classes of train {known}")
