"""Reconstruction losses by the name that a matrix gives them, each a mean over all elements."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def l1(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean absolute error: (B, c, H, W), (B, c, H, W) -> ()."""
    return F.l1_loss(reconstruction, images)


def l2(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean squared error: (B, c, H, W), (B, c, H, W) -> ()."""
    return F.mse_loss(reconstruction, images)


RECONSTRUCTION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "l2": l2}
