"""The contract of datasets: what `bench check` and the contract tests require of every dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..api import Dataset, Split
from . import common
from .common import SPLITS, Part, equal, require

SETTINGS = (None,)
LEAST = 2  # images of a split: no spread, and no distance of spreads, has fewer
IMAGES = 50  # images per split that are checked
COMPARED, BYTES = 5000, 2**28  # largest number of images per split, and their bytes, in search of duplicates


class Scene:
    """A dataset whose data is on this machine."""

    def __init__(self, part: Part, setting: None = None) -> None:
        self.part = part
        self.data: Dataset = part.make()
        if self.data.fingerprint() is None:
            raise common.MissingData(self.data)

    def index(self, split: Split) -> Tensor:
        """Evenly spaced images of a split (IMAGES,)."""
        return torch.linspace(0, self.data.size(split) - 1, IMAGES).long()


def sizes(scene: Scene) -> str:
    """Both splits have images"""
    counts = {split: scene.data.size(split) for split in SPLITS}
    for split, count in counts.items():
        whole = isinstance(count, int) and not isinstance(count, bool)
        require(whole and count >= LEAST, f"size({split!r}) is {count!r}; it must be a number >= {LEAST}")
    return f"{counts['train']:,} + {counts['val']:,}"


def images(scene: Scene) -> str:
    """Images are as declared, in [-1, 1]"""
    data, spec = scene.data, scene.data.image
    meant = (IMAGES, spec.channels, spec.height, spec.width)
    for split in SPLITS:
        index = scene.index(split)
        batch = data.images(split, index)
        require(batch.shape == meant, f"images({split!r}) gives {tuple(batch.shape)}, not {meant}")
        require(batch.dtype == torch.float32, f"images are {batch.dtype}, not float32")
        low, high = batch.min().item(), batch.max().item()
        require(-1 <= low < high <= 1, f"values of {split} lie in [{low:.3g}, {high:.3g}], not in [-1, 1]")
        again = data.images(split, index[[7, 3]])
        require(equal(again, batch[[7, 3]]), f"images of {split} differ in a second call with another index")
    return f"{data.size('train'):,} + {data.size('val'):,} of {spec.channels} x {spec.height} x {spec.width}"


def labels(scene: Scene) -> str:
    """Labels are as declared"""
    data = scene.data
    for split in SPLITS:
        values = data.labels(split)
        if not data.classes:
            require(values is None, f"classes is 0, but labels({split!r}) isn't None")
            continue
        require(values is not None, f"classes is {data.classes}, but labels({split!r}) is None")
        assert values is not None
        require(values.dtype == torch.int64, f"labels are {values.dtype}, not int64")
        n = data.size(split)
        require(values.shape == (n,), f"labels({split!r}) are {tuple(values.shape)}, not ({n},)")
        low, high = int(values.min()), int(values.max())
        good = 0 <= low and high < data.classes
        require(good, f"labels of {split} are {low} to {high}, but classes is {data.classes}")
    return f"{data.classes} classes"


def disjoint(scene: Scene) -> str:
    """The splits share no images"""
    data, spec = scene.data, scene.data.image
    most = min(COMPARED, BYTES // (4 * spec.channels * spec.height * spec.width))
    seen = []
    for split in SPLITS:
        index = torch.arange(min(data.size(split), most))
        seen.append({image.numpy().tobytes() for image in data.images(split, index)})
    shared = len(seen[0] & seen[1])
    # Some real datasets have a few duplicates.
    many = shared > 0.01 * len(seen[1])
    why = "scores on val would mean nothing"
    require(not many, f"{shared} of {len(seen[1])} images of val are in train: {why}")
    return f"{shared} of {len(seen[1]):,} of val in {len(seen[0]):,} of train"


def repeats(scene: Scene) -> None:
    """Images and fingerprint repeat"""
    why = "make images from a seed of their own: api.noise.seed_for(...)"
    require(common.whatever_the_seed(lambda: content(scene.part)), f"images or labels differ; {why}")
    first, second = (scene.part.make().fingerprint() for _ in range(2))
    require(first == second, "two fingerprints differ: nothing would ever be cached")
    common.require_sha256(first)


def fingerprint(scene: Scene) -> str:
    """Options that change images change the fingerprint"""
    usual, usual_print, tried = content(scene.part), scene.data.fingerprint(), []
    for name, other in common.alternatives(scene.part):
        try:
            changed, changed_print = content(other), other.make().fingerprint()
        except ValueError:  # the value doesn't fit the other options
            continue
        tried.append(name)
        hidden = changed_print == usual_print and not equal(usual, changed)
        require(not hidden, f"{name!r} changes the images, not the fingerprint: the cache would mix them up")
    if not tried:
        raise common.NotApplicable("it has no options that could be tried")
    return ", ".join(tried)


def content(part: Part) -> dict[str, Any]:
    """Sizes, some images and all labels."""
    scene = Scene(part)
    return {
        split: (
            scene.data.size(split),
            scene.data.images(split, scene.index(split)),
            scene.data.labels(split),
        )
        for split in SPLITS
    }


def cost(scene: Scene) -> str:
    """A batch"""
    other = registry.create("datasets", "digits")
    other_index = torch.arange(common.TIMED)
    index = other_index % scene.data.size("train")
    seconds = common.paced(
        lambda: scene.data.images("train", index), lambda: other.images("train", other_index)
    )
    return f"{common.comparison(seconds, 'digits')} for {common.TIMED} images"


CHECKS: tuple[Callable[[Scene], str | None], ...] = (
    common.documented,
    common.versioned,
    sizes,
    images,
    labels,
    disjoint,
    repeats,
    fingerprint,
    cost,
)
