"""Variance expansion against closed values, and against the equilibrium that its theory predicts."""

import math

import numpy as np
import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Step
from latentbench.regularizers.kl import KL
from latentbench.regularizers.variance_expansion import VarianceExpansion, bounded_exp, terms


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(z):
    return Step(0, z, None, Noise(0), lambda z: z)


def test_its_terms_are_the_means_that_numpy_computes():
    logvar, z = randn(3, 4, 5), 3 * randn(3, 4, 5, seed=1)
    expected = (1 / (np.exp(logvar.numpy()) + 0.01)).mean(), np.exp(np.abs(z.numpy()) - 1).mean()
    assert [term.item() for term in terms(logvar, z, 0.01)] == pytest.approx(expected, rel=1e-12)


def test_at_unit_variance_and_unit_latents_both_terms_are_one():
    ones = torch.ones(2, 3, 4, dtype=torch.float64)
    inverse_variance, magnitude = terms(0 * ones, -ones, 1e-6)
    assert inverse_variance.item() == pytest.approx(1 / (1 + 1e-6), rel=1e-12) and magnitude.item() == 1


@pytest.mark.parametrize("delta", [1e-9, 0.005])
def test_with_a_linear_decoder_variances_settle_where_the_theory_says(delta):
    """E|A sigma e|^2 is the sum of sigma_c^2 T_c: at the minimum (sigma_c^2 + delta)^2 is lambda / T_c."""
    decoder, weight = randn(7, 3) * torch.tensor([0.3, 1.0, 4.0]), 0.1
    jacobian = decoder.square().sum(0)
    logvar = torch.zeros(1, 1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logvar], 0.1, 500, tolerance_grad=1e-10, tolerance_change=0)

    def objective():
        optimizer.zero_grad()
        error = (decoder * (0.5 * logvar).exp()).square().sum() / 3  # a mean over latents, as the term
        loss = error + weight * terms(logvar, logvar, delta)[0]
        loss.backward()
        return loss

    optimizer.step(objective)
    variance = logvar.detach()[0, 0].exp()
    torch.testing.assert_close(variance, (weight / jacobian).sqrt() - delta, rtol=1e-5, atol=0)
    if delta < 1e-6:
        torch.testing.assert_close(variance.sqrt(), (weight / jacobian) ** 0.25, rtol=1e-5, atol=0)


@pytest.mark.parametrize("variance", [1e-13, 1e-6, 1.0])
def test_the_first_term_s_gradient_is_bounded_by_delta(variance):
    logvar = torch.full((1, 1, 1), math.log(variance), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(terms(logvar, logvar, 1e-6)[0], logvar)
    assert gradient.item() == pytest.approx(-variance / (variance + 1e-6) ** 2, rel=1e-9)
    assert abs(gradient.item()) <= 1 / (4 * 1e-6) * (1 + 1e-9)


def test_the_second_term_is_the_exponential_up_to_21_and_its_tangent_beyond():
    x = torch.tensor([-1.0, 0.0, 5.0, 19.9, 23.0], dtype=torch.float64, requires_grad=True)
    y = bounded_exp(x)
    expected = [*torch.exp(x[:4]).tolist(), 4 * math.exp(20)]
    assert y.tolist() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.tolist() == pytest.approx([*expected[:4], math.exp(20)], rel=1e-12)


def test_extreme_parameters_leave_losses_and_gradients_finite():
    regularizer = VarianceExpansion(LatentSpec(1, 1))
    for value in (-1e4, 1e4):
        h = torch.tensor([[[value, value]]], requires_grad=True)
        losses = regularizer.loss(regularizer.latent(h, Noise(0)), h, step(h))
        total = losses["inverse_variance"] + losses["magnitude"]
        (gradient,) = torch.autograd.grad(total, h)
        assert total.isfinite() and gradient.isfinite().all()


def test_the_loss_has_both_terms_with_their_weights_and_pulls_latents_and_variances_apart():
    regularizer = VarianceExpansion(LatentSpec(4, 3), variance_weight=0.3, magnitude_weight=0.2, delta=0.5)
    h = randn(5, 4, 6).requires_grad_()
    z = regularizer.latent(h, Noise(0))
    losses, expected = regularizer.loss(z, h, step(z)), terms(h[..., 3:], z, 0.5)
    torch.testing.assert_close(losses["inverse_variance"], 0.3 * expected[0])
    torch.testing.assert_close(losses["magnitude"], 0.2 * expected[1])
    (gradient,) = torch.autograd.grad(losses["inverse_variance"], h, retain_graph=True)
    assert (gradient[..., :3] == 0).all() and (gradient[..., 3:] < 0).all()


def test_latents_are_draws_of_kl_s_posterior():
    h, spec = randn(5, 4, 6).float(), LatentSpec(4, 3)
    for noise in (None, Noise(3)):
        assert torch.equal(VarianceExpansion(spec).latent(h, noise), KL(spec).latent(h, noise))
