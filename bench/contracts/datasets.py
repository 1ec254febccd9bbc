"""What every dataset promises."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..api import Dataset, Split
from . import common
from .common import Part, equal, require

SPLITS: tuple[Split, ...] = ("train", "val")
SETTINGS = (None,)
IMAGES = 50
COMPARED, BYTES = 5000, 2**28  # images of a split that are looked for in the other, and at the most


class Scene:
    """A dataset whose data is here."""

    def __init__(self, part: Part, setting: None = None) -> None:
        self.part = part
        self.data: Dataset = part.make()
        if self.data.fingerprint() is None:
            raise common.Absent(self.data)

    def first(self, split: Split) -> Tensor:
        return torch.linspace(0, self.data.size(split) - 1, IMAGES).long()


def images(scene: Scene) -> str:
    """Images are as declared, in [-1, 1]"""
    data, spec = scene.data, scene.data.image
    meant = (IMAGES, spec.channels, spec.height, spec.width)
    for split in SPLITS:
        index = scene.first(split)
        found = data.images(split, index)
        require(found.shape == meant, f"images({split!r}) gives {tuple(found.shape)}, not {meant}")
        require(found.dtype == torch.float32, f"images are {found.dtype}, not float32")
        low, high = found.min().item(), found.max().item()
        require(-1 <= low < high <= 1, f"values of {split} lie in [{low:.3g}, {high:.3g}], not in [-1, 1]")
        again = data.images(split, index[[7, 3]])
        require(equal(again, found[[7, 3]]), f"image 7 of {split} is another when it is asked for again")
    return f"{data.size('train'):,} + {data.size('val'):,} of {spec.channels} x {spec.height} x {spec.width}"


def labels(scene: Scene) -> str:
    """Labels are as declared"""
    data = scene.data
    for split in SPLITS:
        found = data.labels(split)
        if not data.classes:
            require(found is None, f"classes is 0, but labels({split!r}) isn't None")
            continue
        require(found is not None, f"classes is {data.classes}, but labels({split!r}) is None")
        assert found is not None
        require(found.dtype == torch.int64, f"labels are {found.dtype}, not int64")
        n = data.size(split)
        require(found.shape == (n,), f"labels({split!r}) are {tuple(found.shape)}, not ({n},)")
        low, high = int(found.min()), int(found.max())
        require(0 <= low and high < data.classes, f"labels of {split} are {low} to {high}, of {data.classes}")
    return f"{data.classes} classes"


def disjoint(scene: Scene) -> str:
    """The splits share no images"""
    data, spec = scene.data, scene.data.image
    most = min(COMPARED, BYTES // (4 * spec.channels * spec.height * spec.width))
    seen = []
    for split in SPLITS:
        index = torch.arange(min(data.size(split), most))
        seen.append({image.numpy().tobytes() for image in data.images(split, index)})
    twice = len(seen[0] & seen[1])
    # A few pictures are twice in some real sets.
    many = twice > 0.01 * len(seen[1])
    require(
        not many, f"{twice} of {len(seen[1])} images of val are in train: scores on val would mean nothing"
    )
    return f"{twice} of {len(seen[1]):,} of val in {len(seen[0]):,} of train"


def repeats(scene: Scene) -> None:
    """Images and fingerprint repeat"""
    why = "make images from a seed of their own: seeds.seed_for(...)"
    require(common.whatever_the_seed(lambda: content(scene.part)), f"images or labels differ; {why}")
    one, two = (scene.part.make().fingerprint() for _ in range(2))
    require(one == two, "two fingerprints differ: nothing would ever be cached")
    require(re.fullmatch(r"[0-9a-f]{64}", str(one)), f"the fingerprint {one!r} is no sha256 in hex")


def fingerprint(scene: Scene) -> str:
    """Options that change images change the fingerprint"""
    mine, known, tried = content(scene.part), scene.data.fingerprint(), []
    for name, other in common.alternatives(scene.part):
        try:
            theirs, its = content(other), other.make().fingerprint()
        except ValueError:  # a value that doesn't go with the others
            continue
        tried.append(name)
        hidden = its == known and not equal(mine, theirs)
        require(not hidden, f"{name!r} changes the images, not the fingerprint: the cache would mix them up")
    if not tried:
        raise common.Beside("it has no options that could be tried")
    return ", ".join(tried)


def content(part: Part) -> dict[str, Any]:
    """Sizes, some images and all labels."""
    scene = Scene(part)
    return {
        split: (
            scene.data.size(split),
            scene.data.images(split, scene.first(split)),
            scene.data.labels(split),
        )
        for split in SPLITS
    }


def cost(scene: Scene) -> str:
    """A batch"""
    other = registry.create("datasets", "digits")
    index = torch.arange(common.TIMED)
    mine = index % scene.data.size("train")
    found = common.paced(lambda: scene.data.images("train", mine), lambda: other.images("train", index))
    return f"{common.ratio(found, 'digits')} for {common.TIMED} images"


CHECKS: tuple[Callable[[Scene], str | None], ...] = (
    common.documented,
    common.versioned,
    images,
    labels,
    disjoint,
    repeats,
    fingerprint,
    cost,
)
