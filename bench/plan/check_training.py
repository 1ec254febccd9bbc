"""Checks of what a regularizer's training needs of its row and of its matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from .. import registry
from ..api import Generator, Regularizer, Tokenizer, Unfit
from ..matrix.matrix import MatrixRow
from ..models import build
from ..training import losses
from ..training.reconstruction import check_shown
from .meta_parts import DatasetPlan, MetaParts


def check_training(parts: MetaParts, data: DatasetPlan, row: MatrixRow, regularizer: Regularizer) -> None:
    """Refuses unknown names of optimizers, and losses that lack an input."""
    groups: dict[str, Mapping[str, nn.Module]]
    groups = {"critics": regularizer.critics(), "priors": regularizer.priors()}
    for group, networks in groups.items():
        for name in row.optimizer.get(group, {}):
            if name not in networks:
                message = registry.unknown(f"name in optimizer.{group}", name, list(networks))
                raise parts.refuse(row, message)
    augment = parts.matrix.augment
    if regularizer.two_views and not augment:
        raise Unfit(f"{row.label} compares two views of an image; `augment: {{}}` makes them")
    if (
        augment
        and "teacher_spec" in build.facts_of(type(regularizer.underlying))
        and not data.dataset.decodes
    ):
        raise Unfit(f"{row.label} needs the teacher's features of augmented images")


def check_modules(parts: MetaParts, row: MatrixRow, generator: Generator) -> None:
    """Refuses settings of an optimizer for a module that the generator doesn't have."""
    modules = [name for name, _ in generator.named_children()]
    for name in row.optimizer.get("modules", {}):
        if name not in modules:
            message = registry.unknown("name in optimizer.modules", name, modules)
            raise parts.refuse(row, message)


def check_gradient(model: Tokenizer, row: MatrixRow, regularizer: Regularizer) -> None:
    """Refuses a regularizer that works by the encoder's gradient where the encoder has no parameters."""
    base = regularizer.underlying
    learns = type(base).loss is not Regularizer.loss or base.critics() or base.balanced
    if learns and model.frozen:
        raise Unfit(
            f"{row.label} shapes latents by a loss, and the encoder of {type(model).__name__} is frozen: only"
            " its decoder learns. Take a regularizer without a loss on latents, such as none or denoising"
        )


def check_pairs(
    parts: MetaParts, data: DatasetPlan, model: Tokenizer, row: MatrixRow, regularizer: Regularizer
) -> None:
    """Refuses pairs that the tokenizer cannot decode, or that are too small for the discriminator."""
    check_shown(model, regularizer)
    side, image = regularizer.shown_sizes.side, data.dataset.image
    if side == 1 or "gan" not in parts.matrix.reconstruction:
        return
    smallest = replace(image, height=round(side * image.height), width=round(side * image.width))
    try:
        with torch.device("meta"):
            losses.build_adversary(parts.reconstruction(data), smallest)
    except ValueError as error:
        raise Unfit(f"{row.label} makes images as small as {side:g} of their sides: {error}") from None
