"""The cost of a row: parameters, floating-point operations of training, wall seconds and peak memory."""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
from torch import Tensor

from ..bench.api import Evaluator, Generator, Metric, Regularizer, Subject, SubjectSizes, Tokenizer
from ..bench.models import flops
from ..bench.models.activations import bytes_of
from ..bench.registry import register
from ..bench.training import one_step

Scope = Literal["tokenizer", "generator"]
BATCH = 16  # images or latents whose operations are counted; some losses grow with its square
STAGES: dict[Scope, tuple[str, ...]] = {
    "tokenizer": ("features", "reference", "prior", "tokenizer", "latents"),
    "generator": ("generator", "samples"),
}
ABOUT: dict[Scope, dict[str, str]] = {  # millions of parameters, and GFLOP
    "tokenizer": {
        "tokenizer_parameters_million": "Parameters of encoder and decoder.",
        "regularizer_parameters_million": "Parameters of the regularizer, its critics and priors.",
        "tokenizer_gflop_per_image": "Encoding and decoding a training image, forward and backward.",
        "regularizer_gflop_per_image": (
            "What the regularizer adds to that: its loss, its critics, and decoding more pixels (or fewer)."
        ),
        "discriminator_parameters_million": "Parameters that the reconstruction's discriminator learns.",
        "loss_gflop_per_image": "What LPIPS and the discriminator add to training on an image.",
        "prior_gflop_per_sample": (
            "Training the regularizer's priors beforehand on a sample of the reference."
        ),
    },
    "generator": {
        "generator_parameters_million": "Parameters of the generator.",
        "generator_gflop_per_latent": "Training on one latent, forward and backward.",
    },
}


def tokenizer_step(tokenizer: Tokenizer, regularizer: Regularizer, *batch: Any) -> None:
    """One training step of a tokenizer and a regularizer that were frozen after training."""
    tokenizer.train().requires_grad_(True)
    regularizer.requires_grad_(True)
    one_step.tokenizer_step(tokenizer, regularizer, *batch)


def decoder_step(tokenizer: Tokenizer, z: Tensor, labels: Tensor | None) -> None:
    """The decoder's part of a training step of a tokenizer that was frozen after training."""
    tokenizer.train().requires_grad_(True)
    one_step.decoder_step(tokenizer, z, labels)


def generator_step(generator: Generator, z: Tensor, labels: Tensor | None) -> None:
    """One training step of a generator that was frozen after training."""
    one_step.generator_step(generator.train().requires_grad_(True), z, labels)


def stage_costs(costs: dict[str, dict[str, float]], scope: Scope) -> dict[str, float]:
    """Seconds, peak memory and further costs of the scope's stages, by metric name.

    Stages with the same first word (`prior/…`) are combined: sum of seconds, maximum of memory.
    """
    metrics: dict[str, float] = {}
    for label, cost in costs.items():
        stage = re.split(r"[^a-z]", label)[0]
        if stage not in STAGES[scope]:
            continue
        if "seconds" in cost:
            metrics[f"{stage}_seconds"] = metrics.get(f"{stage}_seconds", 0.0) + cost["seconds"]
        if "peak_memory_bytes" in cost:
            peak = cost["peak_memory_bytes"] / 2**20
            metrics[f"{stage}_peak_mib"] = max(metrics.get(f"{stage}_peak_mib", 0.0), peak)
        if "loss_flops_per_image" in cost:
            metrics["loss_gflop_per_image"] = cost["loss_flops_per_image"] / 1e9
        if "discriminator_parameters" in cost:
            metrics["discriminator_parameters_million"] = cost["discriminator_parameters"] / 1e6
    return metrics


@register("cost")
class Cost(Evaluator):
    """Parameters and operations of each part, seconds and memory of each stage."""

    metrics = {
        name: Metric(scope, False, "GFLOP" if "gflop" in name else "M", about, cost=True)
        for scope, abouts in ABOUT.items()
        for name, about in abouts.items()
    } | {
        f"{stage}_{suffix}": Metric(scope, False, unit, about.format(stage), cost=True)
        for scope, stages in STAGES.items()
        for stage in stages
        for suffix, unit, about in (
            ("seconds", "s", "Wall time of the {} stage."),
            ("peak_mib", "MiB", "Peak memory of the {} stage."),
        )
    }

    def run(self, subject: Subject) -> dict[str, float]:
        if subject.real:
            return {}
        costs = stage_costs(subject.costs, subject.scope)
        if subject.generator is None:
            return costs | _tokenizer_costs(subject)
        return costs | _generator_costs(subject.generator, subject)

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        # Copies without values are first copied with them.
        if sizes.generator is not None:
            sizes.latents("val")
            return bytes_of(sizes.generator)
        if sizes.tokenizer is None or sizes.regularizer is None:
            return 0
        if sizes.reads_reference:
            sizes.reference("train", own=True)
        return bytes_of(sizes.tokenizer) + bytes_of(sizes.regularizer)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        if name.endswith(("_seconds", "_mib")):
            return {"n": 1, "threads": torch.get_num_threads()}
        if "gflop" in name:
            return {"n": BATCH, "multiply_add": 2, "counted": "matrix products, convolutions, attention"}
        return {"n": 1}


def _tokenizer_costs(subject: Subject) -> dict[str, float]:
    tokenizer, regularizer = subject.tokenizer, subject.regularizer
    device = next(tokenizer.parameters()).device

    def first_rows(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[:BATCH].to(device)

    teacher = subject.facts.get("teacher_spec")
    features = torch.zeros(BATCH, teacher.tokens, teacher.channels) if teacher else None
    priors, loss_has_reference = regularizer.priors().values(), "reference_spec" in subject.facts
    reference = subject.reference("train", own=True) if priors or loss_has_reference else None
    # Only the first images: a large set doesn't fit into memory.
    index = torch.arange(min(BATCH, subject.dataset.size("train")))
    labels = first_rows(subject.labels("train"))
    batch = (
        tokenizer,
        regularizer,
        first_rows(subject.dataset.images("train", index)),
        labels,
        first_rows(features),
        first_rows(reference.samples if reference and loss_has_reference else None),
    )
    plain = flops.flops(tokenizer_step, *batch, False)
    costs = {
        "prior_gflop_per_sample": sum(
            _gflop_per_latent(prior, reference.samples, reference.labels) for prior in priors if reference
        ),
        "tokenizer_parameters_million": flops.parameters(tokenizer.encoder, tokenizer.decoder) / 1e6,
        "regularizer_parameters_million": flops.parameters(regularizer) / 1e6,
        "tokenizer_gflop_per_image": plain / BATCH / 1e9,
    }
    try:
        added = flops.flops(tokenizer_step, *batch, True) - plain
    except RuntimeError:  # losses that need more of a training run than this one step have no such cost
        return costs
    added += _shown_flops(tokenizer, regularizer, labels)
    return costs | {"regularizer_gflop_per_image": added / BATCH / 1e9}


def _shown_flops(tokenizer: Tokenizer, regularizer: Regularizer, labels: Tensor | None) -> int:
    """Operations of decoding more, or fewer, pixels than those of the images, forward and backward."""
    more = regularizer.shown_sizes.pixels - 1
    if not more:
        return 0
    count = BATCH if labels is None else len(labels)
    z = torch.zeros(count, tokenizer.spec.tokens, tokenizer.spec.channels)
    z = z.to(next(tokenizer.parameters()).device)
    return round(more * flops.flops(decoder_step, tokenizer, z, labels))


def _generator_costs(generator: Generator, subject: Subject) -> dict[str, float]:
    costs = {"generator_parameters_million": flops.parameters(generator) / 1e6}
    if type(generator).loss is Generator.loss:  # it is fitted in closed form
        return costs
    # Only shapes matter, so the smaller split will do.
    gflop = _gflop_per_latent(generator, subject.latents("val"), subject.labels("val"))
    return costs | {"generator_gflop_per_latent": gflop}


def _gflop_per_latent(generator: Generator, z: Tensor, labels: Tensor | None) -> float:
    """GFLOP of a training step on latents z (n, T, C), per latent."""
    device = next(generator.parameters()).device
    batch_labels = None if labels is None else labels[:BATCH].to(device)
    return flops.flops(generator_step, generator, z[:BATCH].to(device), batch_labels) / BATCH / 1e9
