"""The local correlation of latent tokens (SSVAE: Liu et al., 2025, arXiv 2512.05394)."""

from __future__ import annotations

from torch import Tensor


def standardised(z: Tensor) -> Tensor:
    """Latents (B, T, C) with mean 0 and deviation 1 in each channel, over batch and tokens.

    No gradient passes through the means and the (unbiased) deviations.
    """
    fixed = z.detach()
    return (z - fixed.mean((0, 1))) / (fixed.std((0, 1)) + 1e-6)


def window_correlation(z: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean Pearson correlation, over channels, of the pairs of tokens in each 2 x 2 window: () in [-1, 1].

    Windows do not overlap. The mean is over windows, images and the six pairs. A token whose channels are all
    equal correlates with none.

    Args:
        z: latents (B, h w, C), C >= 2.
        grid: (h, w), both even.
    """
    return _products(z, grid).mean() / 12


def correlation_by_image(z: Tensor, grid: tuple[int, int]) -> Tensor:
    """`window_correlation` of each latent alone: z (B, h w, C) -> (B,)."""
    return _products(z, grid).mean((1, 2)) / 12


def _products(z: Tensor, grid: tuple[int, int]) -> Tensor:
    """Twice the sum of the six correlations in each window: z (B, h w, C) -> (B, h/2, w/2)."""
    centred = z - z.mean(-1, keepdim=True)
    unit = centred / (centred.norm(dim=-1, keepdim=True) + 1e-8)
    windows = unit.unflatten(1, (grid[0] // 2, 2, grid[1] // 2, 2))  # (B, h/2, 2, w/2, 2, C)
    # |a + b + c + d|^2 = the four squares + twice the six products
    return windows.sum((2, 4)).square().sum(-1) - windows.square().sum((2, 4, 5))


def local_correlation(z: Tensor, grid: tuple[int, int]) -> Tensor:
    """`window_correlation` of the standardised channels: z (B, h w, C) -> () in [-1, 1]."""
    return window_correlation(standardised(z), grid)
