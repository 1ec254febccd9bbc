"""Regularizers that change what the decoder is given in training, and leave all else to another one."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from ..api import Generator, LatentSpec, Noise, Reference, Regularizer, Step
from ..registry import Use, named, use

# What the loops read of a regularizer; a corruption has it from the regularizer on which it stands.
DELEGATED = ("expansion", "extra", "critic_steps", "couples", "gathers", "two_views", "balanced")


class Corruption(Regularizer):
    """A regularizer that changes what the decoder is given in training, by `shown` alone.

    Latents, losses, critics, priors and facts are those of the regularizer `on`. A subclass has the option
    `on` by passing `**options` on to this constructor. Where a subclass has parameters, they are trained
    with the tokenizer.
    """

    def __init__(
        self,
        spec: LatentSpec,
        on: Annotated[Use, Regularizer] = "none",
        classes: int = 0,
        teacher_spec: LatentSpec | None = None,
        reference_spec: LatentSpec | None = None,
        reference_classes: int = 0,
    ) -> None:
        """
        Args:
            on: the regularizer that makes the latents and has the losses on them, such as {kl: {weight:
                1.0e-6}}.

        Raises:
            ValueError: `on` itself changes what the decoder is given.
        """
        super().__init__(spec)
        facts = {"classes": classes, "teacher_spec": teacher_spec}
        facts |= {"reference_spec": reference_spec, "reference_classes": reference_classes}
        self.on = use(Regularizer, on, spec=spec, **facts)
        if type(self.on).shown is not Regularizer.shown:
            raise ValueError(f"on: {named(on)[0]} itself changes what the decoder is given; take another")
        for fact in DELEGATED:
            setattr(self, fact, getattr(self.on, fact))

    @property
    def underlying(self) -> Regularizer:
        return self.on

    def fingerprint(self) -> str | None:
        return self.on.fingerprint()

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        return self.on.latent(h, noise, labels)

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        return self.on.loss(z, h, step)

    def reference(self, reference: Reference) -> Reference:
        return self.on.reference(reference)

    def aligned(self, z: Tensor) -> Tensor:
        return self.on.aligned(z)

    def priors(self) -> dict[str, Generator]:
        return self.on.priors()

    def begin(self, z: Tensor) -> None:
        self.on.begin(z)

    def generator(self) -> Generator | None:
        return self.on.generator()

    def generator_fault(self) -> str | None:
        return self.on.generator_fault()

    def classify(self, z: Tensor) -> Tensor | None:
        return self.on.classify(z)

    def critics(self) -> dict[str, nn.Module]:
        return self.on.critics()

    def critic_loss(self, name: str, z: Tensor, step: Step) -> Tensor:
        return self.on.critic_loss(name, z, step)
