"""The interface of regularizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from .generator import Generator
from .noise import Noise
from .reference import Reference
from .shown import Shown, ShownSizes
from .specs import LatentSpec
from .step import Step


class Regularizer(nn.Module):
    """A method that shapes the latent distribution of a tokenizer; this base class itself does nothing.

    Facts that the frame passes to a constructor that names them, beside `spec`: `classes: int` (0 without
    labels), `teacher_spec: LatentSpec` and `reference_spec: LatentSpec` (tokens, channels and grid of the
    teacher's features and of the unprojected reference), `reference_classes: int` (0 if the reference has no
    labels). Naming one declares that the method needs it. An option may name another part, `prior:
    Annotated[Use, Flow] = "tarflow"`, which `registry.use` builds.

    The loop trains parameters of `critics()` by optimizers of their own, freezes those of `priors()` and
    those that don't require a gradient, and trains all others with the tokenizer.
    """

    version: ClassVar[int] = 1  # part of the cache key: raise it when numbers change
    expansion: int = 1  # encoder channels per latent channel
    extra: int = 0  # encoder channels beside those
    critic_steps: int = 1  # critic updates per tokenizer update
    couples: str = ""  # "loss" or "latent" if that depends on the whole minibatch
    gathers: bool = False  # whether a coupled minibatch is gathered by `processes.gathered`
    two_views: bool = False  # whether loss() needs `step.views`, by the matrix's `augment`
    regrids: bool = False  # whether shown() gives latents on other grids than the spec's
    shown_sizes: ShownSizes = ShownSizes()  # of what shown() gives, for estimates and checks
    shown_in_refinement: ClassVar[bool] = False  # whether updates of the decoder alone call shown(), too
    # Unweighted terms of loss(): the loop scales each until its gradient at the encoder's head has this share
    # of the norm of the reconstruction's gradient.
    balanced: Mapping[str, float] = {}
    # Options that reference() and priors() depend on (None: all); rows that differ in others share priors.
    prior_options: ClassVar[frozenset[str] | None] = None

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def encoder_outputs(self) -> int:
        """The number of the encoder's outputs for each token."""
        return self.spec.channels * self.expansion + self.extra

    def fingerprint(self) -> str | None:
        """sha256 of files that the part reads besides its weights; "" without any, None if one is missing.

        Cache keys contain it. Files that a plugin's constructor opens by Python are in them anyway.
        """
        return ""

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        """The latent of h: (B, T, C * expansion + extra) -> (B, T, C); without noise, deterministic."""
        return h

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        """Named, weighted scalars, added to the reconstruction loss; their gradient reaches the encoder."""
        return {}

    def shown(self, z: Tensor, step: Step) -> Sequence[Shown]:
        """The pairs of latents and images that the decoder learns from in an update, for latents z (B, T, C).

        The first pair takes the place of z and `step.images`, also for a discriminator; the terms of further
        pairs are added to the reconstruction losses, as `l1/2`. The frame calls this method in updates alone:
        `loss`, critics, probes, caches and evaluators get z itself. Draws that a batch shares are
        `step.noise.shared`.
        """
        return [Shown(z, step.images)]

    @property
    def underlying(self) -> Regularizer:
        """The regularizer that makes the latents: this one or, of a `Corruption`, that on which it stands."""
        return self

    def reference(self, reference: Reference) -> Reference:
        """The reference in the latent's space, sample by sample, for a method that matches single tokens.

        One that matches whole latents returns `reference.pooled(self.spec).projected(self.spec)`.
        """
        return reference.projected(self.spec)

    def aligned(self, z: Tensor) -> Tensor:
        """Latents (B, T, C) in the space of `reference()`; methods with a head on latents override this."""
        return z

    def priors(self) -> dict[str, Generator]:
        """Submodules that are trained on `reference()` before the tokenizer, then frozen in eval mode.

        Each is a `prior` stage: the generator loop on the reference, not normalised, with its labels if it
        has any. The stage keeps the average of the weights.
        """
        return {}

    def begin(self, z: Tensor) -> None:
        """Initialises from latents z (B, T, C); called before the first update, with priors loaded."""

    def generator(self) -> Generator | None:
        """The method's own generator of latents (not normalised), if it has one.

        In a matrix the generator `use: joint` samples it, and `init: joint` goes on training it.
        """
        return None

    def generator_fault(self) -> str | None:
        """Why samples of `generator()` don't follow the latents; None if they do.

        A matrix skips `use: joint` with this reason, as scores of other samples would rank nothing.
        """
        return None

    def classify(self, z: Tensor) -> Tensor | None:
        """The class of each latent, z (B, T, C) -> (B,), if latents determine it (LZN); otherwise None."""
        return None

    def critics(self) -> dict[str, nn.Module]:
        """Networks, by name, that minimise `critic_loss` with optimizers of their own."""
        return {}

    def critic_loss(self, name: str, z: Tensor, step: Step) -> Tensor:
        """A critic's scalar loss on detached latents z (B, T, C)."""
        raise NotImplementedError(f"{type(self).__name__} has the critic {name!r} but no critic_loss")
