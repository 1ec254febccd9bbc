"""What every feature extractor promises."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import torch
from torch import Tensor

from .. import registry
from ..api import FeatureExtractor, ImageSpec
from . import common
from .common import Beside, Part, equal, require

SETTINGS = common.IMAGES
IMAGES = 4


class Scene:
    """An extractor whose weights are here, with some images; some describe one shape alone."""

    def __init__(self, part: Part, image: ImageSpec) -> None:
        self.part = part
        self.extractor: FeatureExtractor = part.make()
        if self.extractor.fingerprint() is None:
            raise common.Absent(self.extractor)
        self.image = getattr(self.extractor, "image", image)
        self.images = common.rand_images(self.image, IMAGES)


def outputs(scene: Scene) -> str:
    """Features are finite, frozen and as declared"""
    extractor, spec = scene.extractor, scene.extractor.spec
    pooled, tokens = extractor(scene.images)
    meant = (IMAGES, extractor.channels)
    require(pooled.shape == meant, f"pooled features are {tuple(pooled.shape)}, not {meant}")
    grid = (IMAGES, spec.tokens, spec.channels)
    require(tokens.shape == grid, f"tokens are {tuple(tokens.shape)}, not {grid}")
    fits = spec.grid is None or spec.grid[0] * spec.grid[1] == spec.tokens
    require(fits, f"the grid {spec.grid} doesn't have {spec.tokens} tokens")
    require(pooled.isfinite().all() and tokens.isfinite().all(), "features aren't finite")
    frozen = not (pooled.requires_grad or tokens.requires_grad)
    require(frozen, "features have a gradient: compute them under torch.no_grad()")
    return f"{extractor.channels} pooled, {spec.tokens} x {spec.channels} tokens"


def repeats(scene: Scene) -> None:
    """The same images have the same features"""
    why = "is the network in eval mode?"
    require(common.whatever_the_seed(lambda: scene.extractor(scene.images)), f"two calls differ; {why}")
    other = scene.part.make()
    require(equal(other(scene.images), scene.extractor(scene.images)), "another instance's differ")


def rows(scene: Scene) -> None:
    """An image's features don't depend on its batch"""
    together = scene.extractor(scene.images)
    parts = [scene.extractor(chunk) for chunk in scene.images.split((1, IMAGES - 1))]
    for what, one, many in zip(("pooled", "tokens"), zip(*parts, strict=True), together, strict=True):
        same = common.close(torch.cat(one), many, 1e-3)
        require(same, f"{what} differ in batches of 1 and {IMAGES - 1}: is the network in eval mode?")


def each(scene: Scene) -> str:
    """Outputs come in one pass as they do alone"""
    extractor, images = scene.extractor, scene.images
    together = extractor.describe(images, extractor.outputs)
    require(set(together) == set(extractor.outputs), f"describe() gives {sorted(together)}")
    require({"pooled", "tokens"} <= set(together), 'outputs must have "pooled" and "tokens"')
    for name, value in together.items():
        require(len(value) == IMAGES and value.isfinite().all(), f"{name} isn't finite, one for each image")
        require(not value.requires_grad, f"{name} has a gradient")
        require(
            equal(extractor.describe(images, [name])[name], value), f"{name} differs when asked for alone"
        )
    require(equal(together["pooled"], extractor(images)[0]), "a call's pooled features aren't describe()'s")
    return ", ".join(extractor.outputs)


def rounds(scene: Scene) -> None:
    """Images are rounded to 8 bits first"""
    if scene.extractor.protocol().get("rounding") == "none":
        raise Beside("its protocol says that it doesn't round")
    levels = torch.arange(scene.images[0].numel()).reshape(scene.images[:1].shape) % 85 * 3 / 127.5 - 1
    near = levels + 0.3 / 127.5
    why = "samples in memory would score otherwise than the files they are written to: images.round_to_8_bits"
    require(equal(scene.extractor(levels)[0], scene.extractor(near)[0]), why)


def inputs(scene: Scene) -> None:
    """It leaves its inputs as they were"""
    images = common.rand_images(scene.image, IMAGES, seed=1)
    given = common.Kept(images=images)
    scene.extractor(images)
    scene.extractor.describe(images, scene.extractor.outputs)
    given.require()


def protocol(scene: Scene) -> str:
    """Its protocol is complete"""
    extractor = scene.extractor
    mine, print_ = extractor.protocol(), extractor.fingerprint()
    require(re.fullmatch(r"[0-9a-f]{64}", str(print_)), f"the fingerprint {print_!r} is no sha256 in hex")
    json.dumps(mine, allow_nan=False)  # it goes into records
    require(re.search(r"\b[0-9a-f]{64}\b", str(mine)), "no sha256 of the weights in it")
    require("rounding" in mine, 'no "rounding" in it: "8 bits", or "none"')
    require(extractor.name, "it has no name, which stands in the names of metrics")
    tried = []
    for name, other in common.alternatives(scene.part):
        try:
            changed = other.make()
            theirs: tuple[Tensor, Tensor] = changed(scene.images)
        except (ValueError, FileNotFoundError):  # a value that doesn't go with the others
            continue
        tried.append(name)
        hidden = changed.protocol() == mine and not equal(theirs, extractor(scene.images))
        require(not hidden, f"{name!r} changes features, not the protocol: two numbers would share a column")
    return f"tried {', '.join(tried)}" if tried else ""


def cost(scene: Scene) -> str:
    """Describing images"""
    other = registry.create("features", "effnet_lite0")
    images = common.rand_images(scene.image, common.TIMED)
    square = common.rand_images(common.IMAGES[0], common.TIMED)  # it resizes, and a point is no picture
    found = common.paced(lambda: scene.extractor(images), lambda: other(square))
    return f"{common.ratio(found, 'effnet_lite0')} for {common.TIMED} images"


CHECKS: tuple[Callable[[Scene], str | None], ...] = (
    common.documented,
    common.versioned,
    outputs,
    repeats,
    rows,
    each,
    rounds,
    inputs,
    protocol,
    cost,
)
