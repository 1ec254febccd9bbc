"""The reconstruction losses of an update, of latents as the regularizer shows them to the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..api import Regularizer, Shown, Step, Tokenizer, Unfit
from .losses import Term

Fooling = Callable[[Mapping[str, Tensor], Tensor, Step], dict[str, Tensor]]


@dataclass(frozen=True)
class Reconstruction:
    """The losses of an update's reconstructions."""

    step: Step  # with the images of the first pair
    images: Tensor | None  # reconstructions of the first pair; None for a tokenizer with a loss of its own
    terms: dict[str, Tensor]  # of the first pair
    added: dict[str, Tensor] = field(default_factory=dict)  # of further pairs
    gan: dict[str, Tensor] = field(default_factory=dict)  # the loss against the discriminator, and its weight

    @property
    def losses(self) -> dict[str, Tensor]:
        return self.terms | self.added | self.gan

    @property
    def descended(self) -> list[Tensor]:
        """All losses; the weight of the one against the discriminator is for the curves alone."""
        gan = [self.gan["gan"]] if self.gan else []
        return [*self.terms.values(), *self.added.values(), *gan]


def reconstruct(
    tokenizer: Tokenizer,
    pairs: Sequence[Shown],
    step: Step,
    losses: Mapping[str, Term],
    fooling: Fooling | None,
) -> Reconstruction:
    """Decodes the latents of all pairs and compares the results with the pairs' images.

    Args:
        pairs: what `Regularizer.shown` gives.
        fooling: the losses against a discriminator of the first pair's terms, reconstructions and step.

    Raises:
        Unfit: several pairs, where a tokenizer has a loss of its own.
    """
    first, *others = pairs
    seen = replace(step, images=first.images)
    own = tokenizer.loss(first.images, first.z, seen)
    if own is not None:
        if others:
            raise Unfit(f"{type(tokenizer).__name__} has a loss of its own, which takes one pair of latents")
        return Reconstruction(seen, None, own)

    def compared(pair: Shown, decoded: Tensor) -> dict[str, Tensor]:
        return {name: pair.weight * term(decoded, pair.images, step.index) for name, term in losses.items()}

    images = step.decode(first.z, first.grid)
    terms = compared(first, images)
    gan = {} if fooling is None else fooling(terms, images, seen)
    added = {
        f"{name}/{number}": loss
        for number, pair in enumerate(others, 2)
        for name, loss in compared(pair, step.decode(pair.z, pair.grid)).items()
    }
    return Reconstruction(seen, images, terms, added, gan)


def check_shown(tokenizer: Tokenizer, regularizer: Regularizer) -> None:
    """Raises Unfit where a tokenizer cannot decode what a regularizer shows."""
    if type(regularizer).shown is Regularizer.shown:
        return
    name, model = type(regularizer).__name__, type(tokenizer).__name__
    if not tokenizer.decodes:
        raise Unfit(f"{name} changes what the decoder is given, and {model} only encodes")
    if regularizer.regrids and not tokenizer.regrids:
        raise Unfit(
            f"{name} gives the decoder latents on other grids, and that of {model} takes its own "
            "alone: take a tokenizer with a grid, such as one with a convolutional decoder"
        )
