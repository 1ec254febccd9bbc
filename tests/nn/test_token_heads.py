"""Heads that draw tokens: closed forms of the diffusion, exact noise, and what each loss trains."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from latentbench.bench.api import Noise
from latentbench.bench.nn.token_heads import DiffusionHead, FlowHead, Schedule, cosine_alpha_bar, gaussian_kl


def test_an_untrained_flow_head_s_loss_is_the_target_s_mean_square():
    head = FlowHead(3, 16, 1, 5)
    x, noise = torch.randn(4, 6, 3), Noise(0)
    loss = head.loss(x, torch.randn(4, 6, 5), noise)["velocity"]
    assert loss.item() == pytest.approx((x - noise.normal(x, "noise")).square().mean().item())


@torch.no_grad()
def test_temperature_scales_an_untrained_flow_head_s_samples():
    head, condition = FlowHead(3, 16, 1, 5), torch.randn(2, 6, 5)
    hot, cool = (head.sample(condition, None, Noise(0), 4, temperature) for temperature in (1.0, 0.5))
    torch.testing.assert_close(cool, 0.5 * hot)


def test_the_kl_divergence_is_torch_s():
    mean1, logvar1, mean2, logvar2 = torch.randn(4, 10)
    expected = kl_divergence(Normal(mean1, (logvar1 / 2).exp()), Normal(mean2, (logvar2 / 2).exp()))
    torch.testing.assert_close(gaussian_kl(mean1, logvar1, mean2, logvar2), expected)


def test_the_cosine_schedule_goes_from_data_to_noise():
    products = cosine_alpha_bar(1000)
    assert products[0] > 0.9999 and products[-1] < 1e-5
    assert products[499] == pytest.approx(math.cos(0.508 / 1.008 * math.pi / 2) ** 2, rel=1e-3)


@pytest.mark.parametrize("steps", [2, 100, 1000])
def test_a_respaced_diffusion_keeps_the_marginals_and_bayes_rule(steps):
    schedule = Schedule.respaced(steps)
    assert schedule.step[0] == 0 and schedule.step[-1] == 999 and len(schedule.step) == steps
    # q(x_{t-1} | x_t, x_0) from the product of two Gaussians, in the middle of the chain
    i = steps // 2
    previous, beta = schedule.alpha_bar[i - 1], schedule.beta[i]
    precision = (1 - beta) / beta + 1 / (1 - previous)
    assert schedule.posterior_logvar[i].exp().item() == pytest.approx(1 / precision.item())
    assert schedule.clean[i].item() == pytest.approx((previous.sqrt() / (1 - previous) / precision).item())
    assert schedule.noisy[i].item() == pytest.approx(((1 - beta).sqrt() / beta / precision).item())


@torch.no_grad()
@pytest.mark.parametrize("steps", [50, 1000])
def test_ancestral_steps_with_the_exact_noise_prediction_draw_from_the_data(steps):
    head = DiffusionHead(1, 8, 1, 1)

    class Exact(torch.nn.Module):
        """For data N(2, 0.5^2): the expected noise given x_t, and the variance's lower bound."""

        def forward(self, x, t, condition):
            alpha_bar = torch.tensor(cosine_alpha_bar(1000))[t.long()][..., None]
            variance = 0.25 * alpha_bar + 1 - alpha_bar
            noise = (1 - alpha_bar).sqrt() * (x - 2 * alpha_bar.sqrt()) / variance
            return torch.cat([noise, -torch.ones_like(noise)], dim=-1)

        def at_times(self, times, condition):
            return lambda x, index: self(x, times[index : index + 1, None], condition)

    head.net = Exact()
    drawn = head.sample(torch.zeros(4000, 1, 1), None, Noise(0), steps, 1.0)
    assert drawn.mean().item() == pytest.approx(2, abs=0.05)
    assert drawn.std().item() == pytest.approx(0.5, rel=0.1)


def test_the_variance_s_bound_does_not_train_the_mean():
    head = DiffusionHead(2, 8, 1, 3)
    loss = head.loss(torch.randn(8, 6, 2), torch.randn(8, 6, 3), Noise(0))
    loss["variance"].backward()
    gradient = head.net.output.bias.grad
    assert not gradient[:2].any() and gradient[2:].all()
