"""The interfaces of generators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from .errors import Unfit
from .noise import Noise
from .specs import LatentSpec


class Generator(nn.Module):
    """A model of latents z (B, T, C), which come normalised by the matrix's rule.

    A generator either descends `loss` or, where there is nothing to descend, overrides `fit`.
    """

    version: ClassVar[int] = 1
    # Published names for sets of options: `size: XL` in a matrix stands for them, and what is given beside it
    # wins. Constructors and cache keys know the options alone.
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, spec: LatentSpec, classes: int) -> None:
        super().__init__()
        self.spec, self.classes = spec, classes

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        """Named scalars whose sum is descended; dropping labels in training is the generator's business."""
        raise NotImplementedError

    def fit(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Estimates the model from one pass over (z, labels), in place of descending a loss."""
        raise NotImplementedError

    def sample(self, labels: Tensor, guidance: float, noise: Noise) -> Tensor:
        """One z (B, T, C) per label (B,); -1 asks for no class.

        Keyword-only arguments of subclasses are options of the samples stage (`sampler: {...}` in a matrix).
        """
        raise NotImplementedError


class Flow(Generator):
    """A generator with a velocity field."""

    per_token: ClassVar[bool] = False  # whether a token's velocity depends on that token alone
    conditional: bool = True  # whether it depends on the label

    def velocity(
        self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """x (B, T, C), t (B,) -> v (B, T, C), or (v, hidden tokens (B, T, D) after block `tap`)."""
        raise NotImplementedError


class Likelihood(Generator):
    """A generator with a tractable density."""

    def log_prob(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """(B, T, C) -> (B,) in nats, summed over tokens and channels."""
        raise NotImplementedError

    def sampling_evaluations(self, guided: bool, sampler: Mapping[str, Any]) -> int:
        """How many times the operations of `log_prob` a sample takes, by the options of `sample`.

        Estimates use it where `sample` takes too many calls to be followed. The default is that of an
        autoregressive flow whose inverse caches keys and values, once for each branch of guidance.
        """
        return 2 if guided else 1

    def tapped(self, z: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        """log_prob(z, labels), and the hidden tokens (B, T, D) after layer `tap`, counted from 1."""
        raise Unfit(f"{type(self).__name__} has no layers with hidden tokens")
