"""No regularizer: a plain autoencoder, the row that all others are held against."""

from __future__ import annotations

from ..bench.api import Regularizer
from ..bench.registry import register


@register("none")
class NoRegularizer(Regularizer):
    """No regularizer: the encoder's output is the latent."""
