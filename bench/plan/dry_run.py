"""One training step, or one image's way through a network, on the meta device: no data and no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..api import (
    FlowTokenizer,
    Generator,
    ImageSpec,
    LatentSpec,
    Likelihood,
    Noise,
    Reference,
    Regularizer,
    Tokenizer,
)
from ..models.activations import StepCost, step_cost
from ..models.flops import TooLong, forward_flops
from ..training import one_step
from ..training.adversary import Adversary
from .plan import Built

MAX_CALLS = 4_000  # of torch's functions while a sampler is followed
ITERATIONS = ("steps", "iterations")  # options of samplers that the work is linear in


@dataclass(frozen=True)
class Training:
    """Settings of a training stage that the cost of a step depends on."""

    batch: int
    precision: str
    checkpointing: bool

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Training:
        return Training(config["batch"], config["env"]["precision"], config.get("checkpointing", False))

    def cost(self, step: Any, *arguments: Any) -> StepCost:
        return step_cost(step, *arguments, precision=self.precision, checkpointing=self.checkpointing)


def joint_step(built: Built, training: Training) -> StepCost:
    """A step of a tokenizer with its regularizer."""
    tokenizer, regularizer = built.tokenizer, built.regularizer
    assert tokenizer is not None and regularizer is not None
    inputs = _inputs(built, regularizer, training.batch)
    return training.cost(one_step.tokenizer_step, tokenizer.train(), regularizer.train(), *inputs, True)


def tokenizer_step(built: Built, training: Training) -> StepCost:
    """A step of a tokenizer without its regularizer."""
    tokenizer = built.tokenizer
    assert tokenizer is not None
    images = _images(built.dataset.image, training.batch)
    inputs = images, _labels(built.dataset.classes, training.batch), None, None
    bare = _FirstChannels(tokenizer.spec)
    return training.cost(one_step.tokenizer_step, tokenizer.train(), bare, *inputs, False)


def decoder_step(built: Built, training: Training) -> StepCost:
    """The decoder's part of a step of a tokenizer."""
    tokenizer = built.tokenizer
    assert tokenizer is not None
    z, labels = _latents(tokenizer.spec, training.batch), _labels(built.dataset.classes, training.batch)
    return training.cost(one_step.decoder_step, tokenizer.train(), z, labels)


class _FirstChannels(Regularizer):
    """Takes the latent from the first channels where an encoder has several for each of the latent's."""

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        return h[..., : self.spec.channels]


def regularizer_step(built: Built, training: Training, critics: bool) -> StepCost:
    """A regularizer's part of a step: its latents and losses, or with `critics` an update of each critic."""
    tokenizer, regularizer = built.tokenizer, built.regularizer
    assert tokenizer is not None and regularizer is not None
    if critics and not regularizer.critics():
        return StepCost(0, 0)
    h = _latents(replace(tokenizer.spec, channels=regularizer.encoder_outputs), training.batch)
    inputs = _inputs(built, regularizer, training.batch)
    return training.cost(one_step.regularizer_step, tokenizer, regularizer.train(), h, *inputs, critics)


def reconstruction_step(
    distance: nn.Module | None, adversary: Adversary | None, image: ImageSpec, training: Training
) -> StepCost:
    """The part of a step that networks in the reconstruction losses take; they are never checkpointed."""
    images = _images(image, training.batch)
    return step_cost(one_step.reconstruction_step, distance, adversary, images, precision=training.precision)


def generator_step(generator: Generator, classes: int, training: Training) -> StepCost:
    z, labels = _latents(generator.spec, training.batch), _labels(classes, training.batch)
    return training.cost(one_step.generator_step, generator.train(), z, labels)


def batch_bytes(built: Built, batch: int) -> int:
    """Bytes of a batch of images with what a regularizer asks for beside them."""
    assert built.regularizer is not None
    inputs = _inputs(built, built.regularizer, batch)
    return sum(tensor.nbytes for tensor in inputs if tensor is not None)


def encode(tokenizer: Tokenizer, image: ImageSpec) -> int:
    """Operations of encoding an image."""
    return forward_flops(tokenizer.encode, _images(image, 1))


def decode(tokenizer: Tokenizer, image: ImageSpec, classes: int) -> int:
    """Operations of decoding a latent."""
    z = _latents(tokenizer.spec, 1)
    if not isinstance(tokenizer, FlowTokenizer):
        return forward_flops(tokenizer.decode, z)
    x, t = _images(image, 1), torch.empty(1, device="meta")
    return tokenizer.evaluations * forward_flops(tokenizer.velocity, x, t, z, _labels(classes, 1))


def sample(
    generator: Generator,
    classes: int,
    guided: bool,
    options: Mapping[str, Any],
    weak: Generator | None = None,
) -> int:
    """Operations of drawing a sample, extrapolated from few iterations of the sampler; `weak` guides it.

    Raises:
        TooLong: if even those take too many calls and the generator doesn't say what they take.
    """
    guidance = 2.0 if guided else 1.0
    labels = _labels(classes, 1)
    if labels is None:
        labels = torch.full((1,), -1, device="meta")

    other = {} if weak is None else {"weak": weak}

    def follow(sampler: dict[str, Any], iterations: list[str]) -> float:
        if not iterations:
            return forward_flops(
                lambda labels: generator.sample(labels, guidance, Noise(0), **other, **sampler),
                labels,
                calls=MAX_CALLS,
            )
        name, *rest = iterations
        once, twice = (follow(sampler | {name: count}, rest) for count in (1, 2))
        return once + (twice - once) * (sampler[name] - 1)

    sampler = dict(options)
    if "iterations" in sampler and sampler["iterations"] is None:  # as many as tokens
        sampler["iterations"] = generator.spec.tokens
    try:
        return round(follow(sampler, [name for name in ITERATIONS if sampler.get(name)]))
    except TooLong:
        if not isinstance(generator, Likelihood):
            raise
    density = forward_flops(generator.log_prob, _latents(generator.spec, 1), labels)
    return density * generator.sampling_evaluations(guided and classes > 0, sampler)


def _inputs(built: Built, regularizer: Regularizer, batch: int) -> tuple[Tensor | None, ...]:
    """Images, labels, teacher features and reference samples; None for what a regularizer doesn't ask for."""
    facts, features, reference = built.facts, None, None
    if "teacher_spec" in facts:
        features = _latents(facts["teacher_spec"], batch)
    if "reference_spec" in facts:
        spec = facts["reference_spec"]
        labels = _labels(facts.get("reference_classes", 0), batch)
        reference = regularizer.reference(Reference(_latents(spec, batch), labels, spec.grid)).samples
    images, classes = _images(built.dataset.image, batch), built.dataset.classes
    return images, _labels(classes, batch), features, reference


def _images(image: ImageSpec, count: int) -> Tensor:
    return torch.empty(count, image.channels, image.height, image.width, device="meta")


def _latents(spec: LatentSpec, count: int) -> Tensor:
    return torch.empty(count, spec.tokens, spec.channels, device="meta")


def _labels(classes: int, count: int) -> Tensor | None:
    return torch.empty(count, dtype=torch.int64, device="meta") if classes else None
