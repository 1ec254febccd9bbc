"""What a row costs: parameters, floating-point operations of training, wall seconds and peak memory."""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
from torch import Tensor

from ..bench.api import Evaluator, Generator, Metric, Regularizer, Subject, Tokenizer
from ..bench.models import flops
from ..bench.registry import register
from ..bench.training import one_step

Scope = Literal["tokenizer", "generator"]
BATCH = 16  # images or latents that operations are counted on; some losses grow with the square of it
STAGES: dict[Scope, tuple[str, ...]] = {
    "tokenizer": ("features", "reference", "prior", "tokenizer", "latents"),
    "generator": ("generator", "samples"),
}


def tokenizer_step(tokenizer: Tokenizer, regularizer: Regularizer, *batch: Any) -> None:
    """One training step of modules that are frozen by now."""
    tokenizer.train().requires_grad_(True)
    regularizer.requires_grad_(True)
    one_step.tokenizer_step(tokenizer, regularizer, *batch)


def generator_step(generator: Generator, z: Tensor, labels: Tensor | None) -> None:
    """One training step of a module that is frozen by now."""
    one_step.generator_step(generator.train().requires_grad_(True), z, labels)


def stage_costs(costs: dict[str, dict[str, float]], scope: Scope) -> dict[str, float]:
    """Seconds and peak memory by stage; of several with the same first word (`prior/…`), sum and maximum."""
    found: dict[str, float] = {}
    for label, cost in costs.items():
        stage = re.split(r"[^a-z]", label)[0]
        if stage not in STAGES[scope]:
            continue
        if "seconds" in cost:
            found[f"{stage}_seconds"] = found.get(f"{stage}_seconds", 0.0) + cost["seconds"]
        if "peak_memory_bytes" in cost:
            peak = cost["peak_memory_bytes"] / 2**20
            found[f"{stage}_peak_mib"] = max(found.get(f"{stage}_peak_mib", 0.0), peak)
        if "loss_flops_per_image" in cost:
            found["loss_gflop_per_image"] = cost["loss_flops_per_image"] / 1e9
        if "discriminator_parameters" in cost:
            found["discriminator_parameters_million"] = cost["discriminator_parameters"] / 1e6
    return found


@register("cost")
class Cost(Evaluator):
    """Parameters and operations of each part, seconds and memory of each stage."""

    metrics = {
        "tokenizer_parameters_million": Metric(
            "tokenizer", False, "M", "Parameters of encoder and decoder.", cost=True
        ),
        "regularizer_parameters_million": Metric(
            "tokenizer", False, "M", "Parameters of the regularizer, its critics and priors.", cost=True
        ),
        "tokenizer_gflop_per_image": Metric(
            "tokenizer",
            False,
            "GFLOP",
            "Encoding and decoding a training image, forward and backward.",
            cost=True,
        ),
        "regularizer_gflop_per_image": Metric(
            "tokenizer", False, "GFLOP", "What the regularizer's loss and critics add to that.", cost=True
        ),
        "discriminator_parameters_million": Metric(
            "tokenizer", False, "M", "Parameters that the reconstruction's discriminator learns.", cost=True
        ),
        "loss_gflop_per_image": Metric(
            "tokenizer",
            False,
            "GFLOP",
            "What LPIPS and the discriminator add to training on an image.",
            cost=True,
        ),
        "prior_gflop_per_sample": Metric(
            "tokenizer",
            False,
            "GFLOP",
            "Training the regularizer's priors beforehand on a sample of the reference.",
            cost=True,
        ),
        "generator_parameters_million": Metric(
            "generator", False, "M", "Parameters of the generator.", cost=True
        ),
        "generator_gflop_per_latent": Metric(
            "generator", False, "GFLOP", "Training on one latent, forward and backward.", cost=True
        ),
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
        spent = stage_costs(subject.costs, subject.scope)
        if subject.generator is None:
            return spent | _of_tokenizer(subject)
        return spent | _of_generator(subject.generator, subject)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        if name.endswith(("_seconds", "_mib")):
            return {"n": 1, "threads": torch.get_num_threads()}
        if "gflop" in name:
            return {"n": BATCH, "multiply_add": 2, "counted": "matrix products, convolutions, attention"}
        return {"n": 1}


def _of_tokenizer(subject: Subject) -> dict[str, float]:
    tokenizer, regularizer = subject.tokenizer, subject.regularizer
    teacher, device = subject.facts.get("teacher_spec"), next(tokenizer.parameters()).device
    labels = subject.labels("train")
    first = torch.arange(min(BATCH, subject.dataset.size("train")))
    batch = (
        tokenizer,
        regularizer,
        *(
            None if value is None else value[:BATCH].to(device)
            for value in (
                subject.dataset.images("train", first),  # not all: a large set fills the memory
                labels,
                torch.zeros(BATCH, teacher.tokens, teacher.channels) if teacher else None,
                subject.reference("train", own=True).samples if "reference_spec" in subject.facts else None,
            )
        ),
    )
    plain = flops.flops(tokenizer_step, *batch, False)
    priors = regularizer.priors().values()
    reference = subject.reference("train", own=True) if priors else None
    found = {
        "prior_gflop_per_sample": sum(
            _per_latent(prior, reference.samples, reference.labels) for prior in priors if reference
        ),
        "tokenizer_parameters_million": flops.parameters(tokenizer.encoder, tokenizer.decoder) / 1e6,
        "regularizer_parameters_million": flops.parameters(regularizer) / 1e6,
        "tokenizer_gflop_per_image": plain / BATCH / 1e9,
    }
    try:
        added = flops.flops(tokenizer_step, *batch, True) - plain
    except RuntimeError:  # a loss that needs more of a training run than there is here goes without
        return found
    return found | {"regularizer_gflop_per_image": added / BATCH / 1e9}


def _of_generator(generator: Generator, subject: Subject) -> dict[str, float]:
    found = {"generator_parameters_million": flops.parameters(generator) / 1e6}
    if type(generator).loss is Generator.loss:  # nothing to descend
        return found
    # Of val, which is smaller: only shapes matter.
    counted = _per_latent(generator, subject.latents("val"), subject.labels("val"))
    return found | {"generator_gflop_per_latent": counted}


def _per_latent(generator: Generator, z: Tensor, labels: Tensor | None) -> float:
    """GFLOP of training on one of z (n, T, C)."""
    device = next(generator.parameters()).device
    known = None if labels is None else labels[:BATCH].to(device)
    return flops.flops(generator_step, generator, z[:BATCH].to(device), known) / BATCH / 1e9
