"""The sets of torchvision.datasets, by their names and arguments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..api import Dataset, ImageSpec, Split, from_uint8
from ..data.class_folders import class_text, split_text
from ..data.file_hashes import hash_of_files
from ..data.fixed_order import random_rows
from ..data.image_folders import ImagesError
from ..data.images import adm_centre_crop
from ..data.split_folders import SplitFolders
from ..data.torchvision_sets import check_arguments, labels_of, probes, sample_of, set_class
from ..nn.weights import OfflineError, is_offline
from ..registry import parameters_of, register
from ..store.hashes import sha256
from ..store.user_paths import user_path

IN_MEMORY = 2**28  # bytes of pictures that are decoded once; those of larger sets when they are needed
MISSING = (FileNotFoundError, NotADirectoryError, RuntimeError, ModuleNotFoundError)  # of constructors
SPLITS: tuple[Split, ...] = ("train", "val")


@register("torchvision")
class Torchvision(Dataset):
    """A set of torchvision.datasets, by its name and the arguments that make train and val of it.

    `{use: torchvision, name: Flowers102, size: 64, train: {split: train}, val: {split: test}}`: sets that
    take `train=` need no arguments; others name them, or hold images out of train. Pictures are as
    torchvision opens them. Targets that are no whole numbers, such as boxes and captions, are not read; the
    set then has no classes, and `bench plan` says so. `bench run` downloads what torchvision can download.

    The fingerprint is that of the arguments and of all files below `root`, which should hold this set alone.
    """

    def __init__(
        self,
        name: str = "CIFAR10",
        root: str = "data",
        train: Mapping[str, Any] | None = None,
        val: Mapping[str, Any] | None = None,
        size: Annotated[int, Field(ge=1)] | None = None,
        channels: Literal[1, 3] | None = None,
        held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    ) -> None:
        """
        Args:
            name: of a class in torchvision.datasets.
            root: torchvision's root; a `root` in `train` or `val` is relative to it.
            train, val: arguments, such as {split: train}. null: {train: true} and {train: false} of sets that
                take it; for others `val` is held out of `train`.
            size: side of the square in pixels, cut by ADM's centre crop; null keeps pictures, which must be
                equally large.
            channels: 1 or 3; null is 1 if pictures are grey.
            held_out: fraction of the images that are `val` without arguments of its own: a random choice.
        """
        cls = set_class(name)
        self.name, self.root, self.side, self.held_out = name, user_path(root), size, held_out
        self.channels, self._cls = channels, cls
        known = parameters_of(cls)
        if train is None and val is None and "train" in known and "split" not in known:
            train, val = {"train": True}, {"train": False}
        if train is None and ("split" in known or val is not None):
            raise ValueError(
                f"torchvision's {name} needs its arguments, such as `train: {{split: train}}, val: {{split: "
                "test}`; without `val` images are held out of train"
            )
        self.arguments: dict[Split, Mapping[str, Any]] = {"train": train or {}}
        if val is not None:
            self.arguments["val"] = val
        for arguments in self.arguments.values():
            check_arguments(name, arguments)
        if val is not None and dict(self.arguments["train"]) == dict(val):
            raise ValueError(f"train and val are the same images of torchvision's {name}: {dict(val)}")

    def fetch(self) -> None:
        if self._problem is None:
            return
        if "download" not in parameters_of(self._cls):
            raise FileNotFoundError(self._problem)
        if is_offline():
            raise OfflineError(f"offline, and {self._problem}")
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            for split in self.arguments:
                self._made(split, download=True)
        except Exception as error:  # without a network, without room, or the set has moved
            raise FileNotFoundError(f"{self._title} cannot be downloaded: {error}") from error
        vars(self).pop("_opened", None)
        if self._problem is not None:
            raise FileNotFoundError(self._problem)

    def fingerprint(self) -> str | None:
        if self._problem is not None:
            return None
        named = {split: sorted(arguments.items()) for split, arguments in self.arguments.items()}
        text = json.dumps([self.name, named, self.side, self.image.channels], default=str)
        text += f"{self.held_out}" if "val" not in self.arguments else ""
        digest = hashlib.sha256(text.encode())
        if self._has_root:
            digest.update(hash_of_files(self.root).encode())
        for value in (value for arguments in self.arguments.values() for value in arguments.values()):
            if isinstance(value, str) and user_path(value).is_file():  # such as COCO's annotations
                digest.update(sha256(user_path(value)).encode())
        return digest.hexdigest()

    def size(self, split: Split) -> int:
        return len(self._rows[split])

    @cached_property
    def image(self) -> ImageSpec:  # type: ignore[override]
        shapes = [sample_of(data, n, self._title).levels.shape for data, n in self._some]
        if not shapes:
            raise ImagesError(f"{self._title} has no images for {' and '.join(self.arguments)}")
        sides = {shape[:2] for shape in shapes}
        if self.side is None and len(sides) > 1:
            few = " and ".join(f"{width} x {height}" for height, width in sorted(sides)[:2])
            raise ImagesError(f"pictures of {self._title} are of several sizes, {few}: choose a `size`")
        height, width = (self.side, self.side) if self.side else shapes[0][:2]
        return ImageSpec(self.channels or max(shape[2] for shape in shapes), height, width)

    @property
    def decodes(self) -> bool:  # type: ignore[override]
        spec, count = self.image, sum(self.size(split) for split in SPLITS)
        return count * spec.channels * spec.height * spec.width > IN_MEMORY

    @cached_property
    def classes(self) -> int:  # type: ignore[override]
        labels = self._labels["train"]
        if labels is None:
            return 0
        return max(
            len(self._names), int(max(own.max() for own in self._labels.values() if own is not None)) + 1
        )

    def labels(self, split: Split) -> Tensor | None:
        labels = self._labels[split]
        return None if labels is None else torch.from_numpy(labels)

    def images(self, split: Split, index: Tensor) -> Tensor:
        return from_uint8(self.levels(split, index))

    def levels(self, split: Split, index: Tensor) -> Tensor:
        if not self.decodes:
            return self._decoded[split][index]
        return self._read(split, index.numpy())

    def description(self) -> list[str]:
        if self._problem is not None:
            return super().description()
        counts = {split: self.size(split) for split in SPLITS}
        held_out = "as a fixed random choice of train"
        names = SplitFolders(b"train", b"val" if "val" in self.arguments else b"")
        known = [name.encode() for name in self._names] if len(self._names) == self.classes else []
        classes = known or [str(number).encode() for number in range(self.classes)]
        told = class_text(classes, self._labels)
        lines = [f"{split_text(counts, names, f'held out {held_out}')}; {told}"]
        made = [f"{split}: {_in_words(arguments)}" for split, arguments in self.arguments.items()]
        lines.append(f"torchvision's {self.name}; {'; '.join(made)}")
        if not self.classes:
            reason = next(reason for _, reason in self._targets.values() if reason)
            lines.append(f"no labels are read: {reason}")
        return lines

    def _read(self, split: Split, index: NDArray[np.int64]) -> Tensor:
        spec, rows, data = self.image, self._rows[split], self._data(split)
        levels = np.empty((len(index), spec.channels, spec.height, spec.width), np.uint8)
        for number, place in enumerate(rows[index].tolist()):
            picture = sample_of(data, place, f"{self._title}, {split}").levels
            if picture.shape[2] > spec.channels:
                raise ImagesError(f"{self._title}, {split}: image {place} is in colour: let `channels` be 3")
            if self.side is not None:
                picture = adm_centre_crop(picture, (spec.height, spec.width))
            elif picture.shape[:2] != (spec.height, spec.width):
                height, width = picture.shape[:2]
                raise ImagesError(
                    f"{self._title}, {split}: image {place} is {width} x {height}, and others {spec.width} x "
                    f"{spec.height}: choose a `size`"
                )
            levels[number] = picture.transpose(2, 0, 1)  # grey is repeated in colour
        return torch.from_numpy(levels)

    @cached_property
    def _decoded(self) -> dict[Split, Tensor]:
        return {split: self._read(split, np.arange(self.size(split))) for split in SPLITS}

    @cached_property
    def _rows(self) -> dict[Split, NDArray[np.int64]]:
        """The samples of each split."""
        rows = {split: np.arange(len(data)) for split, data in self._sets.items()}
        if "val" not in rows:
            count = len(rows["train"])
            with torch.device("cpu"):
                rows["val"] = random_rows(count, max(1, round(self.held_out * count))).numpy()
            rows["train"] = np.setdiff1d(rows["train"], rows["val"])
        return rows

    @cached_property
    def _labels(self) -> dict[Split, NDArray[np.int64] | None]:
        found = {split: labels for split, (labels, _) in self._targets.items()}
        if any(labels is None for labels in found.values()):
            return dict.fromkeys(SPLITS)
        labels = {split: found.get(split, found["train"]) for split in SPLITS}
        return {split: cast(NDArray[np.int64], labels[split])[self._rows[split]] for split in SPLITS}

    @cached_property
    def _targets(self) -> dict[Split, tuple[NDArray[np.int64] | None, str]]:
        """The labels of torchvision's sets, or the reason why there are none."""
        return {split: labels_of(data, f"{self._title}, {split}") for split, data in self._sets.items()}

    @property
    def _names(self) -> list[str]:
        """The classes' names, if the set has them as text."""
        names = getattr(self._sets["train"], "classes", None)
        return list(map(str, names)) if isinstance(names, list | tuple) else []

    @property
    def _title(self) -> str:
        return f"torchvision's {self.name}"

    @property
    def _some(self) -> list[tuple[Any, int]]:
        return [(data, number) for data in self._sets.values() for number in probes(len(data))]

    @property
    def _has_root(self) -> bool:
        return "root" in parameters_of(self._cls)

    def _data(self, split: Split) -> Any:
        return self._sets.get(split, self._sets["train"])

    @property
    def _sets(self) -> dict[Split, Any]:
        if isinstance(self._opened, str):
            raise FileNotFoundError(self._opened)
        return self._opened

    @property
    def _problem(self) -> str | None:
        """The reason why the set is not here, if it is not."""
        return self._opened if isinstance(self._opened, str) else None

    @cached_property
    def _opened(self) -> dict[Split, Any] | str:
        """torchvision's own sets, or the reason why they are not here."""
        try:
            return {split: self._made(split) for split in self.arguments}
        except MISSING as error:
            said = str(error).splitlines()[0].partition(" You can use download=True")[0].rstrip(".")
            if isinstance(error, ModuleNotFoundError):
                return f"{self._title} cannot be read: {said}"
            hint = "; `bench run` downloads it" if "download" in parameters_of(self._cls) else ""
            return f"{self._title} is not in {self.root}: {said}{hint}"

    def _made(self, split: Split, **more: Any) -> Any:
        """torchvision's own set.

        Raises:
            ValueError: it doesn't take the arguments.
        """
        arguments = {**self.arguments[split], **more}
        if self._has_root:
            inner = arguments.pop("root", "")
            arguments["root"] = str(self.root / inner) if inner else str(self.root)
        try:
            with torch.device("cpu"):
                return self._cls(**arguments)
        except MISSING:
            raise
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self._title}, {split}: {str(error).splitlines()[0]}") from error


def _in_words(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "no arguments"
