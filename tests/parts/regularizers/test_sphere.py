"""Spherical latents against quadrature, scipy's Beta distribution and moments of the power spherical one."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from latentbench.bench.api import LatentSpec, Noise, Step, Unfit
from latentbench.bench.metrics.latent_loss import sees_latents_alone
from latentbench.bench.models.normal_draws import normal_moments
from latentbench.regularizers.sphere import (
    Sphere,
    around,
    far_share,
    power_spherical_kl,
    power_spherical_sample,
    uniforms,
)

DIMENSIONS = [2, 3, 4, 16, 17]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def kl(kappa, channels):
    return power_spherical_kl(torch.tensor(float(kappa), dtype=torch.float64), channels).item()


def draws(kappa, channels, count, seed=0):
    """Draws of the share, with the concentrations that they were made of, for their gradients."""
    kappas = torch.full((count,), float(kappa), dtype=torch.float64, requires_grad=True)
    return far_share(kappas, rand(count, uniforms(channels), seed=seed), channels), kappas


def step(z):
    return Step(0, z, None, Noise(0), lambda z: z)


@pytest.mark.parametrize("channels", [2, 3, 16, 64])
def test_at_kappa_0_the_distribution_is_uniform_and_the_divergence_zero(channels):
    assert kl(0, channels) == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize(("kappa", "nats"), [(1, 0.0322), (10, 1.3929), (100, 10.8717)])
def test_in_16_dimensions_the_divergence_has_known_values(kappa, nats):
    assert kl(kappa, 16) == pytest.approx(nats, abs=5e-5)


def by_quadrature(kappa, channels):
    """The divergence as an integral over the angle from mu, whose uniform density is sin^(C - 2)."""

    def expected(f):
        width = min(math.pi, 40 * math.sqrt(channels / (kappa + 1)))  # beyond it there is nothing
        pieces = np.linspace(0, width, 41)
        ends = zip(pieces[:-1], pieces[1:], strict=True)
        return sum(integrate.quad(f, *piece, epsabs=0, epsrel=1e-12)[0] for piece in ends)

    def log_tilt(angle):
        return 2 * kappa * math.log(math.cos(angle / 2)) if angle < math.pi else -1e3

    area = special.beta((channels - 1) / 2, 0.5)  # the integral of sin^(C - 2) over the angle
    tilted = expected(lambda t: math.sin(t) ** (channels - 2) * math.exp(log_tilt(t)))
    mean = expected(lambda t: math.sin(t) ** (channels - 2) * math.exp(log_tilt(t)) * log_tilt(t)) / tilted
    return mean - math.log(tilted / area)


@pytest.mark.parametrize("channels", DIMENSIONS)
@pytest.mark.parametrize("kappa", [0.5, 3.7, 100, 1e4])
def test_the_divergence_is_that_of_quadrature(kappa, channels):
    assert kl(kappa, channels) == pytest.approx(by_quadrature(kappa, channels), abs=1e-9)


@pytest.mark.parametrize("channels", [2, 16, 768])
def test_in_single_precision_the_divergence_and_its_gradient_are_those_of_scipy_s_trigamma(channels):
    kappa = torch.logspace(0, 6, 50).requires_grad_()
    value = power_spherical_kl(kappa, channels)
    (gradient,) = torch.autograd.grad(value.sum(), kappa)
    assert value.dtype == torch.float32
    k, b = kappa.detach().double().numpy(), (channels - 1) / 2
    exact = k * (special.polygamma(1, k + b) - special.polygamma(1, k + 2 * b))
    np.testing.assert_allclose(gradient.numpy(), exact, rtol=1e-5)
    np.testing.assert_allclose(value.detach().numpy(), [kl(one, channels) for one in k], rtol=1e-6)


@pytest.mark.parametrize("channels", DIMENSIONS)
@pytest.mark.parametrize("kappa", [1.0, 3.7, 100.0, 1e4])
def test_draws_have_the_beta_distribution_of_scipy(kappa, channels):
    b = (channels - 1) / 2
    far = draws(kappa, channels, 20_000)[0].detach().numpy()
    assert stats.kstest(far, stats.beta(b, kappa + b).cdf).pvalue > 1e-3


def test_in_three_dimensions_a_draw_is_the_quantile_and_its_gradient_that_of_quantiles():
    kappa = torch.full((9,), 2.5, dtype=torch.float64, requires_grad=True)
    uniform = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    far = far_share(kappa, uniform[:, None], 3)
    (gradient,) = torch.autograd.grad(far.sum(), kappa)
    below, here, above = (stats.beta(1, 3.5 + h).ppf(uniform.numpy()) for h in (-1e-5, 0, 1e-5))
    np.testing.assert_allclose(far.detach().numpy(), here, rtol=1e-10)
    np.testing.assert_allclose(gradient.numpy(), (above - below) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("channels", DIMENSIONS)
def test_the_gradient_of_draws_is_that_of_finite_differences(channels):
    kappa, uniform = 1 + 5 * rand(6, seed=1), rand(6, uniforms(channels))
    assert torch.autograd.gradcheck(lambda k: far_share(k, uniform, channels), kappa.requires_grad_())


@pytest.mark.parametrize("channels", DIMENSIONS)
@pytest.mark.parametrize("kappa", [1.0, 8.0])
def test_given_a_draw_its_gradient_is_on_average_that_of_its_quantile(kappa, channels):
    """A quantile at a fixed probability has the derivative -(dF / d kappa) / density."""
    far, kappas = draws(kappa, channels, 100_000)
    (gradient,) = torch.autograd.grad(far.sum(), kappas)
    x, b, h = far.detach().sort()[0].numpy(), (channels - 1) / 2, 1e-4
    low, law, high = (stats.beta(b, kappa + b + change) for change in (-h, 0, h))
    exact = -(high.cdf(x) - low.cdf(x)) / (2 * h) / law.pdf(x)
    apart = (gradient[far.argsort()].numpy() - exact).reshape(10, -1)  # by tenths of the draws' values
    assert (np.abs(apart.mean(1)) < 4.5 * apart.std(1) / 100 + 1e-7).all()


@pytest.mark.parametrize("channels", [2, 3, 16])
def test_samples_have_the_moments_of_the_power_spherical_distribution(channels):
    count, kappa, b = 100_000, 5.0, (channels - 1) / 2
    mu = torch.nn.functional.normalize(randn(channels, seed=1), dim=0)
    far = draws(kappa, channels, count)[0].detach()
    kappas, normal = torch.full((count,), kappa).double(), randn(count, channels - 1, seed=2)
    x = power_spherical_sample(mu.expand(count, -1), kappas, 1 - far, normal)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(count).double())
    torch.testing.assert_close(x @ mu, 1 - 2 * far)
    along = stats.beta(kappa + b, b)  # of (1 + mu . x) / 2
    assert (x @ mu).mean().item() == pytest.approx(kappa / (kappa + 2 * b), abs=0.005)  # (a - b) / (a + b)
    torch.testing.assert_close(x.mean(0), kappa / (kappa + 2 * b) * mu, atol=0.01, rtol=0)
    second = 4 * along.var() + (2 * along.mean() - 1) ** 2
    outer = torch.outer(mu, mu)
    expected = second * outer + (1 - second) / (channels - 1) * (torch.eye(channels) - outer)
    torch.testing.assert_close(x.T @ x / count, expected, atol=0.01, rtol=0)


def test_the_reflection_carries_the_first_axis_to_the_mean_and_stays_finite_there():
    mu = torch.nn.functional.normalize(randn(4, 5), dim=1)
    mu[1], mu[2], mu[3] = torch.eye(5)[0], -torch.eye(5)[0], torch.zeros(5)
    mu.requires_grad_()
    normal = randn(4, 4, seed=1)
    torch.testing.assert_close(around(mu, 1e-30 * torch.ones(4).double(), normal)[:3], mu[:3])
    x = around(mu, torch.full((4,), 0.3).double(), normal)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(4).double())
    across = 2 * math.sqrt(0.3 * 0.7) * normal[1] / normal[1].norm()
    torch.testing.assert_close(x[1], torch.cat([torch.tensor([0.4]).double(), across]))
    (gradient,) = torch.autograd.grad(x.sum(), mu)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("channels", DIMENSIONS)
def test_latents_lie_on_the_sphere_of_radius_sqrt_c_around_the_mean_direction(channels):
    regularizer = Sphere(LatentSpec(4, channels))
    h = torch.randn(50, 4, channels + 1, generator=generator())
    mean, z = regularizer.latent(h, None), regularizer.latent(h, Noise(0))
    for latent in (mean, z):
        torch.testing.assert_close(latent.norm(dim=-1), torch.full((50, 4), channels**0.5), rtol=1e-5, atol=0)
    directions = torch.nn.functional.normalize(h[..., :-1], dim=-1)
    torch.testing.assert_close(mean, channels**0.5 * directions)
    h[..., -1] = 1e5
    torch.testing.assert_close(regularizer.latent(h, Noise(0)), mean, atol=0.1, rtol=0)


def test_at_a_large_concentration_single_precision_keeps_the_spread():
    h = torch.cat([torch.ones(20_000, 1, 16), torch.full((20_000, 1, 1), 1e6)], -1)
    regularizer = Sphere(LatentSpec(1, 16))
    apart = (regularizer.latent(h, Noise(0)) - regularizer.latent(h, None)).square().sum(-1).mean() / 16
    assert apart.item() == pytest.approx(4 * 7.5 / (1e6 + 15), rel=0.02)  # 2 (1 - E mu . x)


@pytest.mark.parametrize("value", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("channels", [2, 3, 16])
def test_extreme_encoders_leave_latents_losses_and_gradients_finite(channels, value):
    regularizer = Sphere(LatentSpec(64, channels))
    h = torch.full((64, 64, channels + 1), value, requires_grad=True)
    z = regularizer.latent(h, Noise(0))
    (gradient,) = torch.autograd.grad(z.sum() + regularizer.loss(z, h, step(z))["kl"], h)
    assert z.isfinite().all() and gradient.isfinite().all()


def test_uniform_values_of_zero_give_a_share_above_zero_with_a_finite_root():
    for channels in DIMENSIONS:
        kappa = torch.tensor([1.0, 1e6], requires_grad=True)
        far = far_share(kappa, torch.zeros(2, uniforms(channels)), channels)
        (gradient,) = torch.autograd.grad(far.sqrt().sum(), kappa)
        assert (far > 0).all() and gradient.isfinite().all()


def test_the_loss_is_the_weighted_mean_over_tokens_and_images():
    h = randn(3, 4, 9)
    kappa = np.log1p(np.exp(h[..., -1].numpy())) + 1
    expected = 0.3 * np.mean([kl(one, 8) for one in kappa.flatten()])
    found = Sphere(LatentSpec(4, 8), weight=0.3).loss(h[..., :-1], h, step(h))["kl"]
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_latents_do_not_depend_on_how_a_batch_is_split_over_processes():
    regularizer, h = Sphere(LatentSpec(4, 8)), torch.randn(6, 4, 9, generator=generator())
    parts = [regularizer.latent(h[2 * i : 2 * i + 2], Noise(5, ("a",), i, 3)) for i in range(3)]
    assert torch.equal(torch.cat(parts), regularizer.latent(h, Noise(5, ("a",))))


def test_shapes_can_be_had_on_the_meta_device():
    regularizer, h = Sphere(LatentSpec(4, 8)), torch.empty(2, 4, 9, device="meta", requires_grad=True)
    z = regularizer.latent(h, Noise(0))
    assert z.shape == (2, 4, 8) and regularizer.loss(z, h, step(z))["kl"].shape == ()


def test_its_draws_are_not_taken_for_normal_ones_nor_its_loss_for_one_of_latents_alone():
    regularizer = Sphere(LatentSpec(4, 8))
    assert not sees_latents_alone(regularizer)
    with pytest.raises(Unfit, match="Sphere"):
        normal_moments(regularizer, torch.randn(2, 4, 9, generator=generator()))


def test_a_single_channel_is_refused():
    with pytest.raises(Unfit, match="1 dimension"):
        Sphere(LatentSpec(4, 1))
