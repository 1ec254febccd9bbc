"""What every regularizer promises to the loops."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..api import LatentSpec, Noise, Reference, Regularizer, Step
from ..data.augment import Augmentation
from ..models import activations, flops
from ..options.options import options_of
from ..training import one_step
from ..training.losses import Term, l1
from ..training.steps import Context
from ..training.tokenizer import train_tokenizer
from . import common
from .common import BATCH, CLASSES, Beside, Part, Plain, Sheet, equal, randn, require, trainable

SETTINGS = common.SPECS
TEACHER, REFERENCE = LatentSpec(16, 12, (4, 4)), LatentSpec(16, 10, (4, 4))
FACTS: dict[str, Any] = {
    "classes": CLASSES,
    "teacher_spec": TEACHER,
    "reference_spec": REFERENCE,
    "reference_classes": CLASSES,
}


class Scene:
    """A regularizer as the loop holds it, with a batch of hidden values and its step."""

    def __init__(self, part: Part, spec: LatentSpec, seed: int = 0) -> None:
        self.part, self.spec = part, spec
        self.regularizer = self.fresh(seed)
        self.noise = Noise(7).fork("test")
        self.h = randn(BATCH, spec.tokens, spec.channels * self.regularizer.expansion).requires_grad_()
        self.labels = torch.tensor([0, 3, 1, 9, 1, 5])

    def fresh(self, seed: int = 0, **options: Any) -> Regularizer:
        """Another one, its priors as if they were trained: an output that starts at zero says nothing."""
        regularizer = self.part.make(seed, spec=self.spec, **FACTS, **options)
        for prior in regularizer.priors().values():
            for index, p in enumerate(prior.requires_grad_(False).eval().parameters()):
                p.add_(0.1 * randn(*p.shape, seed=index))
        return regularizer

    @cached_property
    def asked(self) -> set[str]:
        return registry.parameters_of(self.part.cls)

    def whole_reference(self) -> Reference:
        samples = randn(64, REFERENCE.tokens, REFERENCE.channels, seed=2)
        return self.regularizer.reference(Reference(samples, torch.arange(64) % CLASSES, REFERENCE.grid))

    def step(self, index: int = 0) -> Step:
        features = reference = None
        if "teacher_spec" in self.asked:
            features = randn(BATCH, TEACHER.tokens, TEACHER.channels, seed=1)
        if "reference_spec" in self.asked:
            reference = self.whole_reference().samples[:BATCH]
        noise = self.noise.fork("loss").fork(index)
        images = common.rand_images(common.IMAGES[0])
        views = randn(*self.h.shape, seed=4) if self.regularizer.two_views else None
        return Step(index, images, self.labels, noise, torch.nn.Flatten(), features, reference, views)

    def latent(self, h: Tensor, noise: str = "latent") -> Tensor:
        return self.regularizer.latent(h, self.noise.fork(noise), self.labels)

    def losses(self, index: int = 0) -> dict[str, Tensor]:
        return self.regularizer.loss(self.latent(self.h), self.h, self.step(index))

    def own(self) -> dict[str, Tensor]:
        """The losses, of a method that has any."""
        found = self.losses()
        if not found:
            raise Beside("it has no loss")
        return found

    def critics(self) -> set[int]:
        return {id(p) for critic in self.regularizer.critics().values() for p in critic.parameters()}

    def trained(self, regularizer: Regularizer) -> dict[str, Tensor]:
        """The state of a linear tokenizer after a few steps of the real loop."""
        data = Sheet()
        torch.manual_seed(0)
        tokenizer = Plain(data.image, regularizer.expansion, self.spec)
        features = randn(data.size("train"), TEACHER.tokens, TEACHER.channels, seed=1)
        with tempfile.TemporaryDirectory() as work, torch.random.fork_rng(devices=[]):
            train_tokenizer(
                tokenizer,
                regularizer,
                data,
                {"l1": Term(1.0, l1)},
                steps=3,
                batch=16,
                seed=0,
                optimizer=({"clip": 0.0, "warmup": 0}, {}),  # clipping would couple all parameters
                context=Context(Path(work)),
                teacher=(lambda images, index: features[index]) if "teacher_spec" in self.asked else None,
                reference=self.whole_reference() if "reference_spec" in self.asked else None,
                augmentation=Augmentation() if regularizer.two_views else None,
            )
        return {name: p.detach().clone() for name, p in tokenizer.state_dict().items()}


def row(step: Step, i: int) -> Step:
    """The step of process i of BATCH, which holds row i of the batch."""

    def take(x: Tensor | None) -> Any:
        return None if x is None else x[i : i + 1]

    return replace(
        step,
        images=take(step.images),
        labels=take(step.labels),
        noise=Noise(step.noise.seed, step.noise.stream, i, BATCH),
        features=take(step.features),
        reference=take(step.reference),
        views=take(step.views),
    )


def plain(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in losses.items()}


def declared(scene: Scene) -> None:
    """The loops know what it declares"""
    cls = scene.part.cls
    require(cls.couples in ("", "loss", "latent"), f'couples is {cls.couples!r}, not "", "loss" or "latent"')
    require(cls.expansion >= 1, f"expansion is {cls.expansion}; it must be >= 1")
    require(scene.regularizer.critic_steps >= 1, "critic_steps must be >= 1")


def latents(scene: Scene) -> None:
    """Latents are finite and of the spec's shape"""
    shape = (BATCH, scene.spec.tokens, scene.spec.channels)
    for what, z in (
        ("with noise", scene.latent(scene.h)),
        ("without", scene.regularizer.latent(scene.h, None, scene.labels)),
    ):
        require(z.shape == shape, f"latent() {what} gives {tuple(z.shape)}, not (B, T, C) = {shape}")
        require(z.isfinite().all(), f"latent() {what} is not finite")


def draws(scene: Scene) -> str:
    """Latents repeat, and draw from Noise alone"""
    h = scene.h.detach()
    require(common.whatever_the_seed(lambda: scene.latent(h)), f"latent(): {common.GLOBAL}")
    bare = scene.regularizer.latent(h, None, scene.labels)
    same = common.whatever_the_seed(lambda: scene.regularizer.latent(h, None, scene.labels))
    require(
        same and equal(bare, scene.regularizer.latent(h, None, scene.labels)), f"latent(): {common.GLOBAL}"
    )
    if equal(scene.latent(h), bare):
        return "it draws no noise"
    require(not equal(scene.latent(h, "other"), scene.latent(h)), "latent() is the same for all noise")
    return "it draws noise"


def finite(scene: Scene) -> str:
    """Losses are finite scalars"""
    losses = scene.own()
    for name, value in losses.items():
        require(value.dim() == 0, f"{name!r} has the shape {tuple(value.shape)}; take its mean")
        require(value.isfinite(), f"{name!r} is {value.item()} on normal latents")
    missing = set(scene.regularizer.balanced) - set(losses)
    require(not missing, f"balanced names {sorted(missing)}, which loss() doesn't return")
    return ", ".join(f"{name} {value:.3g}" for name, value in plain(losses).items())


def reaches(scene: Scene) -> None:
    """Their gradient is finite and reaches the encoder"""
    total = torch.stack([*scene.own().values()]).sum()
    require(total.requires_grad, "no loss has a gradient: something is detached, or under no_grad")
    (gradient,) = torch.autograd.grad(total, scene.h, allow_unused=True)
    require(gradient is not None and gradient.any(), "no gradient reaches h: is z or h detached in loss()?")
    bad = int((~gradient.isfinite()).sum())
    why = "look for sqrt, norm, log or a division at 0"
    require(not bad, f"{bad} of {gradient.numel()} gradients at h aren't finite; {why}")


def repeats(scene: Scene) -> None:
    """Losses repeat, and draw from Noise alone"""
    scene.own()
    # A method may keep averages: each time with the state of the first.
    start = copy.deepcopy(scene.regularizer.state_dict())

    def compute() -> dict[str, float]:
        scene.regularizer.load_state_dict(start)
        return plain(scene.losses())

    require(common.whatever_the_seed(compute), f"loss(): {common.GLOBAL}")


def learns(scene: Scene) -> str:
    """Its parameters learn, frozen ones and critics don't"""
    regularizer, critics, spec = scene.regularizer, scene.critics(), scene.spec
    mine = {key: p for key, p in trainable(regularizer).items() if id(p) not in critics}
    before = common.snapshot(regularizer)
    unseen: set[str] = set()
    if mine:
        target = randn(BATCH, spec.tokens, spec.channels, seed=3)

        def loss(index: int) -> Tensor:
            near = (scene.latent(scene.h) - target).square().mean()
            return torch.stack([*scene.losses(index).values(), near]).sum()

        unseen = common.descend(loss, mine)
    common.require_moved(regularizer, before, unseen, set(mine))
    return f"{flops.parameters(*[regularizer]):,} parameters, {len(mine)} tensors trained"


def critics(scene: Scene) -> str:
    """Critics learn by their own loss alone"""
    found = scene.regularizer.critics()
    if not found:
        raise Beside("it has no critics")
    own = {id(p) for p in scene.regularizer.parameters()}
    for which, critic in found.items():
        its = {id(p) for p in critic.parameters()}
        require(its <= own, f"the critic {which!r} isn't a submodule: it would not be saved")
        z, before = scene.latent(scene.h).detach(), common.snapshot(scene.regularizer)

        def loss(index: int, which: str = which, z: Tensor = z) -> Tensor:
            return scene.regularizer.critic_loss(which, z, scene.step(index))

        unseen = common.descend(loss, trainable(critic))
        meant = {key for key, p in trainable(scene.regularizer).items() if id(p) in its}
        common.require_moved(scene.regularizer, before, unseen, meant)
    return ", ".join(found)


def rows_of_latents(scene: Scene) -> str:
    """Latents couple rows only where it says so"""
    with torch.no_grad():
        others_changed = torch.cat([scene.h[:1], scene.h[1:].flip(0) + 1])
        alike = common.close(scene.latent(scene.h)[0], scene.latent(others_changed)[0], 1e-5)
    if scene.regularizer.couples == "latent":
        require(not alike, "couples = \"latent\", but an image's latent doesn't depend on the others")
        return "coupled"
    require(
        alike, 'row 0 changes with the other rows: set couples = "latent", or take no statistics over rows'
    )
    return "independent"


def rows_of_losses(scene: Scene) -> None:
    """Losses couple rows only where it says so"""
    if scene.regularizer.couples:
        raise Beside(f"it couples its {scene.regularizer.couples}")
    scene.own()
    regularizer = scene.regularizer.eval()  # in training a method may watch the batches of all processes
    step = scene.step()
    with torch.no_grad():
        z = scene.latent(scene.h)
        together = regularizer.loss(z, scene.h, step)
        alone = [regularizer.loss(z[i : i + 1], scene.h[i : i + 1], row(step, i)) for i in range(BATCH)]
    regularizer.train()
    for key, value in together.items():
        mean = torch.stack([one[key] for one in alone]).mean()
        said = f"{key!r} is {value:.4g} on {BATCH} rows and {mean:.4g} as the mean of each alone"
        require(common.close(mean, value), f'{said}: set couples = "loss", or average over rows')


def inputs(scene: Scene) -> None:
    """It leaves its inputs as they were"""
    scene = Scene(scene.part, scene.spec)
    step, h = scene.step(), scene.h * 1.0
    given = common.Kept(h=h, images=step.images, labels=scene.labels)
    z = scene.latent(h)
    given.require()
    given = common.Kept(
        z=z,
        h=h,
        images=step.images,
        labels=step.labels,
        features=step.features,
        reference=step.reference,
        views=step.views,
    )
    scene.regularizer.loss(z, h, step)
    given.require()


def reloads(scene: Scene) -> None:
    """Saved and loaded, it is the same"""
    one, two = (Scene(scene.part, scene.spec, seed) for seed in (0, 1))
    common.reload(one.regularizer.eval(), two.regularizer)
    with torch.no_grad():
        require(equal(one.latent(one.h), two.latent(two.h)), f"latent(): {common.LOST}")
        require(plain(one.losses()) == plain(two.losses()), f"loss(): {common.LOST}")


def on_meta(scene: Scene) -> None:
    """It builds on the meta device"""
    with torch.device("meta"):
        meta = scene.part.make(spec=scene.spec, **FACTS)
    common.require_same_shapes(scene.part.make(spec=scene.spec, **FACTS), meta)


def same_twice(scene: Scene) -> None:
    """Trained twice, tokenizers are equal bit for bit"""
    one, two = (scene.trained(scene.fresh()) for _ in range(2))
    require(equal(one, two), f"two trainings differ; {common.GLOBAL}, and no time, id or set order in it")


def without_weight(scene: Scene) -> str:
    """Weight 0 is the loss removed, bit for bit"""
    options = options_of(scene.part.cls)
    weights = {name: o for name, o in options.items() if "weight" in name.split("_") or name == "align"}
    if not weights:
        raise Beside("it has no option `weight`")
    for name, option in weights.items():
        if not option.accepts(0.0):
            raise Beside(f"{name} must be {option.choices}")
    zeros = {name: option.read(0.0) for name, option in weights.items()}
    zero, removed = scene.fresh(**zeros), scene.fresh(**zeros)
    nothing: dict[str, Any] = {
        "loss": lambda self, z, h, step: {},
        "balanced": property(lambda self: {}, lambda self, value: None),
    }
    removed.__class__ = type("Removed", (type(removed),), nothing)
    found, bare = scene.trained(zero), scene.trained(removed)
    against = "the loss removed"
    if scene.part.cls.latent is Regularizer.latent:
        require(equal(bare, scene.trained(Regularizer(scene.spec))), "without its loss it isn't `none`")
        against = "`none`"
    said = " and ".join(f"{name} 0" for name in zeros)
    bad = any(not value.isfinite().all() for value in found.values())
    why = "0 times something infinite?" if bad else "does every term of loss() carry the weight?"
    require(equal(found, bare), f"{said} moves the tokenizer away from {against}; {why}")
    return f"{said}, against {against}"


def half(scene: Scene) -> None:
    """It is finite in mixed precision (bf16)"""
    h = scene.h.bfloat16()  # as an encoder's last layer gives it
    with torch.autocast("cpu", torch.bfloat16):
        z = scene.latent(h)
        losses = scene.regularizer.loss(z, h, scene.step())
        for name in scene.regularizer.critics():
            losses[name] = scene.regularizer.critic_loss(name, z.detach(), scene.step())
    require(z.isfinite().all(), "latent() is not finite")
    bad = [name for name, value in losses.items() if not value.isfinite()]
    require(not bad, f"{bad[:1]} is not finite: compute what needs the range or the digits with .float()")
    if losses:
        one_step.backward(torch.stack([value.float() for value in losses.values()]).sum())
        require(scene.h.grad is None or scene.h.grad.isfinite().all(), "gradients at h aren't finite")
    scene.h.grad = None


def cost(scene: Scene) -> str:
    """A training step, with the default vit"""
    if scene.spec != SETTINGS[0]:
        raise Beside("it doesn't fit the default vit's latent")
    count = common.TIMED
    images = common.rand_images(common.IMAGES[0], count)
    features = reference = None
    if "teacher_spec" in scene.asked:
        features = randn(count, TEACHER.tokens, TEACHER.channels, seed=1)
    if "reference_spec" in scene.asked:
        samples = scene.whole_reference().samples
        reference = samples[torch.arange(count) % len(samples)]

    def step_of(regularizer: Regularizer) -> tuple[Any, ...]:
        facts = {"image": common.IMAGES[0], "expansion": regularizer.expansion}
        tokenizer = registry.create("tokenizers", "vit", **facts)
        labels = torch.arange(count) % CLASSES
        return tokenizer, regularizer, images, labels, features, reference, True

    mine, none = step_of(scene.fresh()), step_of(Regularizer(scene.spec))
    said = common.ratio(
        common.paced(lambda: one_step.tokenizer_step(*mine), lambda: one_step.tokenizer_step(*none)), "none"
    )
    try:
        kept = [
            activations.step_cost(one_step.tokenizer_step, *step).activations / 2**20 for step in (mine, none)
        ]
    except RuntimeError:  # shapes that depend on values
        return said
    return f"{said}; keeps {kept[0]:.1f} MiB for the backward pass, {common.times(*kept)} x none's"


CHECKS: tuple[Callable[[Scene], str | None], ...] = (
    common.documented,
    common.versioned,
    declared,
    latents,
    draws,
    finite,
    reaches,
    repeats,
    learns,
    critics,
    rows_of_latents,
    rows_of_losses,
    inputs,
    reloads,
    on_meta,
    same_twice,
    without_weight,
    half,
    cost,
)
