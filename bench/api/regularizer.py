"""The interface of regularizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from .generator import Generator
from .noise import Noise
from .reference import Reference
from .specs import LatentSpec
from .step import Step


class Regularizer(nn.Module):
    """Shapes the latent distribution of a tokenizer; used as it is, it does nothing.

    A constructor that names `classes: int` (0 without labels), `teacher_spec: LatentSpec`, `reference_spec:
    LatentSpec` (tokens, channels and grid of the teacher features and of the unprojected reference) or
    `reference_classes: int` (0 if the reference has no labels) is given them by the frame; naming one
    declares that the method needs it. Other parts are options, `prior: Annotated[Use, Flow] = "tarflow"`,
    which `registry.use` builds.

    Parameters fall into groups by facts: those of `critics()` have optimizers of their own, those of
    `priors()` and whatever doesn't require a gradient are frozen, the rest is trained with the tokenizer.
    """

    version: ClassVar[int] = 1  # part of the cache key: raise it when numbers change
    expansion: ClassVar[int] = 1  # encoder channels per latent channel
    critic_steps: ClassVar[int] = 1  # critic updates per tokenizer update
    couples: ClassVar[str] = ""  # "loss" or "latent": which of them depends on the whole minibatch
    gathers: ClassVar[bool] = False  # and whether it is then gathered from all processes (processes.gathered)
    two_views: ClassVar[bool] = False  # loss() needs `step.views`; the matrix says how images are augmented
    # Terms that loss() returns unweighted, and the size of their gradients at the encoder's head as shares
    # of the reconstruction's: the loop scales them so.
    balanced: Mapping[str, float] = {}
    # Options that reference() and priors() depend on (None: all); the others don't train a prior anew.
    prior_options: ClassVar[frozenset[str] | None] = None

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        self.spec = spec

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        """(B, T, C * expansion) -> (B, T, C); without noise, the deterministic latent."""
        return h

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        """Named, weighted scalars; their gradient reaches the encoder."""
        return {}

    def reference(self, reference: Reference) -> Reference:
        """The reference in the latent's shape and units, sample by sample; a method may have its own way."""
        return reference.projected(self.spec)

    def aligned(self, z: Tensor) -> Tensor:
        """Latents (B, T, C) where `reference()` is: as they are, but for methods that put a head on them."""
        return z

    def priors(self) -> dict[str, Generator]:
        """Submodules that are trained on `reference()` before the tokenizer, then frozen, in eval mode.

        Each is a `prior` stage of its own: the generator loop, on the reference as it is (not normalised),
        with its labels if it has any; the average of its weights is what is kept.
        """
        return {}

    def begin(self, z: Tensor) -> None:
        """Called once before the first update, not on resume: priors are loaded, z (B, T, C) are latents."""

    def generator(self) -> Generator | None:
        """Its own sampler of latents, as the tokenizer gives them (not normalised), if it has one.

        A matrix samples it by the generator `use: joint`, and goes on training it by `init: joint`.
        """
        return None

    def classify(self, z: Tensor) -> Tensor | None:
        """z (B, T, C) -> the class of each (B,), for methods whose latents say it (LZN); None for others."""
        return None

    def critics(self) -> dict[str, nn.Module]:
        """Networks that learn by `critic_loss` with optimizers of their own."""
        return {}

    def critic_loss(self, name: str, z: Tensor, step: Step) -> Tensor:
        """A critic's scalar loss on detached latents z (B, T, C)."""
        raise NotImplementedError(f"{type(self).__name__} has the critic {name!r} but no critic_loss")
