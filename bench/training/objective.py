"""The losses and the budget of a tokenizer's training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..data.augment import Augmentation
from ..runtime.processes import ALONE, Group
from .adversary import Adversary
from .losses import Term


@dataclass(frozen=True)
class Objective:
    """The losses of a tokenizer beside those of its regularizer, and the augmentation of its images."""

    reconstruction: Mapping[str, Term]  # by name
    adversary: Adversary | None = (
        None  # trained along; the loss of fooling it joins the reconstruction losses
    )
    adversary_optimizer: Mapping[str, Any] = field(default_factory=dict)  # over the tokenizer's settings
    augmentation: Augmentation | None = None  # of all training images, drawn anew at every update


@dataclass(frozen=True)
class TrainingBudget:
    """How many updates a tokenizer gets, of how many images each."""

    steps: int
    batch: int
    refine_steps: int = 0  # further updates of the decoder alone
    probes: Mapping[str, int] | None = None  # {"every": updates, "images": n}: keeps latents along training

    @property
    def total(self) -> int:
        return self.steps + self.refine_steps


def merge_losses(
    terms: dict[str, Tensor], regularizer_terms: dict[str, Tensor], critics: Iterable[str]
) -> dict[str, Tensor]:
    """The losses of an update together.

    Raises:
        ValueError: two losses have the same name, so that one would hide the other.
    """
    taken = {**dict.fromkeys(terms, "a reconstruction loss"), **dict.fromkeys(critics, "a critic")}
    taken |= {"step": "the curves' axis", "gan_discriminator": "the discriminator's loss"}
    for name in regularizer_terms:
        if name in taken:
            raise ValueError(f"the regularizer calls a loss {name!r}, which is the name of {taken[name]}")
    return terms | regularizer_terms


def balance(
    regularizer_terms: dict[str, Tensor],
    terms: dict[str, Tensor],
    shares: Mapping[str, float],
    head: nn.Parameter,
    group: Group = ALONE,
) -> dict[str, Tensor]:
    """Scales terms by share * |d reconstruction / d head| / |d term / d head|, detached (VQGAN; VA-VAE)."""
    if not shares:
        return regularizer_terms
    total = sum(terms.values())
    target = group.mean(torch.autograd.grad(total, head, retain_graph=True)[0]).norm()  # type: ignore[arg-type]
    balanced = dict(regularizer_terms)
    for name, share in shares.items():
        term = regularizer_terms[name]
        norm = group.mean(torch.autograd.grad(term, head, retain_graph=True)[0]).norm()
        balanced[name] = term * (share * (target / (norm + 1e-4)).clamp(0, 1e8).detach())
    return balanced
