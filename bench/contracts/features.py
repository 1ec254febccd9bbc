"""The contract of feature extractors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import torch
from torch import Tensor

from .. import registry
from ..api import FeatureExtractor, ImageSpec
from . import common
from .common import NotApplicable, Part, equal, require

SETTINGS = common.IMAGES
IMAGES = 4


class Scene:
    """An extractor whose weights are on this machine, with images; some take images of one shape only."""

    def __init__(self, part: Part, image: ImageSpec, device: str = "cpu") -> None:
        self.part, self.device = part, device
        self.extractor: FeatureExtractor = part.make()
        if self.extractor.fingerprint() is None:
            raise common.MissingData(self.extractor)
        self.image = getattr(self.extractor, "image", image)
        self.images = common.rand_images(self.image, IMAGES, device=device)


def outputs(scene: Scene) -> str:
    """Features are finite, frozen and as declared"""
    extractor, spec = scene.extractor, scene.extractor.spec
    pooled, tokens = extractor(scene.images)
    meant = (IMAGES, extractor.channels)
    require(pooled.shape == meant, f"pooled features are {tuple(pooled.shape)}, not {meant}")
    meant_tokens = (IMAGES, spec.tokens, spec.channels)
    require(tokens.shape == meant_tokens, f"tokens are {tuple(tokens.shape)}, not {meant_tokens}")
    common.require_grid(spec)
    require(pooled.isfinite().all() and tokens.isfinite().all(), "features aren't finite")
    frozen = not (pooled.requires_grad or tokens.requires_grad)
    require(frozen, "features have a gradient: compute them under torch.no_grad()")
    return f"{extractor.channels} pooled, {spec.tokens} x {spec.channels} tokens"


def repeats(scene: Scene) -> None:
    """The same images have the same features"""
    why = "is the network in eval mode?"
    require(common.whatever_the_seed(lambda: scene.extractor(scene.images)), f"two calls differ; {why}")
    other = scene.part.make()
    require(equal(other(scene.images), scene.extractor(scene.images)), "another instance's features differ")


def rows(scene: Scene) -> None:
    """An image's features don't depend on its batch"""
    together = scene.extractor(scene.images)
    parts = [scene.extractor(chunk) for chunk in scene.images.split((1, IMAGES - 1))]
    for output, split, unsplit in zip(("pooled", "tokens"), zip(*parts, strict=True), together, strict=True):
        same = common.close(torch.cat(split), unsplit, 1e-3)
        require(same, f"{output} differ in batches of 1 and {IMAGES - 1}: is the network in eval mode?")


def each(scene: Scene) -> str:
    """Outputs come in one pass as they do alone"""
    extractor, images = scene.extractor, scene.images
    together = extractor.describe(images, extractor.outputs)
    require(set(together) == set(extractor.outputs), f"describe() gives {sorted(together)}")
    require({"pooled", "tokens"} <= set(together), 'outputs must have "pooled" and "tokens"')
    for name, value in together.items():
        require(len(value) == IMAGES and value.isfinite().all(), f"{name} isn't finite, one for each image")
        require(not value.requires_grad, f"{name} has a gradient")
        alone = extractor.describe(images, [name])[name]
        require(equal(alone, value), f"{name} differs when it is the only output")
    same = equal(together["pooled"], extractor(images)[0])
    require(same, "pooled features differ between a call and describe()")
    return ", ".join(extractor.outputs)


def rounds(scene: Scene) -> None:
    """Images are rounded to 8 bits first"""
    if scene.extractor.protocol().get("rounding") == "none":
        raise NotApplicable("its protocol says that it doesn't round")
    numbers = torch.arange(scene.images[0].numel(), device=scene.device)
    levels = numbers.reshape(scene.images[:1].shape) % 85 * 3 / 127.5 - 1
    near = levels + 0.3 / 127.5
    why = "it doesn't round (images.round_to_8_bits): scores of samples in memory and in files would differ"
    require(equal(scene.extractor(levels)[0], scene.extractor(near)[0]), why)


def inputs(scene: Scene) -> None:
    """It leaves its inputs as they were"""
    images = common.rand_images(scene.image, IMAGES, seed=1, device=scene.device)
    guard = common.InputGuard(images=images)
    scene.extractor(images)
    scene.extractor.describe(images, scene.extractor.outputs)
    guard.require()


def protocol(scene: Scene) -> str:
    """Its protocol is complete"""
    extractor = scene.extractor
    usual = extractor.protocol()
    common.require_sha256(extractor.fingerprint())
    json.dumps(usual, allow_nan=False)  # it goes into records
    require(re.search(r"\b[0-9a-f]{64}\b", str(usual)), "the protocol has no sha256 of the weights")
    require("rounding" in usual, 'the protocol has no "rounding": "8 bits", or "none"')
    require(extractor.name, "it has no name, which is part of the names of metrics")
    tried = []
    for name, other in common.alternatives(scene.part):
        try:
            changed = other.make()
            features: tuple[Tensor, Tensor] = changed(scene.images)
        except (ValueError, FileNotFoundError):  # the value doesn't fit the other options
            continue
        tried.append(name)
        hidden = changed.protocol() == usual and not equal(features, extractor(scene.images))
        require(not hidden, f"{name!r} changes features, not the protocol: two numbers would share a column")
    return f"tried {', '.join(tried)}" if tried else ""


def cost(scene: Scene) -> str:
    """Describing images"""
    other = registry.create("features", "effnet_lite0")
    images = common.rand_images(scene.image, common.TIMED, device=scene.device)
    # effnet_lite0 takes no points.
    square = common.rand_images(common.IMAGES[0], common.TIMED, device=scene.device)
    seconds = common.paced(lambda: scene.extractor(images), lambda: other(square), device=scene.device)
    return f"{common.comparison(seconds, 'effnet_lite0')} for {common.TIMED} images"


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
