"""The KL regularizer against closed forms and torch.distributions."""

import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as exact

from latentbench.bench.api import LatentSpec, Noise, Step
from latentbench.regularizers.kl import KL, NoisedKL, kl_divergence


def test_kl_is_zero_at_the_standard_normal():
    zeros = torch.zeros(3, 4, 2)
    assert torch.equal(kl_divergence(zeros, zeros), torch.zeros(3))


def test_kl_of_a_shift_by_one_is_half_a_nat():
    assert kl_divergence(torch.ones(1, 1, 1), torch.zeros(1, 1, 1)).item() == 0.5


def test_kl_agrees_with_torch_distributions_and_sums_over_the_latent():
    mean, logvar = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = exact(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum((1, 2))
    torch.testing.assert_close(kl_divergence(mean, logvar), expected)


def test_the_loss_is_the_weighted_mean_over_the_batch():
    kl = KL(LatentSpec(4, 3), weight=0.1)
    h = torch.randn(5, 4, 6)
    step = Step(0, torch.zeros(5, 1, 2, 2), None, Noise(0), lambda z: z)
    mean, logvar = h.split(3, dim=-1)
    torch.testing.assert_close(kl.loss(mean, h, step)["kl"], 0.1 * kl_divergence(mean, logvar).mean())


def test_latents_have_the_posteriors_moments_and_its_mean_without_noise():
    kl = KL(LatentSpec(1, 2))
    h = torch.tensor([1.0, -2.0, 0.0, 2 * torch.tensor(3.0).log()]).expand(20_000, 1, 4)
    z = kl.latent(h, Noise(0))[:, 0]
    torch.testing.assert_close(z.mean(0), torch.tensor([1.0, -2.0]), atol=0.08, rtol=0)
    torch.testing.assert_close(z.std(0), torch.tensor([1.0, 3.0]), atol=0, rtol=0.03)
    assert torch.equal(kl.latent(h, None), h[..., :2])


def test_extreme_log_variances_stay_finite():
    kl = KL(LatentSpec(1, 1))
    for extreme in (-1e4, 1e4):
        h = torch.tensor([[[0.0, extreme]]])
        assert kl.latent(h, Noise(0)).isfinite().all()
        assert kl.loss(h, h, Step(0, h, None, Noise(0), lambda z: z))["kl"].isfinite()


def test_noised_latents_are_the_posterior_s_in_training_and_wider_after_it():
    noised = NoisedKL(LatentSpec(1, 2), noise_std=0.4)
    h = torch.tensor([1.0, -2.0, 0.0, 2 * torch.tensor(3.0).log()]).expand(20_000, 1, 4)
    assert torch.equal(noised.latent(h, Noise(0)), KL(LatentSpec(1, 2)).latent(h, Noise(0)))
    noised.eval()
    deviations = torch.tensor([1 + 0.4**2, 9 + 0.4**2]).sqrt()
    torch.testing.assert_close(noised.latent(h, Noise(0))[:, 0].std(0), deviations, atol=0, rtol=0.03)
    assert torch.equal(noised.latent(h, None), h[..., :2])
