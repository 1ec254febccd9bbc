"""A folder of stored latents: which of its files are the splits', and what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch

from ..api import Dataset, Split, seed_for
from ..data.fixed_order import random_rows
from ..nn.weights import sha256
from ..registry import Use
from .stored_latents import LatentsError, StoredLatents, files_in, folder_labels, labels_file

SPLITS: tuple[Split, ...] = ("train", "val")


class LatentFolder:
    """The stored latents of both splits.

    Files are ROOT/train and ROOT/val in a layout of `bench/models/stored_latents.py`, ROOT/train.npy and
    ROOT/val.npy, or in the folders or arrays that `splits` names. With `held_out`, a fixed random choice of
    train is val where there are no files of val, and ROOT itself may have train's files.
    """

    def __init__(
        self, root: Path, splits: Mapping[str, str] | None = None, held_out: float | None = None
    ) -> None:
        """
        Args:
            splits: {train: FOLDER, val: FOLDER} or {train: FOLDER}, below the root or elsewhere.
        """
        self.root, self.splits, self.held_out = root, splits, held_out

    @property
    def holds_out(self) -> bool:
        """Whether val is a choice of train's latents."""
        return "val" not in self._files

    def fingerprint(self) -> str:
        """sha256 of the files of latents and labels, with their names below those of the splits.

        Raises:
            LatentsError: a split has no files.
        """
        digest = hashlib.sha256(f"{self.held_out}".encode() if self.holds_out else b"")
        for split, files in self._files.items():
            arrays = [labels_file(file) for file in files if file.suffix == ".npy"]
            for file in [*files, *filter(Path.is_file, arrays)]:
                # Arrays and shards lie in the split's folder, moments in folders of classes in it.
                name = file.name if file.suffix != ".npz" else f"{file.parent.name}/{file.name}"
                digest.update(f"{split}\0{name}\0{sha256(file)}\n".encode())
        return digest.hexdigest()

    def stored(self, split: Split) -> StoredLatents:
        """The latents of a split; folders of classes are numbered through both splits.

        Raises:
            LatentsError: a split has no files, or wrong ones.
        """
        found, train = self._stored[split], self._stored["train"]
        if found.shape != train.shape:
            raise LatentsError(
                f"{self.root} has latents of {train.shape} for train and {found.shape} for val"
            )
        return found

    @cached_property
    def _files(self) -> dict[Split, list[Path]]:
        found = {split: self._files_of(split) for split in SPLITS}
        if not found["train"] and not found["val"] and self.splits is None and self.held_out is not None:
            found["train"] = files_in(self.root)
        if not found["train"] or (self.held_out is None and not found["val"]):
            raise LatentsError(self._missing("val" if found["train"] else "train"))
        return {split: files for split, files in found.items() if files}

    def _files_of(self, split: Split) -> list[Path]:
        if self.splits is not None and split not in self.splits:
            return []
        name = split if self.splits is None else self.splits[split]
        file = self.root / (f"{name}.npy" if self.splits is None else name)
        found = [file] if file.is_file() and file.suffix == ".npy" else files_in(self.root / name)
        if not found and self.splits is not None:
            raise LatentsError(self._missing(split))
        return found

    def _missing(self, split: Split) -> str:
        if self.splits is not None and split in self.splits:
            name = self.splits[split]
            return f"no latents in {self.root / name}: neither *.safetensors, */*.npz nor an array of numpy"
        found = f"neither {split}.npy, {split}/*.safetensors nor {split}/*/*.npz"
        return f"no latents in {self.root}: {found}"

    @cached_property
    def _stored(self) -> dict[Split, StoredLatents]:
        labels = folder_labels([file for files in self._files.values() for file in files])
        found = {split: StoredLatents(files, labels) for split, files in self._files.items()}
        train, val = found["train"], found.get("val")
        if val is None:
            assert self.held_out is not None
            count = len(train)
            held_out = torch.zeros(count, dtype=torch.bool)
            held_out[random_rows(count, round(count * self.held_out), seed_for("held out", count))] = True
            return {
                "train": train.chosen(torch.nonzero(~held_out).flatten()),
                "val": train.chosen(torch.nonzero(held_out).flatten()),
            }
        if (val.labels is None) != (train.labels is None):
            without, other = ("val", "train") if val.labels is None else ("train", "val")
            raise LatentsError(
                f"{self.root}: the latents of {without} have no labels, and those of {other} do"
            )
        return found


class LatentSet(Dataset):
    """A dataset whose images are what a tokenizer decodes from stored latents."""

    decodes = True
    decoded = True

    latents: LatentFolder
    decoder: Use  # the tokenizer whose latents they are

    def decoder_weights(self) -> Path | None:
        """The file with the decoder's weights where it isn't the decoder's own."""
        return None
