"""How a trained tokenizer's latent comes of its encoder's output, in the terms of diffusers' autoencoders."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..api import Noise
from ..data.fixed_order import fixed_order
from ..nn.autoencoder_kl import constant_log_variance
from ..stages.trained_cell import TrainedCell
from ..user_error import UserError

COMPARED = 8  # held-out images that latents are compared on
CLOSE = 1e-5  # difference of latents


class ExportError(UserError, ValueError):
    """A tokenizer that a format cannot express, or a folder that has something in it."""


@dataclass(frozen=True)
class Posterior:
    """A normal distribution of an image's latent.

    Its mean is the encoder's, after layer norm over the channels where `layer_norm` says so. Its log-variance
    is the encoder's, too, or else that of `std`. `notes` tell what it lacks of training's latents.
    """

    own_variance: bool
    std: float = 0.0
    layer_norm: bool = False
    notes: list[str] = field(default_factory=list)

    def moments(self, h: Tensor) -> Tensor:
        """Means and log-variances (B, T, 2 C) of the encoder's output h."""
        if self.own_variance:
            return h
        mean = F.layer_norm(h, h.shape[-1:]) if self.layer_norm else h
        return torch.cat([mean, torch.full_like(h, constant_log_variance(self.std))], -1)


def posterior_of(cell: TrainedCell) -> Posterior:
    """The posterior of a trained tokenizer, found by comparing latents of held-out images.

    Raises:
        ExportError: a latent isn't what the encoder gives of one image alone, or a layer norm of it.
    """
    tokenizer, regularizer, dataset = cell.tokenizer, cell.regularizer, cell.dataset
    shown = fixed_order(dataset.size("val"))[:COMPARED]
    h, channels, noise = tokenizer.encode(dataset.images("val", shown)), tokenizer.spec.channels, Noise(0)
    mean, drawn = regularizer.latent(h, None), regularizer.latent(h, noise)
    added, unit = drawn - mean, noise.normal(mean, "posterior")
    candidates = [h[..., :channels], F.layer_norm(h[..., :channels], (channels,))]
    same = [torch.allclose(mean, one, atol=CLOSE) for one in candidates]
    if regularizer.couples == "latent":
        raise ExportError(
            "a latent isn't what the encoder gives of one image alone, and that is all a file can hold of it"
        )
    if not any(same):
        raise ExportError(
            f"the latent of {type(regularizer.underlying).__name__} is neither what the encoder gives nor a "
            "layer norm of it, and a file can hold no other"
        )
    if regularizer.expansion == 2:
        own = (0.5 * h[..., channels:].clamp(-30, 20)).exp() * unit
        lacks = "Latents had more noise in training than this posterior has."
        return Posterior(True, notes=[] if torch.allclose(added, own, atol=CLOSE) else [lacks])
    std, notes = float((added / unit).median()), []
    if not torch.allclose(added, std * unit, atol=CLOSE):
        std, notes = 0.0, ["Latents had noise in training that this posterior lacks: a draw is the mean."]
    elif std:
        notes = [f"Its posterior has the constant standard deviation {std:.4g}, as in training."]
    return Posterior(False, std, not same[0], notes)
