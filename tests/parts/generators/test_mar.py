"""MAR's schedules and heads against closed forms and scipy."""

import math

import pytest
import torch
from scipy.stats import truncnorm
from torch.distributions import Normal, kl_divergence

from latentbench.bench.api import LatentSpec, Noise
from latentbench.generators.mar import (
    MAR,
    DiffusionHead,
    FlowHead,
    Schedule,
    cosine_alpha_bar,
    gaussian_kl,
    mask_ratio,
    tokens_per_step,
)

SPEC = LatentSpec(6, 3, (2, 3))
LABELS = torch.tensor([0, 1, 2, -1])
HEADS = ["flow", "diffusion"]


def make(head="flow", classes=3, **options):
    torch.manual_seed(0)
    model = MAR(SPEC, classes, width=16, depth=1, heads=2, head=head, head_width=16, head_depth=1, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


@pytest.mark.parametrize("tokens", [1, 2, 3, 16, 49, 64, 256])
def test_every_token_is_predicted_once(tokens):
    for iterations in range(1, tokens + 3):
        counts = tokens_per_step(tokens, iterations)
        assert sum(counts) == tokens and min(counts) >= 1 and len(counts) == min(tokens, iterations)


def test_as_many_iterations_as_tokens_predict_one_each():
    assert tokens_per_step(256, 256) == [1] * 256


def test_fewer_iterations_follow_the_cosine():
    assert tokens_per_step(16, 4) == [16 - 14, 14 - 11, 11 - 6, 6]
    assert tokens_per_step(16, 1) == [16]


def test_mask_ratios_are_a_truncated_normal():
    u = torch.linspace(0.01, 0.99, 50)
    expected = truncnorm(-0.3 / 0.25, 0, loc=1, scale=0.25).ppf(u)
    assert [mask_ratio(float(x), 0.7) for x in u] == pytest.approx(expected.tolist(), abs=1e-6)
    assert mask_ratio(0.0, 0.7) == pytest.approx(0.7) and mask_ratio(0.3, 1.0) == 1.0


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_runs_on_meta_tensors(head):
    with torch.device("meta"):
        model = MAR(SPEC, 3, head=head)
        z, labels = torch.empty(2, 6, 3), torch.zeros(2, dtype=torch.long)
    assert all(value.is_meta for value in model.loss(z, labels, Noise(0)).values())


def test_the_condition_depends_on_known_tokens_not_on_their_order():
    model = make()
    order = torch.tensor([[4, 1, 0, 2, 3, 5]])
    swapped = order[:, [1, 0, 2, 3, 5, 4]]
    z = torch.randn(1, 2, 3)
    condition = model.condition(z, order, None, 4)
    assert condition.shape == (1, 4, 16)
    torch.testing.assert_close(model.condition(z[:, [1, 0]], swapped, None, 4), condition[:, [0, 1, 3, 2]])
    torch.testing.assert_close(model.condition(z, order, None, 1), condition[:, :1])
    assert not torch.isclose(model.condition(z + 1, order, None, 4), condition).all(-1).any()


def test_label_minus_one_is_no_label():
    model, order, z = make(), torch.arange(6).expand(4, -1), torch.randn(4, 2, 3)
    none = model.condition(z, order, None, 4)
    assert torch.equal(model.condition(z, order, torch.full((4,), -1), 4), none)
    assert not torch.isclose(model.condition(z, order, LABELS, 4)[:3], none[:3]).all(-1).any()


def test_an_untrained_flow_head_s_loss_is_the_target_s_mean_square():
    head = FlowHead(3, 16, 1, 5)
    x, noise = torch.randn(4, 6, 3), Noise(0)
    loss = head.loss(x, torch.randn(4, 6, 5), noise)["velocity"]
    assert loss.item() == pytest.approx((x - noise.normal(x, "noise")).square().mean().item())


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_guidance_of_one_is_conditional_and_other_guidance_is_not(head):
    model = make(head)
    plain, one, more = (model.sample(LABELS, w, Noise(0), steps=3) for w in (1.0, 1.0 + 1e-6, 2.0))
    assert plain.shape == (4, 6, 3) and plain.isfinite().all()
    torch.testing.assert_close(one, plain, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(more[:3], plain[:3], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(more[3], plain[3], rtol=1e-4, atol=1e-4)  # nothing to be guided by


@torch.no_grad()
def test_linear_guidance_equals_constant_guidance_when_all_tokens_come_at_once():
    model = make()
    one = {"iterations": 1, "steps": 3}
    linear = model.sample(LABELS, 2.0, Noise(0), schedule="linear", **one)
    assert torch.equal(linear, model.sample(LABELS, 2.0, Noise(0), schedule="constant", **one))
    more = {"iterations": 3, "steps": 3}
    linear = model.sample(LABELS, 2.0, Noise(0), schedule="linear", **more)
    assert not torch.equal(linear, model.sample(LABELS, 2.0, Noise(0), schedule="constant", **more))


@torch.no_grad()
def test_a_model_without_classes_ignores_labels_and_guidance():
    model = make(classes=0)
    drawn = model.sample(LABELS, 1.0, Noise(0), steps=2)
    assert torch.equal(drawn, model.sample(torch.full((4,), -1), 4.0, Noise(0), steps=2))


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


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="width = 10 is not divisible by heads = 4"):
        MAR(SPEC, 3, width=10, heads=4)
