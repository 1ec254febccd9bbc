"""The contract of generators with the training loop and the samples stage."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from .. import registry
from ..api import Flow, Generator, LatentSpec, Likelihood, Noise
from ..models import flops
from ..training import one_step
from . import common
from .common import BATCH, CLASSES, BrokenPromise, NotApplicable, Part, equal, randn, require, trainable

TEACHER = LatentSpec(4, 12, (2, 2))
SETTINGS = [(spec, classes) for spec in common.SPECS for classes in (CLASSES, 0)]
STEPS = 100  # training steps after which the loss must be lower
GUIDANCES = (1.0, 1.5)


class Scene:
    """A generator with a batch of latents and all kinds of labels."""

    def __init__(self, part: Part, setting: tuple[LatentSpec, int], device: str = "cpu") -> None:
        self.part, (self.spec, self.classes), self.device = part, setting, device
        self.model = self.fresh()
        self.z = self.randn(BATCH, self.spec.tokens, self.spec.channels)
        # -1 is a dropped label; labels are None without classes.
        self.labels = torch.tensor([0, 3, -1, 9, 1, -1], device=device) if self.classes else None
        sampled = [0, 3, -1, 9] if self.classes else [-1] * 4
        self.sample_labels = torch.tensor(sampled, device=device)

    def randn(self, *shape: int, seed: int = 0) -> Tensor:
        return randn(*shape, seed=seed, device=self.device)

    def fresh(self, seed: int = 0) -> Generator:
        return self.built(seed).to(self.device)

    def built(self, seed: int = 0) -> Generator:
        """A new generator on torch's default device."""
        return self.part.make(seed, spec=self.spec, classes=self.classes, teacher_spec=TEACHER)

    @property
    def fitted(self) -> bool:
        return not self.part.cls.takes_steps()

    def terms(self, model: Generator, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        """The losses, with a teacher's features for a generator that learns from them."""
        features = (
            []
            if model.teacher_spec is None
            else [self.randn(BATCH, TEACHER.tokens, TEACHER.channels, seed=1)]
        )
        return model.loss(self.z, labels, noise, *features)

    def loss(self, model: Generator, step: int) -> Tensor:
        terms = self.terms(model, self.labels, Noise(0).fork(step))
        return torch.stack([*terms.values()]).sum()

    def trained(self, steps: int) -> Generator:
        """A new generator after some training steps, or fitted."""
        model = self.fresh()
        if self.fitted:
            shape = (64, self.spec.tokens, self.spec.channels)
            model.fit((self.randn(*shape, seed=i), None) for i in range(4))
        else:
            common.descend(lambda step: self.loss(model.train(), step), trainable(model), steps)
        return model.eval()

    @cached_property
    def learned(self) -> Generator:
        """A generator after a few steps, or fitted, so that layers that start at zero have an effect."""
        return self.trained(3)

    def require_loss(self) -> None:
        if self.fitted:
            raise NotApplicable("it is fitted: there is no loss to descend")


def trains(scene: Scene) -> str:
    """Every trainable parameter learns"""
    model = scene.fresh()
    if scene.fitted:
        require(not trainable(model), "it has fit(), and parameters that only a loss would train")
        return "it is fitted"
    common.require_learns(model, lambda step: scene.loss(model, step))
    return f"{flops.parameters(model):,} parameters"


def repeats(scene: Scene) -> None:
    """Losses repeat, and take absent labels"""
    scene.require_loss()
    model = scene.learned

    def compute(noise: int = 0) -> float:
        return sum(scene.terms(model, scene.labels, Noise(noise)).values(), torch.zeros(())).item()

    require(common.whatever_the_seed(compute), f"loss(): {common.GLOBAL}")
    unlabelled = scene.terms(model, None, Noise(0)).values()
    require(all(value.isfinite() for value in unlabelled), "loss() is not finite with labels = None")


def samples(scene: Scene) -> None:
    """Samples are finite, repeat and follow the noise"""
    model, labels = scene.learned, scene.sample_labels
    shape = (len(labels), scene.spec.tokens, scene.spec.channels)
    with torch.no_grad():
        for w in GUIDANCES:
            z = model.sample(labels, w, Noise(0))
            require(z.shape == shape, f"sample() gives {tuple(z.shape)}, not {shape}")
            require(z.isfinite().all(), f"samples at guidance {w} aren't finite")

            def compute(w: float = w) -> Tensor:
                return model.sample(labels, w, Noise(0))

            require(common.whatever_the_seed(compute), f"sample() at guidance {w}: {common.GLOBAL}")
            other = model.sample(labels, w, Noise(1))
            require(not torch.allclose(other, z), f"samples at guidance {w} are the same for all noise")
        drawn = [model.sample(labels, w, Noise(0)) for w in GUIDANCES]
    same = all(torch.equal(z, drawn[0]) for z in drawn)
    require(model.guided or same, "guided is False, but guidance changes the samples")


def rows(scene: Scene) -> None:
    """A sample doesn't depend on its batch"""
    model, labels = scene.learned, scene.sample_labels
    with torch.no_grad():
        for w in GUIDANCES:
            together = model.sample(labels, w, Noise(0))
            parts = [model.sample(labels[i : i + 1], w, Noise(0, (), i, 4)) for i in range(len(labels))]
            why = "draw with noise.normal(like) where rows come first, and use no batch statistics"
            require(common.close(torch.cat(parts), together, 1e-3), f"one row alone differs; {why}")


def learns(scene: Scene) -> str:
    """After 100 steps the loss is lower"""
    scene.require_loss()

    def mean_loss(model: Generator) -> float:
        with torch.no_grad():
            return torch.stack([scene.loss(model.eval(), -1 - k) for k in range(16)]).mean().item()

    start, model = mean_loss(scene.fresh()), scene.trained(STEPS)
    end = mean_loss(model)
    require(end < start, f"the loss was {start:.4g} and is {end:.4g} after {STEPS} steps of Adam at 1e-3")
    with torch.no_grad():
        z = model.sample(scene.sample_labels, 1.0, Noise(0))
    require(z.isfinite().all(), f"samples aren't finite after {STEPS} steps")
    return f"{start:.4g} -> {end:.4g} on {BATCH} latents"


def inputs(scene: Scene) -> None:
    """It leaves its inputs as they were"""
    fresh = Scene(scene.part, (scene.spec, scene.classes), scene.device)
    guard = common.InputGuard(z=fresh.z, labels=fresh.labels, sample_labels=fresh.sample_labels)
    if not scene.fitted:
        fresh.terms(scene.learned, fresh.labels, Noise(0))
    with torch.no_grad():
        scene.learned.sample(fresh.sample_labels, 1.5, Noise(0))
    guard.require()


def reloads(scene: Scene) -> None:
    """Saved and loaded, it is the same"""
    model = scene.learned
    other = common.reload(model, scene.fresh(seed=1))
    with torch.no_grad():
        before, after = (m.sample(scene.sample_labels, 1.5, Noise(0)) for m in (model, other))
    require(equal(before, after), f"sample(): {common.LOST}")


def on_meta(scene: Scene) -> None:
    """It builds on the meta device"""
    with torch.device("meta"):
        meta = scene.built()
    common.require_same_shapes(scene.fresh(), meta)


def likelihood(scene: Scene) -> None:
    """A likelihood is one number a latent"""
    model, z, labels = scene.learned, scene.z, scene.labels
    if not isinstance(model, Likelihood):
        raise NotApplicable("it is no Likelihood")
    with torch.no_grad():
        values = model.log_prob(z, labels)
        require(values.shape == (BATCH,), f"log_prob() gives {tuple(values.shape)}, not (B,)")
        require(values.isfinite().all(), "log_prob() is not finite")
        row = model.log_prob(z[2:3], None if labels is None else labels[2:3])
        require(common.close(row, values[2:3], 1e-3), "log_prob() of one row alone differs")
        unlabelled, dropped = (
            model.log_prob(z, None),
            model.log_prob(z, torch.full((BATCH,), -1, device=z.device)),
        )
        require(equal(unlabelled, dropped), "log_prob() differs between labels None and -1")


def velocity(scene: Scene) -> None:
    """A flow has a velocity and hidden tokens"""
    model, z = scene.learned, scene.z
    if not isinstance(model, Flow):
        raise NotApplicable("it is no Flow")
    t = torch.linspace(0.05, 0.95, BATCH, device=z.device)
    with torch.no_grad():
        v = model.velocity(z, t, scene.labels)
        tapped = model.velocity(z, t, scene.labels, tap=1)
    require(isinstance(v, Tensor) and v.shape == z.shape and v.isfinite().all(), "velocity() isn't (B, T, C)")
    require(isinstance(tapped, tuple), "velocity(tap=1) must give (velocity, hidden tokens)")
    same, hidden = tapped
    same_velocity = isinstance(v, Tensor) and common.close(same, v)
    require(same_velocity, "velocity(tap=1) gives another velocity than velocity()")
    require(hidden.dim() == 3 and len(hidden) == BATCH, "hidden tokens aren't (B, T, D)")
    require(hidden.isfinite().all(), "hidden tokens aren't finite")


def guided_by(scene: Scene) -> None:
    """A worse model guides samples, unless w = 1"""
    model = scene.learned
    if "weak" not in inspect.signature(model.sample).parameters:
        raise NotApplicable("sample() takes no `weak`")
    if not isinstance(model, Flow):
        raise BrokenPromise("sample() takes `weak`, and velocity() is missing: it must be a Flow")

    def drawn(w: float, **weak: Generator) -> Tensor:
        with torch.no_grad():
            return model.sample(scene.sample_labels, w, Noise(0), **weak)  # type: ignore[arg-type]

    plain, worse = drawn(1.0), scene.trained(1)
    require(equal(drawn(1.0, weak=worse), plain), "at w = 1 samples depend on `weak`")
    require(common.close(drawn(2.0, weak=model), plain, 1e-3), "a model guided by itself draws other samples")
    require(not common.close(drawn(2.0, weak=worse), plain, 1e-5), "at w = 2 `weak` changes nothing")


def sampler(scene: Scene) -> str:
    """Options of sampling have defaults"""
    given = list(inspect.signature(scene.part.cls.sample).parameters.values())[4:]
    options = [option for option in given if option.name != "weak"]
    for option in options:
        good = option.kind is option.KEYWORD_ONLY and option.empty not in (option.default, option.annotation)
        require(good, f"{option.name!r} of sample() must be keyword-only, annotated and have a default")
    return ", ".join(option.name for option in options) or "none"


def half(scene: Scene) -> None:
    """It is finite in mixed precision (bf16)"""
    scene.require_loss()
    model = scene.fresh().train()
    common.require_finite_in_half(model, lambda: scene.loss(model, 0), scene.device)


def cost(scene: Scene) -> str:
    """A training step"""
    scene.require_loss()
    z = scene.randn(common.TIMED, scene.spec.tokens, scene.spec.channels)
    labels = torch.arange(common.TIMED, device=z.device) % CLASSES if scene.classes else None
    other = registry.create("generators", "lightningdit", spec=scene.spec, classes=scene.classes).to(z.device)
    steps = [lambda m=m: one_step.generator_step(m, z, labels) for m in (scene.fresh().train(), other)]
    seconds = common.paced(*steps, device=scene.device)
    return f"{common.comparison(seconds, 'lightningdit')} at batch {common.TIMED}"


CHECKS: tuple[Callable[[Scene], str | None], ...] = (
    common.documented,
    common.versioned,
    trains,
    repeats,
    samples,
    rows,
    learns,
    inputs,
    reloads,
    on_meta,
    likelihood,
    velocity,
    guided_by,
    sampler,
    half,
    cost,
)
