"""The two samples that a method compares which pulls latents to a reference or to N(0, I)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..api import LatentSpec, Noise, Reference, Regularizer, Step, Unfit
from ..runtime.processes import gathered, of_all

Target = Literal["reference", "gaussian"]
Samples = Literal["token", "image"]


class TwoSamples(Regularizer):
    """A regularizer whose loss compares the minibatch's latents with draws of a target, as two samples."""

    couples = "loss"
    gathers = True

    def __init__(
        self, spec: LatentSpec, reference_spec: LatentSpec, target: Target, samples: Samples
    ) -> None:
        """
        Args:
            target: `reference` is the reference of the matrix or of the row; `gaussian` is N(0, I).
            samples: whether single tokens are compared, or whole images.

        Raises:
            Unfit: whole images, of a reference of single tokens.
        """
        super().__init__(spec)
        if samples == "image" and target == "reference" and reference_spec.tokens == 1 < spec.tokens:
            raise Unfit(
                f"a reference of single tokens says nothing of whole latents of {spec.tokens}: "
                "take samples 'token'"
            )
        self.target, self.samples = target, samples

    def reference(self, reference: Reference) -> Reference:
        own = reference.pooled(self.spec) if self.samples == "image" else reference
        return own.projected(self.spec)

    def both(self, z: Tensor, step: Step) -> tuple[Tensor, Tensor, Noise]:
        """Latents (B, T, C) and draws (B, N, C) of all processes, and the noise that these share."""
        z, noise = gathered(z, step.noise), of_all(step.noise)
        if self.target == "gaussian":
            return z, noise.normal(z, "prior"), noise
        assert step.reference is not None
        return z, gathered(step.reference, step.noise), noise
