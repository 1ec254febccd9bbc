"""The contract of tokenizers with the training loops."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import registry
from ..api import ImageSpec, Noise, Step, Tokenizer, Unfit
from ..models import flops
from ..models.latents import decode_batch
from ..training import one_step
from . import common
from .common import BATCH, BrokenPromise, NotApplicable, Part, equal, require, trainable

EXPANSIONS = (1, 2)
SETTINGS = [(image, expansion) for image in common.IMAGES for expansion in EXPANSIONS]


class Scene:
    """A tokenizer with a batch of images."""

    def __init__(self, part: Part, setting: tuple[ImageSpec, int], device: str = "cpu") -> None:
        self.part, (self.image, self.expansion), self.device = part, setting, device
        self.images = common.rand_images(self.image, device=device)
        self.model = self.fresh()

    def fresh(self, seed: int = 0, expansion: int | None = None, extra: int = 0) -> Tokenizer:
        return self.built(seed, expansion, extra).to(self.device)

    def built(self, seed: int = 0, expansion: int | None = None, extra: int = 0) -> Tokenizer:
        """A new tokenizer on torch's default device."""
        data = registry.create("datasets", "ring", count=64, val=16)  # for tokenizers that name `dataset`
        facts = {"image": self.image, "dataset": data, "expansion": expansion or self.expansion}
        facts |= {"extra": extra} if extra else {}
        return self.part.make(seed, **facts)

    def first(self, h: Tensor) -> Tensor:
        """A deterministic latent (B, T, C): the first C channels of h."""
        return h[..., : self.model.spec.channels]

    def loss(self, model: Tokenizer, images: Tensor) -> Tensor:
        h = model.encode_in_training(images, Noise(0, ("encoder",)))
        z = h.unflatten(2, (self.expansion, -1)).sum(2)  # all channels of h, as a posterior uses them
        terms = model.loss(images, z, Step(0, images, None, Noise(0), model.decode))
        if terms is None:
            value = (model.decode(z) - images).abs().mean()
        else:
            value = sum(terms.values(), 0 * z.sum())
        # Without a trainable decoder only a regularizer's loss trains the encoder.
        return value if trainable(model.decoder) else value + z.square().mean()


def shapes(scene: Scene) -> str:
    """It encodes into its spec and decodes into images"""
    return check_shapes(scene.model, scene.images, scene.expansion)


def check_shapes(model: Tokenizer, images: Tensor, expansion: int, extra: int = 0) -> str:
    """Checks the shapes of hidden values and of decoded images; returns them as text."""
    spec, shape = model.spec, tuple(images.shape)
    common.require_grid(spec)
    h, meant = model.encode(images), (len(images), spec.tokens, spec.channels * expansion + extra)
    require(h.shape == meant, f"encode() gives {tuple(h.shape)}, not (B, T, C * expansion + extra) = {meant}")
    z = h[..., : spec.channels]
    if not model.decodes:
        try:
            model.decode(z)
        except Unfit:
            return f"{spec}, which it doesn't decode"
        raise BrokenPromise("decodes is False, but decode() doesn't raise Unfit")
    decoded = model.decode(z)
    require(decoded.shape == shape, f"decode() gives {tuple(decoded.shape)}, not {shape}")
    require(decoded.isfinite().all(), "decode() is not finite")
    return f"{' x '.join(map(str, shape[1:]))} -> {spec}"


def regrids(scene: Scene) -> str:
    """It decodes other grids where it says so"""
    model, grid = scene.model, scene.model.spec.grid
    if not model.regrids:
        raise NotApplicable("it decodes its own grid alone")
    if grid is None:
        raise BrokenPromise("regrids is True, but its latents have no grid")
    images = model.decode(scene.first(model.encode(scene.images)))
    for rows, columns in ((-(-grid[0] // 2), grid[1]), (grid[1], grid[0]), (1, 1)):
        z = common.randn(len(images), rows * columns, model.spec.channels, device=scene.device)
        decoded = model.decode(z, grid=(rows, columns))
        sides = rows * images.shape[2] // grid[0], columns * images.shape[3] // grid[1]
        meant = (*images.shape[:2], *sides)
        require(
            decoded.shape == meant, f"decode() of the grid {rows} x {columns} gives {tuple(decoded.shape)}"
        )
    z = scene.first(model.encode(scene.images))
    require(
        common.close(model.decode(z, grid=grid), model.decode(z)), "its own grid, named, gives other images"
    )
    return f"{grid[0]} x {grid[1]} and others"


def extra_outputs(scene: Scene) -> None:
    """It gives outputs beside multiples of C where it can"""
    if "extra" not in registry.parameters_of(scene.part.cls):
        raise NotApplicable("its constructor doesn't name `extra`")
    model = scene.fresh(extra=1)
    require(model.extra == 1, "extra isn't passed on to Tokenizer")
    check_shapes(model, scene.images, scene.expansion, 1)


def repeats(scene: Scene) -> None:
    """In evaluation it repeats bit for bit"""
    model = scene.model.eval()

    def compute() -> Tensor:
        h = model.encode(scene.images)
        return model.decode(scene.first(h)) if model.decodes else h

    with torch.no_grad():
        require(common.whatever_the_seed(compute), "it changes with torch's global generator in eval mode")


def rows(scene: Scene) -> None:
    """An image doesn't depend on its batch"""
    model, images = scene.model.eval(), scene.images
    why = "use no batch statistics in eval mode"
    with torch.no_grad():
        h = model.encode(images)
        z = scene.first(h)
        require(common.close(model.encode(images[2:3]), h[2:3]), f"encode() of one row alone differs; {why}")
        if not model.decodes:
            return
        together = decode_batch(model, z, None, Noise(0))
        alone = decode_batch(model, z[2:3], None, Noise(0, (), 2, BATCH))  # with the noise of row 2
        require(common.close(alone, together[2:3]), f"decode() of one row alone differs; {why}")


def learns(scene: Scene) -> str:
    """Every trainable parameter learns"""
    model = scene.fresh().train()
    common.require_learns(model, lambda _: scene.loss(model, scene.images))
    return f"{flops.parameters(model):,} parameters"


def halves(scene: Scene) -> None:
    """Encoder and decoder hold all that learns"""
    model = scene.model
    encoder, decoder = ({id(p) for p in part.parameters()} for part in (model.encoder, model.decoder))
    outside = [name for name, p in trainable(model).items() if id(p) not in encoder | decoder]
    require(not outside, f"{outside[:1]} is in neither: no optimizer would train it")
    require(not encoder & decoder, "encoder and decoder share parameters")
    # A frozen network may encode, whose weights are nobody's parameters.
    parameters = {"encoder": encoder} if encoder else {}
    parameters |= {"decoder": decoder} if model.decodes else {}
    require(set(model.heads) == set(parameters), f"heads must have {' and '.join(parameters)}")
    require(model.decodes or not decoder, "decodes is False, but its decoder has parameters")
    for name, ids in parameters.items():
        require(id(model.heads[name]) in ids, f"heads[{name!r}] is no parameter of the {name}")
    if not encoder:
        return
    rows, meant = model.heads["encoder"].shape[0], model.spec.channels * scene.expansion
    why = f"heads['encoder'] has {rows} rows, not C * expansion = {meant}, and h without it isn't constant"
    # The last layer may have more rows than are taken, or fewer where each token has several positions.
    require(rows == meant or _constant_without_head(scene), why)


def _constant_without_head(scene: Scene) -> bool:
    model = scene.fresh().eval()
    with torch.no_grad():
        model.heads["encoder"].zero_()
        h = model.encode(scene.images)
    return equal(h, h[:1].expand_as(h))


def inputs(scene: Scene) -> None:
    """It leaves its inputs as they were"""
    images = common.rand_images(scene.image, seed=1, device=scene.device)
    guard = common.InputGuard(images=images)
    h = scene.model.encode(images)
    z = scene.first(h).clone()
    latent_guard = common.InputGuard(z=z)
    if scene.model.decodes:
        scene.model.decode(z)
    guard.require()
    latent_guard.require()


def reloads(scene: Scene) -> None:
    """Saved and loaded, it is the same"""
    model = scene.model.eval()
    other = common.reload(model, scene.fresh(seed=1))
    with torch.no_grad():
        h = model.encode(scene.images)
        require(equal(other.encode(scene.images), h), f"encode(): {common.LOST}")
        z = scene.first(h)
        same = not model.decodes or equal(other.decode(z), model.decode(z))
        require(same, f"decode(): {common.LOST}")


def probed(scene: Scene) -> None:
    """A probe's features are a vector an image"""
    if scene.part.cls.features is Tokenizer.features:
        raise NotApplicable("it has no features() of its own: probes classify latents")
    with torch.no_grad():
        features = scene.model.eval().features(scene.images)
    good = features.dim() == 2 and len(features) == BATCH and bool(features.isfinite().all())
    require(good, f"features() gives {tuple(features.shape)}, not finite (B, F)")


def seeded(scene: Scene) -> None:
    """The same seed gives the same weights"""
    first, second = (dict(scene.fresh().state_dict()) for _ in range(2))
    require(equal(first, second), "two tokenizers built after torch.manual_seed(0) differ")


def starts_alike(scene: Scene) -> None:
    """Rows of another expansion start alike"""
    try:
        narrow, wide = (scene.fresh(expansion=e).state_dict() for e in EXPANSIONS)
    except Unfit as error:
        raise NotApplicable(str(error)) from None
    same_shape = [key for key in narrow if narrow[key].shape == wide[key].shape]
    why = "build the encoder's output layer last: it draws another number of random values"
    wrong = [key for key in same_shape if not equal(narrow[key], wide[key])]
    require(not wrong, f"{wrong[:1]} differs between expansion 1 and 2; {why}")
    few_differ = len(same_shape) >= len(narrow) / 2
    require(few_differ, "more than the output layer has another shape with expansion 2")
    wrong = [key for key in narrow if key.startswith("decoder.") and key not in same_shape]
    require(not wrong, f"{wrong[:1]} has another shape with expansion 2: a latent has C channels either way")


def on_meta(scene: Scene) -> None:
    """It builds and runs on the meta device"""
    image = scene.image
    with torch.device("meta"):
        model = scene.built()
        h = model.encode(torch.empty(2, image.channels, image.height, image.width))
        good = not model.decodes or len(model.decode(scene.first(h))) == 2
        require(good, "decode() loses rows on meta")
    common.require_same_shapes(scene.fresh(), model)


def half(scene: Scene) -> None:
    """It is finite in mixed precision (bf16)"""
    model = scene.fresh().train()
    common.require_finite_in_half(model, lambda: scene.loss(model, scene.images), scene.device)


def cost(scene: Scene) -> str:
    """A training step"""
    images = common.rand_images(scene.image, common.TIMED, device=scene.device)
    facts = {"image": scene.image, "expansion": scene.expansion}
    try:
        models = [scene.fresh().train(), registry.create("tokenizers", "vit", **facts).to(scene.device)]
    except ValueError as error:
        raise NotApplicable(f"the default vit doesn't fit: {error}") from None
    steps = [lambda m=m: one_step.backward(scene.loss(m, images)) for m in models]
    seconds = common.paced(*steps, device=scene.device)
    return f"{common.comparison(seconds, 'vit')} at batch {common.TIMED}"


CHECKS: tuple[Callable[[Scene], str | None], ...] = (
    common.documented,
    common.versioned,
    shapes,
    regrids,
    extra_outputs,
    repeats,
    rows,
    learns,
    halves,
    inputs,
    reloads,
    probed,
    seeded,
    starts_alike,
    on_meta,
    half,
    cost,
)
