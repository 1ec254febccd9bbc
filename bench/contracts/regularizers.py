"""The contract of regularizers with the training loops."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..api import LatentSpec, Noise, Reference, Regularizer, Step
from ..data.augment import Augmentation
from ..models import activations, build, flops
from ..options.options import options_of
from ..training import one_step
from ..training.context import Context
from ..training.losses import Term, l1
from ..training.objective import Objective, TrainingBudget
from ..training.tokenizer import train_tokenizer
from . import common, shown_pairs
from .common import (
    BATCH,
    CLASSES,
    LinearTokenizer,
    NoiseDataset,
    NotApplicable,
    Part,
    PatchTokenizer,
    equal,
    randn,
    require,
    trainable,
)

SETTINGS = common.SPECS
SHOWN = 12  # updates of which pairs are drawn: a method may leave most as they are
TEACHER, REFERENCE = LatentSpec(16, 12, (4, 4)), LatentSpec(16, 10, (4, 4))
FACTS: dict[str, Any] = {"classes": CLASSES, "reference_classes": CLASSES}
FACTS |= {"teacher_spec": TEACHER, "reference_spec": REFERENCE}


class Scene:
    """A regularizer with a batch of hidden values h and its step, as in the training loop."""

    def __init__(self, part: Part, spec: LatentSpec, seed: int = 0, device: str = "cpu") -> None:
        self.part, self.spec, self.device = part, spec, device
        self.regularizer = self.fresh(seed)
        self.noise = Noise(7).fork("test")
        self.h = randn(BATCH, spec.tokens, self.regularizer.encoder_outputs, device=device).requires_grad_()
        self.labels = torch.tensor([0, 3, 1, 9, 1, 5], device=device)

    def fresh(self, seed: int = 0, **options: Any) -> Regularizer:
        """A new regularizer with perturbed priors, as outputs that start at zero would have no effect."""
        return self._built(seed, **options).to(self.device)

    def _built(self, seed: int = 0, **options: Any) -> Regularizer:
        regularizer = self.part.make(seed, spec=self.spec, **FACTS, **options)
        for prior in regularizer.priors().values():
            for index, p in enumerate(prior.requires_grad_(False).eval().parameters()):
                p.add_(0.1 * randn(*p.shape, seed=index))
        return regularizer

    @property
    def _facts(self) -> set[str]:
        """The names of the facts that the method asks for."""
        return build.facts_of(type(self.regularizer.underlying))

    def reference(self) -> Reference | None:
        """64 samples in the latent's space on the CPU, as for the loop, if the regularizer needs any."""
        if "reference_spec" not in self._facts:
            return None
        samples = randn(64, REFERENCE.tokens, REFERENCE.channels, seed=2)
        method = self.regularizer if self.device == "cpu" else self._built()
        return method.reference(Reference(samples, torch.arange(64) % CLASSES, REFERENCE.grid))

    def reference_samples(self, count: int) -> Tensor | None:
        reference = self.reference()
        if reference is None:
            return None
        return reference.samples[torch.arange(count) % len(reference.samples)].to(self.device)

    def features(self, count: int) -> Tensor | None:
        """Teacher features (count, N, F), if the regularizer needs them."""
        if "teacher_spec" not in self._facts:
            return None
        return randn(count, TEACHER.tokens, TEACHER.channels, seed=1, device=self.device)

    def step(self, index: int = 0) -> Step:
        features, reference = self.features(BATCH), self.reference_samples(BATCH)
        noise = self.noise.fork("loss").fork(index)
        images = common.rand_images(common.IMAGES[0], device=self.device)
        views = randn(*self.h.shape, seed=4, device=self.device) if self.regularizer.two_views else None
        return Step(index, images, self.labels, noise, torch.nn.Flatten(), features, reference, views)

    def latent(self, h: Tensor, noise: str = "latent") -> Tensor:
        return self.regularizer.latent(h, self.noise.fork(noise), self.labels)

    def shown_step(self, index: int) -> Step:
        """The step with which the loop asks for the pairs that the decoder learns from."""
        step = self.step(index)
        return replace(step, noise=step.noise.fork("shown"))

    def losses(self, index: int = 0) -> dict[str, Tensor]:
        return self.regularizer.loss(self.latent(self.h), self.h, self.step(index))

    def required_losses(self) -> dict[str, Tensor]:
        """The losses; raises `NotApplicable` for a method without any."""
        losses = self.losses()
        if not losses:
            raise NotApplicable("it has no loss")
        return losses

    def trained(self, regularizer: Regularizer) -> dict[str, Tensor]:
        """The state of a linear tokenizer after a few steps of the real loop."""
        data = NoiseDataset()
        torch.manual_seed(0)
        kind = PatchTokenizer if regularizer.regrids else LinearTokenizer
        tokenizer = kind(data.image, regularizer.encoder_outputs, self.spec)
        features = self.features(data.size("train"))
        augmentation = Augmentation() if regularizer.two_views else None
        with tempfile.TemporaryDirectory() as work, torch.random.fork_rng(devices=[]):
            train_tokenizer(
                tokenizer,
                regularizer,
                data,
                Objective({"l1": Term(1.0, l1)}, augmentation=augmentation),
                TrainingBudget(3, 16),
                seed=0,
                optimizer=({"clip": 0.0, "warmup": 0}, {}),  # clipping would couple all parameters
                context=Context(Path(work), self.device),
                teacher=None if features is None else lambda images, index: features[index.to(self.device)],
                reference=self.reference(),
            )
        return {name: p.detach().clone() for name, p in tokenizer.state_dict().items()}


def numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in losses.items()}


def declared(scene: Scene) -> None:
    """The loops know what it declares"""
    method = scene.regularizer
    require(
        method.couples in ("", "loss", "latent"), f'couples is {method.couples!r}, not "", "loss" or "latent"'
    )
    require(method.expansion >= 1, f"expansion is {method.expansion}; it must be >= 1")
    require(method.extra >= 0, f"extra is {method.extra}; it must be >= 0")
    require(method.critic_steps >= 1, "critic_steps must be >= 1")


def latents(scene: Scene) -> None:
    """Latents are finite and of the spec's shape"""
    shape = (BATCH, scene.spec.tokens, scene.spec.channels)
    for case, z in (
        ("with noise", scene.latent(scene.h)),
        ("without noise", scene.regularizer.latent(scene.h, None, scene.labels)),
    ):
        require(z.shape == shape, f"latent() {case} gives {tuple(z.shape)}, not (B, T, C) = {shape}")
        require(z.isfinite().all(), f"latent() {case} is not finite")


def draws(scene: Scene) -> str:
    """Latents repeat, and draw from Noise alone"""
    h = scene.h.detach()

    def deterministic() -> Tensor:
        return scene.regularizer.latent(h, None, scene.labels)

    require(common.whatever_the_seed(lambda: scene.latent(h)), f"latent(): {common.GLOBAL}")
    z = deterministic()
    same = common.whatever_the_seed(deterministic) and equal(z, deterministic())
    require(same, f"latent(): {common.GLOBAL}")
    if equal(scene.latent(h), z):
        return "it draws no noise"
    require(not equal(scene.latent(h, "other"), scene.latent(h)), "latent() is the same for all noise")
    return "it draws noise"


def finite(scene: Scene) -> str:
    """Losses are finite scalars"""
    losses = scene.required_losses()
    for name, value in losses.items():
        require(value.dim() == 0, f"{name!r} has the shape {tuple(value.shape)}; take its mean")
        require(value.isfinite(), f"{name!r} is {value.item()} on normal latents")
    missing = set(scene.regularizer.balanced) - set(losses)
    require(not missing, f"balanced names {sorted(missing)}, which loss() doesn't return")
    return ", ".join(f"{name} {value:.3g}" for name, value in numbers(losses).items())


def reaches(scene: Scene) -> None:
    """Their gradient is finite and reaches the encoder"""
    total = torch.stack([*scene.required_losses().values()]).sum()
    require(total.requires_grad, "no loss has a gradient: is a tensor detached, or computed under no_grad?")
    (gradient,) = torch.autograd.grad(total, scene.h, allow_unused=True)
    require(gradient is not None and gradient.any(), "no gradient reaches h: is z or h detached in loss()?")
    bad = int((~gradient.isfinite()).sum())
    why = "look for sqrt, norm, log or a division at 0"
    require(not bad, f"{bad} of {gradient.numel()} gradients at h aren't finite; {why}")


def repeats(scene: Scene) -> None:
    """Losses repeat, and draw from Noise alone"""
    scene.required_losses()
    # A method may keep averages, so each time its state is that of the start.
    start = copy.deepcopy(scene.regularizer.state_dict())

    def compute() -> dict[str, float]:
        scene.regularizer.load_state_dict(start)
        return numbers(scene.losses())

    require(common.whatever_the_seed(compute), f"loss(): {common.GLOBAL}")


def learns(scene: Scene) -> str:
    """Its parameters learn, frozen ones and critics don't"""
    regularizer, spec = scene.regularizer, scene.spec
    in_critics = {id(p) for critic in regularizer.critics().values() for p in critic.parameters()}
    trained = {key: p for key, p in trainable(regularizer).items() if id(p) not in in_critics}
    before = common.snapshot(regularizer)
    unseen: set[str] = set()
    if trained:
        target = randn(BATCH, spec.tokens, spec.channels, seed=3, device=scene.device)

        def loss(index: int) -> Tensor:
            z = scene.latent(scene.h)
            steps = map(scene.shown_step, range(SHOWN * index, SHOWN * (index + 1)))
            pairs = [pair for step in steps for pair in regularizer.shown(z, step)]
            terms = [(z - target).square().mean(), *((pair.z - 1).square().mean() for pair in pairs)]
            return torch.stack([*scene.losses(index).values(), *terms]).sum()

        unseen = common.descend(loss, trained)
    common.require_moved(regularizer, before, unseen, set(trained))
    return f"{flops.parameters(regularizer):,} parameters, {len(trained)} tensors trained"


def critics(scene: Scene) -> str:
    """Critics learn by their own loss alone"""
    modules = scene.regularizer.critics()
    if not modules:
        raise NotApplicable("it has no critics")
    saved = {id(p) for p in scene.regularizer.parameters()}
    for name, critic in modules.items():
        ids = {id(p) for p in critic.parameters()}
        require(ids <= saved, f"the critic {name!r} isn't a submodule: it would not be saved")
        z, before = scene.latent(scene.h).detach(), common.snapshot(scene.regularizer)

        def loss(index: int, name: str = name, z: Tensor = z) -> Tensor:
            return scene.regularizer.critic_loss(name, z, scene.step(index))

        unseen = common.descend(loss, trainable(critic))
        meant = {key for key, p in trainable(scene.regularizer).items() if id(p) in ids}
        common.require_moved(scene.regularizer, before, unseen, meant)
    return ", ".join(modules)


def shown(scene: Scene) -> str:
    """The decoder learns from pairs that fit each other"""
    if type(scene.regularizer).shown is Regularizer.shown:
        raise NotApplicable("it leaves latents and images as they are")
    z = scene.latent(scene.h)
    grids: dict[tuple[int, int] | None, None] = {}
    for index in range(SHOWN):
        step = scene.shown_step(index)
        pairs = [*scene.regularizer.shown(z, step)]
        shown_pairs.require_fit(pairs, z, step.images, scene.regularizer)
        gradients = torch.autograd.grad([pair.z.sum() for pair in pairs], scene.h, retain_graph=True)
        require(gradients[0].isfinite().all(), "the gradient through shown() isn't finite")
        shown_pairs.require_repeatable(scene.regularizer, z, step)
        shown_pairs.require_rows_apart(scene.regularizer, pairs, z, step)
        grids |= dict.fromkeys(pair.grid or scene.spec.grid for pair in pairs)
    return f"grids {', '.join(map(str, grids))}" if scene.spec.grid else "latents without a grid"


def rows_of_latents(scene: Scene) -> str:
    """Latents couple rows only where it says so"""
    with torch.no_grad():
        others_changed = torch.cat([scene.h[:1], scene.h[1:].flip(0) + 1])
        independent = common.close(scene.latent(scene.h)[0], scene.latent(others_changed)[0], 1e-5)
    if scene.regularizer.couples == "latent":
        require(not independent, "couples = \"latent\", but an image's latent doesn't depend on the others")
        return "coupled"
    why = 'set couples = "latent", or take no statistics over rows'
    require(independent, f"row 0 changes with the other rows: {why}")
    return "independent"


def rows_of_losses(scene: Scene) -> None:
    """Losses couple rows only where it says so"""
    if scene.regularizer.couples:
        raise NotApplicable(f"it couples its {scene.regularizer.couples}")
    scene.required_losses()
    regularizer = scene.regularizer.eval()  # in training a method may update averages over all processes
    step = scene.step()
    with torch.no_grad():
        z = scene.latent(scene.h)
        together = regularizer.loss(z, scene.h, step)
        alone = [
            regularizer.loss(z[i : i + 1], scene.h[i : i + 1], common.row(step, i)) for i in range(BATCH)
        ]
    regularizer.train()
    for key, value in together.items():
        mean = torch.stack([losses[key] for losses in alone]).mean()
        text = f"{key!r} is {value:.4g} on {BATCH} rows, but {mean:.4g} as the mean over single rows"
        require(common.close(mean, value), f'{text}: set couples = "loss", or average over rows')


def inputs(scene: Scene) -> None:
    """It leaves its inputs as they were"""
    scene = Scene(scene.part, scene.spec, device=scene.device)
    step, h = scene.step(), scene.h * 1.0
    guard = common.InputGuard(h=h, images=step.images, labels=scene.labels)
    z = scene.latent(h)
    guard.require()
    guard = common.InputGuard(
        z=z,
        h=h,
        images=step.images,
        labels=step.labels,
        features=step.features,
        reference=step.reference,
        views=step.views,
    )
    scene.regularizer.loss(z, h, step)
    guard.require()


def reloads(scene: Scene) -> None:
    """Saved and loaded, it is the same"""
    saved, loaded = (Scene(scene.part, scene.spec, seed, scene.device) for seed in (0, 1))
    common.reload(saved.regularizer.eval(), loaded.regularizer)
    with torch.no_grad():
        require(equal(saved.latent(saved.h), loaded.latent(loaded.h)), f"latent(): {common.LOST}")
        require(numbers(saved.losses()) == numbers(loaded.losses()), f"loss(): {common.LOST}")


def on_meta(scene: Scene) -> None:
    """It builds on the meta device"""
    with torch.device("meta"):
        meta = scene.part.make(spec=scene.spec, **FACTS)
    common.require_same_shapes(scene.part.make(spec=scene.spec, **FACTS), meta)


def same_twice(scene: Scene) -> None:
    """Trained twice, tokenizers are equal bit for bit"""
    first, second = (scene.trained(scene.fresh()) for _ in range(2))
    why = f"{common.GLOBAL}, and don't use the time, id() or the order of a set"
    require(equal(first, second), f"two trainings differ; {why}")


def without_weight(scene: Scene) -> str:
    """Weight 0 is the loss removed, bit for bit"""
    options = options_of(scene.part.cls)
    is_weight = {name: "weight" in name.split("_") or name == "align" for name in options}
    weights = {name: option for name, option in options.items() if is_weight[name]}
    if not weights:
        raise NotApplicable("it has no option `weight`")
    for name, option in weights.items():
        if not option.accepts(0.0):
            raise NotApplicable(f"{name} must be {option.choices}")
    zeros = {name: option.read(0.0) for name, option in weights.items()}
    without_loss: Any = scene.fresh(**zeros)
    without_loss.balanced, without_loss.loss = {}, lambda z, h, step: {}
    with_zero, removed = scene.trained(scene.fresh(**zeros)), scene.trained(without_loss)
    against = "the loss removed"
    plain = type(scene.regularizer.underlying).latent is Regularizer.latent
    if plain and type(scene.regularizer).shown is Regularizer.shown:
        none = scene.trained(Regularizer(scene.spec))
        require(equal(removed, none), "without its loss a tokenizer differs from that of `none`")
        against = "`none`"
    text = " and ".join(f"{name} 0" for name in zeros)
    finite = all(value.isfinite().all() for value in with_zero.values())
    why = "does every term of loss() have the weight?" if finite else "is 0 multiplied with infinity?"
    require(equal(with_zero, removed), f"{text} moves the tokenizer away from {against}; {why}")
    return f"{text}, against {against}"


def half(scene: Scene) -> None:
    """It is finite in mixed precision (bf16)"""
    h = scene.h.bfloat16()  # as an encoder's last layer gives it
    with torch.autocast(scene.device, torch.bfloat16):
        z = scene.latent(h)
        losses = scene.regularizer.loss(z, h, scene.step())
        for name in scene.regularizer.critics():
            losses[name] = scene.regularizer.critic_loss(name, z.detach(), scene.step())
    require(z.isfinite().all(), "latent() is not finite")
    bad = [name for name, value in losses.items() if not value.isfinite()]
    require(not bad, f"{bad[:1]} is not finite: compute in .float() where range or precision is needed")
    if losses:
        one_step.backward(torch.stack([value.float() for value in losses.values()]).sum())
        require(scene.h.grad is None or scene.h.grad.isfinite().all(), "gradients at h aren't finite")
    scene.h.grad = None


def cost(scene: Scene) -> str:
    """A training step, with the default vit"""
    if scene.spec != SETTINGS[0]:
        raise NotApplicable("it doesn't fit the default vit's latent")
    count, device = common.TIMED, scene.device
    images = common.rand_images(common.IMAGES[0], count, device=device)
    features, reference = scene.features(count), scene.reference_samples(count)

    def arguments(regularizer: Regularizer) -> tuple[Any, ...]:
        outputs = {"expansion": regularizer.expansion, "extra": regularizer.extra}
        facts = {"image": common.IMAGES[0], **outputs}
        tokenizer = registry.create("tokenizers", "vit", **facts).to(device)
        labels = torch.arange(count, device=device) % CLASSES
        return tokenizer, regularizer, images, labels, features, reference, True

    part, none = arguments(scene.fresh()), arguments(Regularizer(scene.spec))
    seconds = common.paced(*(lambda s=s: one_step.tokenizer_step(*s) for s in (part, none)), device=device)
    text = common.comparison(seconds, "none")
    try:
        mib = [
            activations.step_cost(one_step.tokenizer_step, *step).activations / 2**20 for step in (part, none)
        ]
    except RuntimeError:  # shapes that depend on values can't be counted
        return text
    return f"{text}; keeps {mib[0]:.1f} MiB for the backward pass, {common.multiple(*mib)} x none's"


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
    shown,
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
