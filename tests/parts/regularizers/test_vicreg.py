"""VICReg's two terms against numpy's covariance, and where they are 0."""

import numpy as np
import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Step
from latentbench.regularizers.vicreg import VICReg, variance_covariance

STEP = Step(0, torch.zeros(8, 1, 2, 2), None, Noise(0), lambda z: z)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def white(count, channels):
    """A sample whose covariance is the identity, up to rounding."""
    x = randn(count, channels)
    return torch.linalg.qr(x - x.mean(0)).Q * (count - 1) ** 0.5


def test_they_are_the_shortfall_and_the_squared_covariances_of_numpy():
    x = randn(9, 4) * torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64) + 7
    matrix = np.cov(x.numpy(), rowvar=False)
    shortfall = np.maximum(0, 1 - np.sqrt(np.diag(matrix) + 1e-4)).mean()
    squares = sum(matrix[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    variance, covariance = variance_covariance(x)
    assert variance.item() == pytest.approx(shortfall, abs=1e-12)
    assert covariance.item() == pytest.approx(squares, abs=1e-12)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_white_latents_cost_nothing_and_none_the_more_when_scaled_up(scale):
    variance, covariance = variance_covariance(scale * white(50, 4) - 3)
    assert variance == 0 and covariance.item() == pytest.approx(0, abs=1e-24)


def test_scaled_down_only_their_variance_costs_and_repeated_channels_only_their_covariance():
    variance, covariance = variance_covariance(0.5 * white(50, 4))
    assert variance.item() == pytest.approx(1 - 0.2501**0.5) and covariance < 1e-24
    variance, covariance = variance_covariance(white(50, 1).expand(-1, 4))
    assert variance == 0 and covariance.item() == pytest.approx(3)


def test_their_gradients_are_those_of_finite_differences_and_finite_for_collapsed_latents():
    x = (0.5 * randn(6, 3)).requires_grad_()
    assert torch.autograd.gradcheck(variance_covariance, (x,))
    for spread in (0.0, 1e-20, 1e-6):
        near = (1 + spread * randn(64, 3)).float().requires_grad_()
        variance, covariance = variance_covariance(near)
        (variance + covariance).backward()
        assert variance.item() == pytest.approx(0.99, abs=1e-4) and near.grad.isfinite().all()


def test_all_tokens_of_the_minibatch_are_one_sample_and_each_term_has_its_weight():
    z = randn(8, 4, 3)
    losses = VICReg(LatentSpec(4, 3), 5.0, 0.3).loss(z, z, STEP)
    variance, covariance = variance_covariance(z.reshape(32, 3))
    assert losses == {"variance": 5 * variance, "covariance": 0.3 * covariance}


def test_descending_them_gives_uncorrelated_channels_of_variance_1():
    regularizer, x = VICReg(LatentSpec(4, 3), 1.0, 1.0), randn(64, 4, 3).float()
    mixing = torch.tensor([[0.2, 0.0, 0.0], [0.2, 0.1, 0.0], [0.0, 0.1, 0.1]], requires_grad=True)
    optimizer = torch.optim.Adam([mixing], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        z = x @ mixing
        torch.stack([*regularizer.loss(z, z, STEP).values()]).sum().backward()
        optimizer.step()
    found = torch.cov((x @ mixing).detach().flatten(0, 1).T)
    assert (found - found.diagonal().diag()).abs().max() < 0.02 and found.diagonal().min() > 0.95
