"""The cost of stages that train: a tokenizer with its regularizer, a generator, or a prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..api import FlowTokenizer, Regularizer, ShownSizes
from ..models import build
from ..models.activations import StepCost
from ..store.stage import Stage
from ..training import losses
from ..training.optimizers import DEFAULTS, GENERATOR_DEFAULTS, group_settings
from . import dry_run, passes
from .cost import Cost
from .counts import FLOAT, Counts, bytes_of, method_key, parameters, reason, total_bytes
from .data_cost import mapped_reference
from .dry_run import Training
from .plan import Built

GRADIENT, ADAM = FLOAT, 2 * FLOAT  # bytes a parameter; weights stay in single precision, autocast casts them


def tokenizer_cost(counts: Counts, built: Built, stage: Stage) -> Cost:
    """The cost of training a tokenizer with its regularizer."""
    tokenizer, regularizer, config = built.tokenizer, built.regularizer, stage.config
    assert tokenizer is not None and regularizer is not None
    weights = parameters(tokenizer, regularizer), total_bytes(tokenizer, regularizer)
    steps = config["steps"] + config["refine_steps"]  # refinement of the decoder counts as whole steps
    sets, mapping = _sets(counts, stage, built, regularizer)
    if not steps:
        return _untrained(*weights, sets, mapping)
    # As in the training loop, a generator that is trained along is averaged as other generators are.
    tokenizer_settings, regularizer_settings = config["optimizer"]
    decay = group_settings(DEFAULTS, tokenizer_settings)["ema"]
    regularizer_decay = decay if regularizer.generator() is None else GENERATOR_DEFAULTS["ema"]
    averages = bytes_of(tokenizer) if decay else 0
    if regularizer_settings.get("ema", regularizer_decay):
        averages += bytes_of(regularizer)
    probes = 0
    if config["probes"]:
        times = config["steps"] // config["probes"]["every"] + 1
        spec = tokenizer.spec
        probes = times * config["probes"]["images"] * spec.tokens * spec.channels * FLOAT
    training, image = Training.from_config(config), built.dataset.image
    step = _tokenizer_step(counts, built, config, training)
    if regularizer.shown_sizes != ShownSizes():
        step = _with_shown(counts, built, training, step)
    distance, adversary = counts.once(
        ("loss networks", image), lambda: losses.networks(config["reconstruction"], image)
    )
    networks = [network for network in (distance, adversary) if network is not None]
    if networks:
        key = ("reconstruction", distance, adversary, training)
        step = _sum(
            step,
            counts.count(key, lambda: dry_run.reconstruction_step(distance, adversary, image, training)),
        )
    cost = _trained(
        counts.plan.parameters[stage.id],
        *weights,
        averages,
        training.batch,
        steps,
        step,
        probes,
        dry_run.batch_bytes(built, training.batch),
    )
    if "teacher" in config:
        cost = _with_teacher(cost, config)
    # The networks of losses take memory in training and are not stored.
    learning = parameters(adversary, trainable=True) if adversary is not None else 0
    refined = parameters(tokenizer.decoder, trainable=True) if config["refine_steps"] else 0
    return replace(
        cost,
        parameters=cost.parameters + learning,
        parameters_total=cost.parameters_total + sum(map(parameters, networks)),
        weights_memory_bytes=cost.weights_memory_bytes + total_bytes(*networks),
        optimizer_memory_bytes=cost.optimizer_memory_bytes + learning * (GRADIENT + ADAM) + refined * ADAM,
        temporary_memory_bytes=cost.temporary_memory_bytes + tokenizer.memory_bytes(),
        set_memory_bytes=sets + probes,
        passing_memory_bytes=max(cost.passing_memory_bytes + learning * (FLOAT + ADAM), mapping),
    )


def _with_teacher(cost: Cost, config: Mapping[str, Any]) -> Cost:
    """The cost with the memory of a teacher that describes each batch."""
    memory = cost.temporary_memory_bytes + build.extractor(config["teacher"]).memory_bytes()
    note = cost.note or "without the teacher, which describes each batch"
    return replace(cost, temporary_memory_bytes=memory, note=note)


def _tokenizer_step(
    counts: Counts, built: Built, config: Mapping[str, Any], training: Training
) -> StepCost | str:
    """The sum of the tokenizer's part, which rows share, and of the regularizer's part.

    Rows whose regularizers differ in their strength alone share the regularizer's part, too.
    """
    tokenizer, regularizer = built.tokenizer, built.regularizer
    assert tokenizer is not None and regularizer is not None
    if regularizer.two_views or not tokenizer.decodes or isinstance(tokenizer, FlowTokenizer):
        key: tuple[Any, ...] = ("joint step", tokenizer, regularizer, training)
        return counts.count(key, lambda: dry_run.joint_step(built, training))
    method, encoded = method_key(config), counts.encode(built)
    bare = _bare_step(counts, built, training)

    def regularizer_step(critics: bool) -> StepCost | str:
        key = ("regularizer step", tokenizer, method, training, critics)
        return counts.count(key, lambda: dry_run.regularizer_step(built, training, critics))

    added, critics = regularizer_step(False), regularizer_step(True)
    if isinstance(encoded, str) or isinstance(bare, str):
        return reason(bare, encoded)
    if isinstance(added, str) or isinstance(critics, str):
        return reason(added, critics)
    operations = bare.flops + added.flops + critics.flops
    if regularizer.critics():  # each further update is on newly encoded images
        further = regularizer.critic_steps - 1
        operations += further * (critics.flops + training.batch * encoded)
    activations = max(bare.activations + added.activations, critics.activations)
    # Either part has its peak while the other's activations are kept.
    peak = max(bare.peak + added.activations, bare.activations + added.peak, critics.peak)
    return StepCost(operations, activations, peak, bare.gaps + max(added.gaps, critics.gaps))


def _bare_step(counts: Counts, built: Built, training: Training) -> StepCost | str:
    """A step of a tokenizer without its regularizer; a frozen encoder's part is counted of one image."""
    tokenizer = built.tokenizer
    assert tokenizer is not None
    if not tokenizer.frozen:
        key = ("tokenizer step", tokenizer, training)
        return counts.count(key, lambda: dry_run.tokenizer_step(built, training))
    encoded = counts.encode(built)
    decoding = counts.count(
        ("decoder step", tokenizer, training), lambda: dry_run.decoder_step(built, training)
    )
    if isinstance(encoded, str) or isinstance(decoding, str):
        return reason(encoded, decoding)
    return replace(decoding, flops=decoding.flops + training.batch * encoded)


def _with_shown(counts: Counts, built: Built, training: Training, step: StepCost | str) -> StepCost | str:
    """A step in which the decoder gets other numbers of pixels than those of the images.

    Operations are the expected ones, and memory is that of the largest number.
    """
    assert built.regularizer is not None
    sizes, key = built.regularizer.shown_sizes, ("decoder step", built.tokenizer, training)
    decoding = counts.count(key, lambda: dry_run.decoder_step(built, training))
    if isinstance(step, str) or isinstance(decoding, str):
        return reason(step, decoding)
    more = sizes.most - 1
    return StepCost(
        step.flops + round((sizes.pixels - 1) * decoding.flops),
        step.activations + round(more * decoding.activations),
        step.peak + round(more * decoding.peak),
        step.gaps + round(more * decoding.gaps),
    )


def generator_cost(counts: Counts, built: Built, stage: Stage) -> Cost:
    """The cost of a generator's training, or a prior's."""
    generator, config = built.generator, stage.config
    assert generator is not None
    trainable, size = counts.plan.parameters[stage.id], bytes_of(generator)
    classes, others = built.dataset.classes, _other_networks(counts, built, stage)
    sets, mapping = _sets(counts, stage, built, built.regularizer)
    if not generator.takes_steps():
        key = ("fitting", generator, config["batch"])
        fitting = counts.passing(key, lambda: passes.fitting(generator, classes, config["batch"]))
        return Cost(
            trainable,
            parameters(generator),
            weights_memory_bytes=size,
            temporary_memory_bytes=fitting.peak + others,
            gap_memory_bytes=fitting.gaps,
            set_memory_bytes=sets,
            disk_bytes=size,
        )
    if not config["steps"]:
        return _untrained(parameters(generator), size, sets, mapping)
    training = Training.from_config(config)
    step = counts.count(
        ("generator step", generator, training),
        lambda: dry_run.generator_step(generator, classes, training),
    )
    average = size if group_settings(GENERATOR_DEFAULTS, config["optimizer"])["ema"] else 0
    snapshots = len(config.get("snapshots", ())) * size
    cost = _trained(
        trainable,
        parameters(generator),
        size,
        average,
        training.batch,
        config["steps"],
        step,
        snapshots,
        training.batch * generator.spec.tokens * generator.spec.channels * FLOAT + others,
    )
    if "teacher" in config:
        cost = _with_teacher(cost, config)
    return replace(cost, set_memory_bytes=sets, passing_memory_bytes=max(cost.passing_memory_bytes, mapping))


def _other_networks(counts: Counts, built: Built, stage: Stage) -> int:
    """Bytes of the modules that a generator's or a prior's training loads beside what it trains."""
    if built.regularizer is not None and built.generator is not None:  # a prior and the rest of its method
        return bytes_of(built.regularizer) - bytes_of(built.generator)
    cell = counts.plan.built.get(stage.parents.get("tokenizer", ""))
    return 0 if cell is None else total_bytes(cell.tokenizer, cell.regularizer)


def _sets(counts: Counts, stage: Stage, built: Built, regularizer: Regularizer | None) -> tuple[int, int]:
    """Bytes of the data that a training holds, and of mapping its reference before that, beside it."""
    held = built.dataset.memory_bytes()
    if "reference" not in stage.parents or regularizer is None:
        return held, 0
    lasting, making = mapped_reference(
        counts, stage.parents["reference"], regularizer.spec, regularizer, method_key(stage.config)
    )
    return held + lasting, making - lasting


def _untrained(total: int, weights: int, sets: int, mapping: int) -> Cost:
    """The cost of a stage that stores modules as they were built: `total` parameters, `weights` bytes.

    Args:
        sets, mapping: as of `_sets`.
    """
    return Cost(
        0,
        total,
        weights_memory_bytes=weights,
        set_memory_bytes=sets,
        passing_memory_bytes=mapping,
        disk_bytes=weights,
    )


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
    gradients, temporary, activations, gaps = trainable * GRADIENT, inputs, None, 0
    if isinstance(step, StepCost):
        activations, gaps = step.activations, step.gaps
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
        note=reason(step),
        # A checkpoint is made of copies.
        passing_memory_bytes=weights + trainable * ADAM + averages,
        gap_memory_bytes=gaps,
    )


def _sum(a: StepCost | str, b: StepCost | str) -> StepCost | str:
    """The cost of two parts of a step, or the reason why one of them isn't known."""
    if isinstance(a, str) or isinstance(b, str):
        return reason(a, b)
    peak = max(a.peak + b.activations, a.activations + b.peak)
    return StepCost(a.flops + b.flops, a.activations + b.activations, peak, a.gaps + b.gaps)
