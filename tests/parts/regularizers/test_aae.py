"""The adversarial match: its losses in closed form, and a discriminator that leads latents home."""

import math

import pytest
import torch
from torch import nn

from latentbench.bench.api import LatentSpec, Noise, Step
from latentbench.regularizers.aae import AAE, discriminator_loss, encoder_loss, gradient_penalty

SPEC = LatentSpec(4, 3, (2, 2))


def build(**options):
    torch.manual_seed(0)
    return AAE(SPEC, SPEC, **{"width": 32, "warmup": 0, **options})


def step(index=0, reference=None):
    return Step(index, torch.zeros(32, 1, 2, 2), None, Noise(0).fork(index), lambda z: z, None, reference)


def cloud(center, seed):
    return torch.randn(32, 4, 3, generator=torch.Generator().manual_seed(seed)) + torch.tensor(center)


def learn(regularizer, center, updates=200):
    """The discriminator's updates on latents around `center` and a reference around 0."""
    optimizer = torch.optim.Adam(regularizer.discriminator.parameters(), lr=3e-3)
    for index in range(updates):
        optimizer.zero_grad()
        reference = cloud([0.0, 0.0, 0.0], 2 * index)
        regularizer.critic_loss(
            "discriminator", cloud(center, 2 * index + 1), step(index, reference)
        ).backward()
        optimizer.step()
    regularizer.discriminator.eval()


@pytest.mark.parametrize("objective, chance", [("logistic", 2 * math.log(2)), ("hinge", 2.0)])
def test_a_discriminator_that_knows_nothing_has_the_loss_of_chance(objective, chance):
    nothing = torch.zeros(5, 4, 1)
    assert discriminator_loss(nothing, nothing, objective).item() == pytest.approx(chance)
    sure = torch.full((5, 4, 1), 50.0)
    assert discriminator_loss(sure, -sure, objective).item() == pytest.approx(0, abs=1e-12)


def test_the_logistic_losses_are_those_of_probabilities_and_the_encoder_s_does_not_saturate():
    real, fake = torch.randn(2, 50, dtype=torch.float64)
    expected = -(real.sigmoid().log() + (1 - fake.sigmoid()).log()).mean()
    assert discriminator_loss(real, fake, "logistic").item() == pytest.approx(expected.item(), abs=1e-12)
    assert encoder_loss(fake, "logistic").item() == pytest.approx(-fake.sigmoid().log().mean().item())
    logit = torch.tensor([-30.0], requires_grad=True)  # a sure discriminator
    (slope,) = torch.autograd.grad(encoder_loss(logit, "logistic"), logit)
    assert slope.item() == pytest.approx(-1)


def test_the_gradient_penalty_of_a_linear_discriminator_is_half_its_squared_slope():
    linear = nn.Linear(3, 1).double()
    penalty = gradient_penalty(linear, torch.randn(5, 4, 3, dtype=torch.float64))
    assert penalty.item() == pytest.approx(0.5 * linear.weight.square().sum().item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(penalty, linear.weight)
    torch.testing.assert_close(gradient, linear.weight.detach())


@pytest.mark.parametrize("objective", ["logistic", "hinge"])
def test_the_discriminator_learns_to_separate_two_gaussians(objective):
    regularizer = build(objective=objective)
    learn(regularizer, [2.0, -2.0, 0.0])
    with torch.no_grad():
        real = regularizer.discriminator(cloud([0.0, 0.0, 0.0], -1))
        fake = regularizer.discriminator(cloud([2.0, -2.0, 0.0], -2))
    # The halves overlap: a distance of 8^0.5 leaves Phi(-2^0.5) = 7.9 % on the wrong side.
    assert ((real > 0).float().mean() + (fake < 0).float().mean()) / 2 > 0.88


@pytest.mark.parametrize("objective", ["logistic", "hinge"])
def test_the_encoder_s_gradient_moves_latents_towards_the_reference(objective):
    regularizer, center = build(objective=objective, weight=1.0), [2.0, -2.0, 0.0]
    learn(regularizer, center)
    z = cloud(center, -2).requires_grad_()
    (gradient,) = torch.autograd.grad(regularizer.loss(z, z, step())["aae"], z)
    move = -gradient.mean((0, 1))
    back = -torch.tensor(center)
    assert torch.cosine_similarity(move, back, dim=0) > 0.95


def test_the_weight_grows_linearly_over_the_warm_up():
    regularizer, z = build(warmup=10, weight=0.5), cloud([1.0, 0.0, 0.0], 0)
    losses = [regularizer.loss(z, z, step(index))["aae"].item() for index in (0, 4, 9, 100)]
    assert [loss / losses[-1] for loss in losses] == pytest.approx([0.1, 0.5, 1, 1])


def test_the_encoder_s_loss_leaves_the_spectral_norms_alone_and_the_discriminator_s_keeps_them_at_one():
    regularizer, z = build(), cloud([1.0, 0.0, 0.0], 0)
    before = {name: tensor.clone() for name, tensor in regularizer.state_dict().items()}
    regularizer.loss(z, z, step())
    assert all(torch.equal(tensor, before[name]) for name, tensor in regularizer.state_dict().items())
    learn(regularizer, [2.0, 0.0, 0.0])
    for layer in regularizer.discriminator[::2]:
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=0.02)


def test_with_the_gaussian_target_the_reference_is_not_looked_at():
    regularizer, z = build(target="gaussian", r1=0.0), cloud([1.0, 0.0, 0.0], 0)
    losses = [regularizer.critic_loss("discriminator", z, step(0, r)) for r in (None, 100 * z)]
    regularizer.discriminator.eval()
    logits = regularizer.discriminator(step().noise.normal(z, "prior")), regularizer.discriminator(z)
    expected = discriminator_loss(*logits, "logistic").item()
    assert [loss.item() for loss in losses] == pytest.approx([expected] * 2, rel=0.01)


def test_the_discriminator_s_loss_has_the_gradient_penalty_on_the_prior_s_draws():
    z, drawn = cloud([1.0, 0.0, 0.0], 0), cloud([0.0, 0.0, 0.0], 1)
    losses = [build(r1=r1).critic_loss("discriminator", z, step(0, drawn)).item() for r1 in (0.0, 2.0)]
    penalty = gradient_penalty(build().discriminator, drawn).item()
    assert losses[1] - losses[0] == pytest.approx(2 * penalty, rel=0.05)
