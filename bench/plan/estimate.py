"""Estimates of the cost of a plan's stages from modules on the meta device: no data, weights or network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from torch import nn

from ..api import Dataset, FlowTokenizer, Generator, Split
from ..data.subset import originals
from ..models import flops
from ..models.activations import StepCost
from ..models.flops import TooLong
from ..models.latents import CHUNK, DRAWS
from ..runtime.mapped import LARGE
from ..stages.inputs import SPLITS, stored_outputs
from ..store.stage import Stage
from ..training import losses
from ..training.optimizers import DEFAULTS, GENERATOR_DEFAULTS, group_settings
from . import dry_run
from .cost import Cost
from .dry_run import Training
from .plan import Built, Plan

T = TypeVar("T")

FLOAT = 4  # bytes
GRADIENT, ADAM = FLOAT, 2 * FLOAT  # bytes a parameter; weights stay in single precision, autocast casts them

parameters = lru_cache(maxsize=256)(flops.parameters)  # stages of equal rows have the same modules


def costs(plan: Plan, stages: Iterable[Stage]) -> dict[str, Cost]:
    """Costs by stage id; equal modules, as of several seeds, are counted once."""
    estimates = _Estimates(plan)
    return {stage.id: estimates.of(stage) for stage in stages}


class _Estimates:
    """Costs by kind of stage."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        # By what was counted, and of which modules: a plan builds the modules of equal rows once.
        self.counted: dict[tuple[Any, ...], Any] = {}

    def of(self, stage: Stage) -> Cost:
        built, config = self.plan.built.get(stage.id), stage.config
        if built is None:
            return Cost(flops_per_image=None, note="not counted: what evaluators compute")
        match stage.kind:
            case "features":
                return _features(built, config)
            case "reference":
                return _reference(built, config)
            case "tokenizer":
                return self._tokenizer(built, stage)
            case "latents":
                return self._latents(built)
            case "samples":
                return self._samples(built, config)
            case _:
                return self._generator(built, stage)

    def _tokenizer(self, built: Built, stage: Stage) -> Cost:
        tokenizer, regularizer, config = built.tokenizer, built.regularizer, stage.config
        assert tokenizer is not None and regularizer is not None
        weights = parameters(tokenizer, regularizer), _bytes(tokenizer) + _bytes(regularizer)
        steps = config["steps"] + config["refine_steps"]  # refinement of the decoder counts as whole steps
        if not steps:
            return _untrained(*weights)
        # As in the training loop, a generator that is trained along is averaged as other generators are.
        tokenizer_settings, regularizer_settings = config["optimizer"]
        decay = group_settings(DEFAULTS, tokenizer_settings)["ema"]
        regularizer_decay = decay if regularizer.generator() is None else GENERATOR_DEFAULTS["ema"]
        averages = _bytes(tokenizer) if decay else 0
        if regularizer_settings.get("ema", regularizer_decay):
            averages += _bytes(regularizer)
        probes = 0
        if config["probes"]:
            times = config["steps"] // config["probes"]["every"] + 1
            spec = tokenizer.spec
            probes = times * config["probes"]["images"] * spec.tokens * spec.channels * FLOAT
        training, image = Training.from_config(config), built.dataset.image
        step = self._tokenizer_step(built, config, training)
        distance, adversary = self._once(
            ("loss networks", image), lambda: losses.networks(config["reconstruction"], image)
        )
        networks = [network for network in (distance, adversary) if network is not None]
        if networks:
            key = ("reconstruction", distance, adversary, training)
            step = _sum(
                step,
                self._count(key, lambda: dry_run.reconstruction_step(distance, adversary, image, training)),
            )
        cost = _trained(
            self.plan.parameters[stage.id],
            *weights,
            averages,
            training.batch,
            steps,
            step,
            probes,
            dry_run.batch_bytes(built, training.batch),
        )
        if "teacher" in config and not cost.note:
            cost = replace(cost, note="without the teacher, which describes each batch")
        # The networks of losses take memory in training and are not stored.
        learning = parameters(adversary, trainable=True) if adversary is not None else 0
        return replace(
            cost,
            parameters=cost.parameters + learning,
            parameters_total=cost.parameters_total + sum(map(parameters, networks)),
            weights_memory_bytes=cost.weights_memory_bytes + sum(map(_bytes, networks)),
            optimizer_memory_bytes=cost.optimizer_memory_bytes + learning * (GRADIENT + ADAM),
        )

    def _tokenizer_step(self, built: Built, config: Mapping[str, Any], training: Training) -> StepCost | str:
        """The sum of the tokenizer's part, which rows share, and of the regularizer's part.

        Rows whose regularizers differ in their strength alone share the regularizer's part, too.
        """
        tokenizer, regularizer = built.tokenizer, built.regularizer
        assert tokenizer is not None and regularizer is not None
        if regularizer.two_views or not tokenizer.decodes or isinstance(tokenizer, FlowTokenizer):
            key: tuple[Any, ...] = ("joint step", tokenizer, regularizer, training)
            return self._count(key, lambda: dry_run.joint_step(built, training))
        method = _cost_key([config["regularizer"], config["facts"]])
        encoded = self._encode(built)
        bare = self._count(
            ("tokenizer step", tokenizer, training), lambda: dry_run.tokenizer_step(built, training)
        )

        def regularizer_step(critics: bool) -> StepCost | str:
            key = ("regularizer step", tokenizer, method, training, critics)
            return self._count(key, lambda: dry_run.regularizer_step(built, training, critics))

        added, critics = regularizer_step(False), regularizer_step(True)
        if isinstance(encoded, str) or isinstance(bare, str):
            return _reason(bare, encoded)
        if isinstance(added, str) or isinstance(critics, str):
            return _reason(added, critics)
        operations = bare.flops + added.flops + critics.flops
        if regularizer.critics():  # each further update is on newly encoded images
            further = regularizer.critic_steps - 1
            operations += further * (critics.flops + training.batch * encoded)
        activations = max(bare.activations + added.activations, critics.activations)
        # Either part has its peak while the other's activations are kept.
        peak = max(bare.peak + added.activations, bare.activations + added.peak, critics.peak)
        return StepCost(operations, activations, peak)

    def _generator(self, built: Built, stage: Stage) -> Cost:
        """The cost of a generator's training, or a prior's."""
        generator, config = built.generator, stage.config
        assert generator is not None
        trainable, size = self.plan.parameters[stage.id], _bytes(generator)
        if type(generator).fit is not Generator.fit:
            return Cost(trainable, parameters(generator), weights_memory_bytes=size, disk_bytes=size)
        if not config["steps"]:
            return _untrained(parameters(generator), size)
        training, classes = Training.from_config(config), built.dataset.classes
        step = self._count(
            ("generator step", generator, training),
            lambda: dry_run.generator_step(generator, classes, training),
        )
        average = size if group_settings(GENERATOR_DEFAULTS, config["optimizer"])["ema"] else 0
        snapshots = len(config.get("snapshots", ())) * size
        return _trained(
            trainable,
            parameters(generator),
            size,
            average,
            training.batch,
            config["steps"],
            step,
            snapshots,
            training.batch * generator.spec.tokens * generator.spec.channels * FLOAT,
        )

    def _latents(self, built: Built) -> Cost:
        """The cost of encoding both splits and of the check that decodes the held-out split twice.

        Of a decoder that follows a flow the check takes two evaluations an image, and the previews' images
        are decoded as a whole.
        """
        tokenizer, regularizer = built.tokenizer, built.regularizer
        assert tokenizer is not None and regularizer is not None
        weights, total = _bytes(tokenizer) + _bytes(regularizer), parameters(tokenizer, regularizer)
        train, val = (_size(built.dataset, split) for split in SPLITS)
        if train is None or val is None:
            note = "how many images there are isn't known without the data"
            return Cost(0, total, 0, None, weights, disk_bytes=None, note=note)
        images, latent = train + val, tokenizer.spec.tokens * tokenizer.spec.channels * FLOAT
        disk = images * latent * type(regularizer).expansion
        coupled = regularizer.couples == "latent"
        if coupled:
            disk += DRAWS * train * latent
        encoded, decoded = self._encode(built), self._decode(built) if tokenizer.decodes else 0
        per_image, note = None, _reason(encoded, decoded)
        if not isinstance(encoded, str) and not isinstance(decoded, str):
            decodings = 2.0 * val
            if isinstance(tokenizer, FlowTokenizer):
                decodings = decodings / tokenizer.evaluations + min(val, CHUNK)
            per_image = encoded + decoded * decodings / images
        # While the stage runs there are also the latents whose statistics are computed.
        scratch = _on_disk(disk if coupled else disk + train * latent)
        return Cost(
            parameters_total=total,
            images=images,
            flops_per_image=per_image,
            weights_memory_bytes=weights,
            disk_bytes=disk,
            scratch_disk_bytes=scratch,
            note=note,
        )

    def _samples(self, built: Built, config: Mapping[str, Any]) -> Cost:
        generator, tokenizer, dataset = built.generator, built.tokenizer, built.dataset
        assert generator is not None and tokenizer is not None
        guided, sampler = config["guidance"] != 1, config["sampler"]
        drawn = self._count(
            ("sample", generator, guided, repr(sorted(sampler.items()))),
            lambda: dry_run.sample(generator, dataset.classes, guided, sampler),
        )
        decoded = self._decode(built)
        image, count = dataset.image, config["samples"]
        disk = count * (image.channels * image.height * image.width + 8)  # 8 bits a value, and a label
        return Cost(
            parameters_total=parameters(generator, tokenizer.decoder),
            images=count,
            flops_per_image=None if isinstance(drawn, str) or isinstance(decoded, str) else drawn + decoded,
            weights_memory_bytes=_bytes(generator) + _bytes(tokenizer),
            disk_bytes=disk,
            scratch_disk_bytes=_on_disk(disk),
            note=_reason(drawn, decoded),
        )

    def _encode(self, built: Built) -> int | str:
        tokenizer, image = built.tokenizer, built.dataset.image
        assert tokenizer is not None
        return self._count(("encode", tokenizer), lambda: dry_run.encode(tokenizer, image))

    def _decode(self, built: Built) -> int | str:
        tokenizer, dataset = built.tokenizer, built.dataset
        assert tokenizer is not None
        return self._count(
            ("decode", tokenizer), lambda: dry_run.decode(tokenizer, dataset.image, dataset.classes)
        )

    def _count(self, key: tuple[Any, ...], count: Callable[[], T]) -> T | str:
        """The result of `count`, called once for each key, or the reason why modules cannot be counted."""

        def attempt() -> T | str:
            try:
                return count()
            except TooLong:
                return "not counted: too long a sampler"
            except Exception as error:  # a plugin may fail in any way on tensors that have no values
                message = str(error).partition("\n")[0]  # torch's C++ frames follow
                return f"not counted without values: {type(error).__name__}: {message}"

        return self._once(key, attempt)

    def _once(self, key: tuple[Any, ...], compute: Callable[[], T]) -> T:
        if key not in self.counted:
            self.counted[key] = compute()
        return self.counted[key]


def _untrained(total: int, weights: int) -> Cost:
    """The cost of a stage that stores modules as they were built: `total` parameters, `weights` bytes."""
    return Cost(0, total, weights_memory_bytes=weights, disk_bytes=weights)


def _trained(
    trainable: int,
    total: int,
    weights: int,
    averages: int,
    batch: int,
    steps: int,
    step: StepCost | str,
    further: int,
    inputs: int,
) -> Cost:
    """The cost of a training.

    Args:
        weights: bytes of all modules, which are stored.
        averages: bytes of averages of weights, which take memory.
        further: bytes that are stored beside the weights.
        inputs: bytes of a batch.
    """
    gradients, temporary, activations = trainable * GRADIENT, inputs, None
    if isinstance(step, StepCost):
        activations = step.activations
        # The step's peak has its gradients, which are counted with the optimizer.
        temporary += max(0, step.peak - activations - gradients)
    return Cost(
        trainable,
        total,
        batch * steps,
        step.flops / batch if isinstance(step, StepCost) else None,
        weights,
        gradients + trainable * ADAM + averages,
        activations,
        temporary,
        disk_bytes=weights + further,
        note=_reason(step),
        # A checkpoint is made of copies.
        passing_memory_bytes=weights + trainable * ADAM + averages,
    )


def _features(built: Built, config: Mapping[str, Any]) -> Cost:
    """The disk space of features; operations are unknown, as networks aren't built without their weights."""
    extractor = built.extractor
    assert extractor is not None
    width = {"pooled": extractor.channels, "tokens": extractor.spec.tokens * extractor.spec.channels}
    width |= extractor.widths
    counts, disk = _images_read(built.dataset, config), None
    outputs = {split: stored_outputs(split, config.get("outputs", ["pooled", "tokens"])) for split in SPLITS}
    if counts is not None and {*outputs["train"], *outputs["val"]} <= set(width):
        disk = FLOAT * sum(counts[split] * sum(width[name] for name in outputs[split]) for split in SPLITS)
    return Cost(
        images=sum(counts[split] for split in SPLITS if outputs[split]) if counts else 0,
        flops_per_image=None,
        disk_bytes=disk,
        scratch_disk_bytes=_on_disk(disk or 0),
        note="not counted: extractors",
    )


def _reference(built: Built, config: Mapping[str, Any]) -> Cost:
    """The disk space of as many samples as images, which is how many most sources draw."""
    assert built.source is not None
    spec, counts = built.source.spec, _images_read(built.dataset, config)
    if counts is None:
        return Cost(disk_bytes=None)
    return Cost(disk_bytes=sum(counts.values()) * spec.tokens * spec.channels * FLOAT)


def _images_read(dataset: Dataset, config: Mapping[str, Any]) -> dict[Split, int] | None:
    """The number of images of each split that features or a reference are made of; None if unknown."""
    try:
        counts = {split: originals(dataset, split) for split in SPLITS}
    except OSError:
        return None
    if "images" not in config:
        return counts
    return {split: min(config["images"], count) for split, count in counts.items()}


def _size(dataset: Dataset, split: Split) -> int | None:
    """The number of images of a split; None if it isn't known without the data."""
    try:
        return dataset.size(split)
    except OSError:
        return None


def _on_disk(size: int) -> int:
    """The size of a temporary file in bytes: 0 for tensors that stay in memory."""
    return size if size >= LARGE else 0


def _sum(a: StepCost | str, b: StepCost | str) -> StepCost | str:
    """The cost of two parts of a step, or the reason why one of them isn't known."""
    if isinstance(a, str) or isinstance(b, str):
        return _reason(a, b)
    peak = max(a.peak + b.activations, a.activations + b.peak)
    return StepCost(a.flops + b.flops, a.activations + b.activations, peak)


def _reason(*counts: StepCost | int | str) -> str:
    """The first reason why something isn't counted, or ""."""
    return next((count for count in counts if isinstance(count, str)), "")


def _cost_key(options: Any) -> str:
    """A key that is equal for rows of equal cost: float options count only as 0, 1 or another number."""

    def coarse(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: coarse(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [coarse(item) for item in value]
        return (value == 0, value == 1) if isinstance(value, float) else value

    return repr(coarse(options))


@lru_cache(maxsize=256)  # stages of equal rows have the same modules
def _bytes(module: nn.Module) -> int:
    """Size of parameters and buffers, shared ones once."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
