"""Local correlations against numpy's, pair by pair, and closed forms."""

from itertools import combinations

import numpy as np
import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Step, Unfit
from latentbench.regularizers.lcr import (
    LCR,
    lcr_loss,
    local_correlation,
    standardised,
    window_correlation,
)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_windows(z, grid):
    """The tokens of each 2 x 2 window of each image, by their places in row order."""
    h, w = grid
    for image in z.numpy():
        for row in range(0, h, 2):
            for column in range(0, w, 2):
                yield [image[(row + i) * w + column + j] for i in (0, 1) for j in (0, 1)]


@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (6, 2)])
def test_it_is_numpy_s_correlation_of_each_pair(grid):
    z = 3 * randn(3, grid[0] * grid[1], 5) + randn(5, seed=1)
    channels = z.flatten(0, 1).numpy()
    normal = torch.from_numpy((z.numpy() - channels.mean(0)) / channels.std(0, ddof=1))
    pairs = [
        np.corrcoef(a, b)[0, 1] for window in in_windows(normal, grid) for a, b in combinations(window, 2)
    ]
    assert len(pairs) == 3 * grid[0] * grid[1] // 4 * 6
    assert local_correlation(z, grid).item() == pytest.approx(np.mean(pairs), abs=1e-5)  # 1e-6 beside a std
    direct = [np.corrcoef(a, b)[0, 1] for window in in_windows(z, grid) for a, b in combinations(window, 2)]
    assert window_correlation(z, grid).item() == pytest.approx(np.mean(direct), abs=1e-7)


def test_equal_tokens_correlate_fully_and_independent_ones_do_not():
    alike = randn(8, 4, 16).reshape(8, 2, 1, 2, 1, 16).expand(-1, -1, 2, -1, 2, -1).reshape(8, 16, 16)
    assert local_correlation(alike, (4, 4)).item() == pytest.approx(1, abs=1e-6)
    # Independent Pearson coefficients over C channels have the variance 1 / (C - 1).
    count = 64 * 4 * 6
    assert abs(local_correlation(randn(64, 16, 16, seed=1), (4, 4))) < 4 / (15 * count) ** 0.5
    opposite = torch.stack([alike[:, 0], -alike[:, 0]] * 2, 1)  # 2 pairs of 6 agree, 4 are opposite
    assert window_correlation(opposite, (2, 2)).item() == pytest.approx((2 - 4) / 6, abs=1e-6)


def test_tokens_that_share_a_signal_correlate_by_its_share_of_the_variance():
    signal, noise = randn(400, 1, 64), randn(400, 4, 64, seed=1)
    z = 0.6**0.5 * signal + 0.4**0.5 * noise
    assert local_correlation(z, (2, 2)).item() == pytest.approx(0.6, abs=0.01)


def test_scales_and_shifts_of_channels_and_scales_of_single_tokens_do_not_matter():
    z, grid = randn(3, 24, 5), (4, 6)
    scale, shift = randn(5, seed=1).abs() + 0.1, randn(5, seed=2)
    torch.testing.assert_close(
        local_correlation(z * scale + shift, grid), local_correlation(z, grid), atol=1e-5, rtol=0
    )
    factors, constants = randn(3, 24, 1, seed=3).abs() + 0.1, randn(3, 24, 1, seed=4)
    torch.testing.assert_close(
        window_correlation(z * factors + constants, grid), window_correlation(z, grid), atol=1e-6, rtol=0
    )


def test_no_gradient_passes_through_means_and_deviations():
    z, w = randn(3, 16, 4).requires_grad_(), randn(3, 16, 4, seed=1)
    (gradient,) = torch.autograd.grad((standardised(z) * w).sum(), z)
    torch.testing.assert_close(gradient, w / (z.detach().std((0, 1)) + 1e-6))
    mean, std = z.detach().mean((0, 1)), z.detach().std((0, 1)) + 1e-6
    fixed = torch.autograd.grad(window_correlation((z - mean) / std, (4, 4)), z)[0]
    assert torch.equal(torch.autograd.grad(local_correlation(z, (4, 4)), z)[0], fixed)
    assert torch.autograd.gradcheck(lambda z: window_correlation(z, (4, 4)), z)


def test_the_loss_ends_at_the_threshold_and_descends_to_it():
    z = randn(4, 16, 6).requires_grad_()
    found = local_correlation(z, (4, 4)).item()
    assert lcr_loss(z, (4, 4), found + 0.3).item() == pytest.approx(0.3)
    assert lcr_loss(z, (4, 4), found - 0.3).item() == 0
    optimizer = torch.optim.SGD([z], lr=2.0)
    for _ in range(100):
        optimizer.zero_grad()
        lcr_loss(z, (4, 4), 0.75).backward()
        optimizer.step()
    assert local_correlation(z, (4, 4)).item() == pytest.approx(0.75, abs=0.02)


def test_tokens_without_a_direction_leave_the_gradient_finite():
    z = torch.zeros(2, 4, 3, requires_grad=True)
    lcr_loss(z, (2, 2), 0.75).backward()
    assert z.grad.isfinite().all()


def test_the_loop_gets_the_share_of_the_gradient_in_place_of_a_factor():
    regularizer, z = LCR(LatentSpec(16, 4, (4, 4)), weight=0.5), randn(3, 16, 4)
    step = Step(0, torch.zeros(3, 1, 8, 8), None, Noise(0), lambda z: z)
    assert regularizer.balanced == {"lcr": 0.5}
    assert torch.equal(regularizer.loss(z, z, step)["lcr"], lcr_loss(z, (4, 4), 0.75))
    assert LCR(LatentSpec(16, 4, (4, 4))).balanced == {"lcr": pytest.approx(0.1 * 0.02)}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (LatentSpec(16, 4), "there is none"),
        (LatentSpec(12, 4, (4, 3)), "4 x 3"),
        (LatentSpec(16, 1, (4, 4)), "at least 2"),
    ],
)
def test_latents_without_windows_or_channels_to_compare_are_unfit(spec, why):
    with pytest.raises(Unfit, match=why):
        LCR(spec)
