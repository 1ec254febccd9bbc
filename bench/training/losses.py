"""Reconstruction losses by the name that a matrix gives them: l1, l2, lpips and gan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..api import ImageSpec
from .adversary import Adversarial, Adversary, Updates, Weight, discriminator


def l1(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean absolute error: (B, c, H, W), (B, c, H, W) -> ()."""
    return F.l1_loss(reconstruction, images)


def l2(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean squared error: (B, c, H, W), (B, c, H, W) -> ()."""
    return F.mse_loss(reconstruction, images)


RECONSTRUCTION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "l2": l2}


@dataclass(frozen=True)
class Perceptual:
    """The options of `lpips` in a matrix; the loss is the mean distance of image and reconstruction.

    Args:
        weight: factor of the loss.
        network: network whose features are compared.
        weights: torchvision's file, `random`, or null: torch.hub's cache or a download.
        ramp: updates over which the weight rises from 0 (SoftVQ: 10,000).
    """

    has_optimizer: ClassVar[bool] = False

    weight: Weight = 1.0
    network: Literal["alex", "vgg"] = "vgg"
    weights: str | None = None
    ramp: Updates = 0


LOSSES: dict[str, type] = {"lpips": Perceptual, "gan": Adversarial}


@dataclass(frozen=True)
class Term:
    """A reconstruction loss, (B, c, H, W) twice -> (), with its weight, which may rise from 0 at first."""

    weight: float
    function: Callable[[Tensor, Tensor], Tensor]
    ramp: int = 0  # updates over which the weight rises

    def __call__(self, reconstruction: Tensor, images: Tensor, update: int) -> Tensor:
        share = min(1.0, update / self.ramp) if self.ramp else 1.0
        return self.weight * share * self.function(reconstruction, images)


def terms(config: Mapping[str, Any]) -> dict[str, Term]:
    """The reconstruction losses of a matrix, in its order, on torch's default device; `gan` is left out."""
    losses: dict[str, Term] = {}
    for name in config:
        if name in RECONSTRUCTION:
            losses[name] = Term(config[name], RECONSTRUCTION[name])
        elif name == "lpips":
            from ..metrics.lpips import Distance, Lpips

            options = Perceptual(**config["lpips"] | {"weights": weights_path(config["lpips"]["weights"])})
            lpips = Distance(Lpips(options.network, options.weights))
            losses["lpips"] = Term(options.weight, lpips, options.ramp)
    return losses


def networks(config: Mapping[str, Any], image: ImageSpec) -> tuple[nn.Module | None, Adversary | None]:
    """The perceptual distance and the discriminator of a matrix, on the meta device, for cost estimates."""
    with torch.device("meta"):
        perceptual = terms({name: config[name] for name in config if name == "lpips"})
        distance = perceptual["lpips"].function if perceptual else None
        assert distance is None or isinstance(distance, nn.Module)
        return distance, build_adversary(config, image)


def build_adversary(config: Mapping[str, Any], image: ImageSpec) -> Adversary | None:
    """The discriminator of a matrix, if it has one."""
    if "gan" not in config:
        return None
    settings = {key: value for key, value in config["gan"].items() if key != "optimizer"}
    options = Adversarial(**settings | {"dino": weights_path(settings["dino"])})
    return Adversary(discriminator(options, image), options)


def weights_path(weights: Any) -> str | None:
    """A matrix's value for a network's weights (a path, random or None), from a stage's config."""
    return weights["file"] if isinstance(weights, Mapping) else weights
