"""No regularizer: a plain autoencoder, the baseline of all other rows."""

from __future__ import annotations

from ..bench.api import Regularizer
from ..bench.registry import register


@register("none")
class NoRegularizer(Regularizer):
    """No regularizer: the encoder's output is the latent."""
