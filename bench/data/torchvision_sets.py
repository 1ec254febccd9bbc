"""torchvision's datasets by name: which there are, how they are made, and what their samples hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from .. import registry
from .image_folders import ImagesError
from .picture import flat

NO_SETS = ("VisionDataset", "DatasetFolder", "LSUNClass", "wrap_dataset_for_transforms_v2")
# Arguments that are code, or that the frame gives itself.
NOT_WRITTEN = ("transform", "target_transform", "transforms", "download", "loader", "is_valid_file")
# Attributes in which sets keep their targets, alone or beside the names of files. A list is taken only if it
# agrees with samples.
LISTS = ("targets", "labels", "y", "_labels", "_samples", "index", "_flat_character_images")
PROBES = 32  # samples by which a set is judged


class Sample(NamedTuple):
    """A picture in grey (H, W, 1) or colour (H, W, 3), uint8, and what else its sample holds."""

    levels: NDArray[np.uint8]
    target: Any


def set_names() -> list[str]:
    from torchvision import datasets

    return sorted(name for name in datasets.__all__ if name not in NO_SETS)


def set_class(name: str) -> type:
    """
    Raises:
        ValueError: torchvision has no such set.
    """
    if not name:
        raise ValueError("`name` must be that of a set of torchvision.datasets, such as CIFAR100")
    if name not in set_names():
        known = set_names()
        raise ValueError(registry.unknown("set of torchvision.datasets", name, known))
    from torchvision import datasets

    return cast(type, getattr(datasets, name))


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: a set has no such argument, or a matrix cannot write it.
    """
    known = sorted(registry.parameters_of(set_class(name)) - {"self", "kwargs", *NOT_WRITTEN})
    for argument in arguments:
        if argument in NOT_WRITTEN:
            raise ValueError(f"a matrix cannot write the argument {argument!r} of torchvision's {name}")
        if argument not in known:
            raise ValueError(registry.unknown(f"argument of torchvision's {name}", argument, known))


def sample_of(data: Any, number: int, name: str) -> Sample:
    """One sample of a set.

    Raises:
        ImagesError: naming the sample, which cannot be read or has no picture.
    """
    try:
        with torch.device("cpu"):  # while a plan is made the default is meta, and FakeData draws its images
            item = data[number]
    except Exception as error:  # a file may be broken in any way
        raise ImagesError(f"{name}: image {number} cannot be read: {_line(error)}") from error
    parts = item if isinstance(item, list | tuple) else (item,)
    levels = _levels(parts[0])
    if levels is None:
        raise ImagesError(
            f"{name}: a sample begins with {_in_words(parts[0])}, not a picture: sets of videos, pairs and "
            "patches are not read"
        )
    return Sample(levels, parts[1] if len(parts) == 2 else None)


def labels_of(data: Any, name: str) -> tuple[NDArray[np.int64] | None, str]:
    """The labels (n,) of a set, or None and the reason why its targets are no classes."""
    for number in probes(len(data)):
        if as_label(target := sample_of(data, number, name).target) is None:
            return None, "there are no targets" if target is None else f"targets are {_in_words(target)}"
    values = _listed_targets(data, name)
    if values is None:  # all pictures are read for their labels
        values = [sample_of(data, number, name).target for number in range(len(data))]
    labels = [as_label(value) for value in values]
    strange = next((i for i, label in enumerate(labels) if label is None), None)
    if strange is not None:
        raise ImagesError(f"{name}: the target of image {strange} is {_in_words(values[strange])}, no number")
    array = np.array(labels, np.int64)
    if (array < 0).any():
        return None, f"{(array < 0).sum():,} targets are below 0, which stands for no label"
    return array, ""


def _listed_targets(data: Any, name: str) -> Sequence[Any] | None:
    """The targets that a set keeps in a list, if they are those of its samples."""
    if getattr(data, "target_transform", None) is not None:
        return None
    wanted = {number: as_label(sample_of(data, number, name).target) for number in probes(len(data))}
    for values in _lists(data):
        if all(as_label(values[number]) == label for number, label in wanted.items()):
            return values
    return None


def _lists(data: Any) -> Iterator[Sequence[Any]]:
    """Lists that may be a set's targets, with one for each of its samples."""
    for attribute in LISTS:
        values = getattr(data, attribute, None)
        if not isinstance(values, Sequence | np.ndarray | torch.Tensor) or len(values) != len(data):
            continue
        if isinstance(values, np.ndarray | torch.Tensor):
            yield values.tolist()
        elif all(isinstance(value, tuple) and len(value) == 2 for value in values):
            yield from ([value[place] for value in values] for place in (0, 1))
        else:
            yield values


def probes(count: int) -> list[int]:
    """Some evenly spaced numbers of samples, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, PROBES).round().astype(int)).tolist() if count else []


def as_label(target: Any) -> int | None:
    """A target as a class, if it is a whole number."""
    if isinstance(target, np.ndarray | torch.Tensor) and target.ndim == 0:
        target = target.item()
    if isinstance(target, int | np.integer) and not isinstance(target, bool):
        return int(target)
    return None


def _levels(picture: Any) -> NDArray[np.uint8] | None:
    from PIL.Image import Image

    if isinstance(picture, Image) and not picture.mode.startswith(("I", "F")):
        levels = np.asarray(flat(picture))
        return levels[..., None] if levels.ndim == 2 else levels
    if isinstance(picture, torch.Tensor):
        picture = picture.movedim(0, -1).numpy() if picture.ndim == 3 else picture.numpy()
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        return None
    levels = picture[..., None] if picture.ndim == 2 else picture
    return levels if levels.shape[2] in (1, 3) else None


def _in_words(value: Any) -> str:
    shape = getattr(value, "shape", None)
    inner = f" of {_in_words(value[0])}" if isinstance(value, list | tuple) and value else ""
    mode = f" of mode {value.mode}" if isinstance(getattr(value, "mode", None), str) else ""
    return f"a {type(value).__name__}{inner}{mode}" + (f" of {tuple(shape)}" if shape is not None else "")


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]
