"""The contract of sources of reference samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..api import ImageSpec, LatentSpec, Reference, ReferenceSource, Split
from . import common
from .common import CLASSES, SPLITS, NoiseDataset, Part, randn, require

SETTINGS = common.IMAGES[:1]
TEACHER = LatentSpec(4, 6, (2, 2))
SIZES = {"train": 800, "val": 200}


class Scene:
    """A source with a small dataset and a teacher's features."""

    def __init__(self, part: Part, image: ImageSpec) -> None:
        self.part = part
        self.data = NoiseDataset(image, **SIZES)
        self.source: ReferenceSource = self.fresh()
        if self.source.fingerprint() is None:
            raise common.MissingData(self.source)
        self.features = {
            split: (randn(n, TEACHER.tokens, TEACHER.channels, seed=n), randn(n, 7, seed=n))
            for split, n in SIZES.items()
        }

    def fresh(self) -> ReferenceSource:
        return self.part.make(image=self.data.image, teacher_spec=TEACHER)

    def draw(self, split: Split) -> Reference:
        return self.fresh().draw(split, self.data, *self.features[split])


def samples(scene: Scene) -> str:
    """Samples are finite and as declared"""
    spec, sizes = scene.source.spec, []
    for split in SPLITS:
        reference = scene.draw(split)
        z, labels = reference.samples, reference.labels
        meant = (len(z), spec.tokens, spec.channels)
        require(z.shape == meant, f"samples are {tuple(z.shape)}, not {meant}")
        require(z.isfinite().all(), f"samples of {split} aren't finite")
        why = f"labelled is {scene.source.labelled}, but labels of {split} say otherwise"
        require((labels is not None) == scene.source.labelled, why)
        if labels is not None:
            good = labels.shape == meant[:1] and 0 <= int(labels.min()) and int(labels.max()) < CLASSES
            require(good, f"labels of {split} aren't one class of the dataset for each sample")
        sizes.append(f"{len(z)} {split}")
    return f"{spec.tokens} x {spec.channels}, {', '.join(sizes)}"


def repeats(scene: Scene) -> None:
    """Samples repeat bit for bit"""
    for split in SPLITS:

        def compute(split: Split = split) -> Any:
            return vars(scene.draw(split))

        why = "draw by api.noise.seed_for(...)"
        require(common.whatever_the_seed(compute), f"samples change with torch's global generator; {why}")


def fresh(scene: Scene) -> None:
    """The splits share no samples"""
    seen = [{row.numpy().tobytes() for row in scene.draw(split).samples} for split in SPLITS]
    shared = len(seen[0] & seen[1])
    require(not shared, f"{shared} of {len(seen[1])} samples of val are in train: nothing would be held out")


def inputs(scene: Scene) -> None:
    """It leaves its inputs as they were"""
    fresh = Scene(scene.part, scene.data.image)
    tokens, pooled = fresh.features["train"]
    guard = common.InputGuard(tokens=tokens, pooled=pooled)
    fresh.draw("train")
    guard.require()


CHECKS: tuple[Callable[[Scene], str | None], ...] = (
    common.documented,
    common.versioned,
    samples,
    repeats,
    fresh,
    inputs,
)
