"""The interfaces of generators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from .errors import Unfit
from .noise import Noise
from .specs import LatentSpec


class Generator(nn.Module):
    """A model of latents z (B, T, C), which the frame normalises by the matrix's `normalise`.

    The loop descends `loss`; a generator without a loss overrides `fit` instead. The frame passes `spec` and
    `classes` (0 without labels) to the constructor and, if it names `teacher_spec: LatentSpec | None`, the
    spec of the teacher's tokens.
    """

    version: ClassVar[int] = 1  # part of the cache key: raise it when numbers change
    # Published names for sets of options: `size: XL` in a matrix stands for the set, and options written
    # beside it win. Constructors and cache keys contain only the options.
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Of the teacher's tokens that `loss` takes as a fourth argument, `features`; None: it takes none.
    teacher_spec: LatentSpec | None = None
    guided: bool = True  # whether guidance changes the samples of a class; if not, no sweep is made

    def __init__(self, spec: LatentSpec, classes: int) -> None:
        super().__init__()
        self.spec, self.classes = spec, classes

    def fingerprint(self) -> str | None:
        """sha256 of files that the part reads besides its weights; "" without any, None if one is missing.

        Cache keys contain it. Files that a plugin's constructor opens by Python are in them anyway.
        """
        return ""

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        """Named scalars whose sum is descended; the generator itself drops labels in training.

        With a `teacher_spec`, a fourth argument `features` (B, N, F) has the teacher's tokens of the images
        that z was encoded from.
        """
        raise NotImplementedError

    def fit(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Estimates the model from one pass over batches of (z, labels), in place of descending a loss."""
        raise NotImplementedError

    @classmethod
    def takes_steps(cls) -> bool:
        """Whether training descends `loss` in steps; otherwise the class has a `fit` of its own."""
        return cls.fit is Generator.fit

    def sample(self, labels: Tensor, guidance: float, noise: Noise) -> Tensor:
        """Latents z (B, T, C), one for each label (B,); -1 is "no class".

        Keyword-only arguments of subclasses are options of sampling (`sampler: {...}` in a matrix). One that
        can be guided by another generator takes it as a fourth argument, `weak`, in place of the absence of a
        label (`autoguidance` in a matrix).
        """
        raise NotImplementedError


class Flow(Generator):
    """A generator by the velocity field of a flow from noise to latents."""

    per_token: ClassVar[bool] = False  # whether a token's velocity depends on that token alone
    conditional: bool = True  # whether the velocity depends on the label

    def velocity(
        self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The velocity: x (B, T, C), t (B,) -> v (B, T, C).

        With `tap`, the pair of v and the hidden tokens (B, T, D) after that block, counted from 1.
        """
        raise NotImplementedError


class Likelihood(Generator):
    """A generator with a tractable density."""

    def log_prob(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The log density of latents: (B, T, C) -> (B,) in nats, summed over tokens and channels."""
        raise NotImplementedError

    def sampling_evaluations(self, guided: bool, sampler: Mapping[str, Any]) -> int:
        """How many times the operations of `log_prob` a sample takes, by the options of `sample`.

        Estimates use it where `sample` takes too many calls to be followed. The default is that of an
        autoregressive flow whose inverse caches keys and values, once for each branch of guidance.
        """
        return 2 if guided else 1

    def sampling_scores(self, guided: bool, sampler: Mapping[str, Any]) -> bool:
        """Whether `sample` takes gradients of the density, which hold activations; none by default."""
        return False

    def tapped(self, z: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        """The log density, and the hidden tokens (B, T, D) after layer `tap`, counted from 1."""
        raise Unfit(f"{type(self).__name__} has no layers with hidden tokens")
