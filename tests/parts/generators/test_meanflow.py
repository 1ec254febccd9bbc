"""MeanFlow: its target and its derivative against closed forms, differences and a trained network."""

import math

import pytest
import torch
from torch import nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel

from latentbench.bench.api import LatentSpec, Noise
from latentbench.bench.flow import interpolate, logit_normal
from latentbench.bench.models.activations import step_cost
from latentbench.bench.runtime.recompute import prepare
from latentbench.bench.training.one_step import generator_step
from latentbench.generators.meanflow import MeanFlow, target

SPEC = LatentSpec(4, 3, (2, 2))
LABELS = torch.tensor([0, 1, 2, -1, 0, 1, 2, -1])


def make(randomise=True, spec=SPEC, classes=3, **options):
    torch.manual_seed(0)
    model = MeanFlow(spec, classes, **({"width": 16, "depth": 2, "heads": 2} | options))
    if randomise:  # past adaLN-Zero, where nothing depends on anything
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.double().eval()


def spread(t, s):
    """The standard deviation of x_t between N(0, 1) and N(0, s^2)."""
    return (t**2 * s**2 + (1 - t) ** 2).sqrt()


def exact_average(x, t, r, s):
    """The average velocity between N(0, 1) and N(0, s^2), where x moves in proportion to the deviation."""
    t, r = t[:, None, None], r[:, None, None]
    moved = x * (spread(r, s) / spread(t, s) - 1) / (r - t)
    return torch.where(r > t, moved, exact_velocity(x, t, s))


def exact_velocity(x, t, s):
    return (t * s**2 - (1 - t)) / spread(t, s) ** 2 * x


def pairs(count):
    times = torch.rand(count, 2).double().sort(dim=1).values
    return torch.randn(count, 4, 3).double(), times[:, 0], times[:, 1]


@pytest.mark.parametrize("s", [0.3, 1.0, 2.5])
def test_the_target_of_the_exact_average_velocity_is_itself(s):
    x, t, r = pairs(100)
    exact = lambda x, t, r: exact_average(x, t, r, s)  # noqa: E731
    wanted = target(exact, x, t, r, exact_velocity(x, t[:, None, None], s))
    torch.testing.assert_close(wanted, exact(x, t, r), rtol=1e-10, atol=1e-10)


def test_in_the_mean_over_paths_it_is_so_with_each_path_s_own_velocity():
    """Of paths with data of deviation 2, over those through one point at one time."""
    s, x, t, r = 2.0, 0.7, 0.4, 0.9
    count = 4001  # data given x_t is normal: quantiles of it
    z = torch.special.ndtri((torch.arange(count).double() + 0.5) / count)
    mean, deviation = t * s**2 * x / spread(torch.tensor(t), s) ** 2, s * (1 - t) / spread(torch.tensor(t), s)
    z = (mean + deviation * z)[:, None, None]
    point = torch.full((count, 1, 1), x).double()
    velocities = z - (point - t * z) / (1 - t)
    times = [torch.full((count,), time).double() for time in (t, r)]
    wanted = target(lambda x, t, r: exact_average(x, t, r, s), point, *times, velocities)
    torch.testing.assert_close(wanted.mean(), exact_average(point, *times, s)[0, 0, 0], rtol=1e-6, atol=0)


def test_its_derivative_is_that_of_differences_along_the_path():
    model, (x, t, r) = make(), pairs(8)
    v, h = torch.randn_like(x), 1e-5
    with torch.no_grad():
        ahead, behind = (model.average(x + h * k * v, t + h * k, r, LABELS) for k in (1, -1))
    wanted = target(lambda x, t, r: model.average(x, t, r, LABELS), x, t, r, v)
    derivative = (wanted - v) / (r - t)[:, None, None]
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-8)
    assert derivative.abs().mean() > 0.1 and not wanted.requires_grad


def loss_by_hand(model, z, labels, noise, omega, kappa):
    """In noise level, as in the paper's code, with the derivative of the whole batch."""
    levels = [1 - logit_normal(noise.uniform(z[:, 0, 0], tag), 0.4, 1.0) for tag in ("t", "r")]
    high, low = torch.maximum(*levels), torch.minimum(*levels)
    averaged = torch.arange(len(z)) % 4 == 3
    low = torch.where(averaged, low, high)
    start = noise.normal(z, "noise")
    x = interpolate(z, start, 1 - high)
    none = torch.full_like(labels, -1)

    def u(x, high, low, labels):  # their average velocity points to noise
        with sdpa_kernel(SDPBackend.MATH):
            return -model.average(x, 1 - high, 1 - low, labels)

    v = start - z
    guided = omega * v + kappa * u(x, high, high, labels) + (1 - omega - kappa) * u(x, high, high, none)
    v = torch.where((labels >= 0)[:, None, None], guided, v).detach()
    average = lambda x, high, low: u(x, high, low, labels)  # noqa: E731
    tangents = (v, torch.ones_like(high), torch.zeros_like(low))
    output, derivative = torch.func.jvp(average, (x, high, low), tangents)
    wanted = v - (high - low)[:, None, None] * derivative
    errors = (output - wanted.detach()).square().sum((1, 2))
    return (errors / (errors.detach() + 0.01)).mean()


@pytest.mark.parametrize("guidance", [(1.0, 0.5), (0.2, 0.9), (1.0, 0.0)])
def test_the_loss_and_its_gradient_are_the_paper_s_in_the_other_direction_of_time(guidance):
    omega, kappa = guidance
    model, z = make(label_dropout=0.0, omega=omega, kappa=kappa), torch.randn(8, 4, 3).double()
    gradients = []
    for loss in (
        model.loss(z, LABELS, Noise(1))["average_velocity"],
        loss_by_hand(model, z, LABELS, Noise(1), omega, kappa),
    ):
        model.zero_grad()
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.75, 0.9, 1.0])
def test_rows_that_average_are_a_share_of_a_batch_whatever_the_number_of_processes(share):
    model = make(instantaneous=share)
    whole = model.averaged_rows(40, Noise(0), torch.device("cpu"))
    assert len(whole) == round(40 * (1 - share))
    parts = [model.averaged_rows(5, Noise(0, (), rank, 8), whole.device) + 5 * rank for rank in range(8)]
    assert torch.equal(torch.cat(parts), whole)


def test_without_averages_it_is_an_ordinary_flow():
    model, z, noise = make(instantaneous=1.0, kappa=0.0), torch.randn(8, 4, 3).double(), Noise(2)
    t = torch.minimum(*(logit_normal(noise.uniform(z[:, 0, 0], tag), 0.4) for tag in ("t", "r")))
    start = noise.normal(z, "noise")
    errors = model.velocity(interpolate(z, start, t), t, None) - (z - start)
    errors = errors.square().sum((1, 2))
    torch.testing.assert_close(
        model.loss(z, None, noise)["average_velocity"], (errors / (errors + 0.01)).mean()
    )


def test_samples_are_steps_along_average_velocities():
    model = make().float()
    start = Noise(0).normal(torch.empty(8, 4, 3), "noise")
    zero, half, one = (torch.full((8,), t) for t in (0.0, 0.5, 1.0))
    with torch.no_grad():
        once = start + model.average(start, zero, one, LABELS)
        middle = start + model.average(start, zero, half, LABELS) / 2
        twice = middle + model.average(middle, half, one, LABELS) / 2
        assert torch.equal(model.sample(LABELS, 1.0, Noise(0)), once)
        assert torch.equal(model.sample(LABELS, 3.0, Noise(0)), once)  # guidance has been trained
        torch.testing.assert_close(model.sample(LABELS, 1.0, Noise(0), steps=2), twice)


class Factor(MeanFlow):
    """x times a network of the two times, as the average velocity of a Gaussian is."""

    def build(self, *given):
        super().build(*given)
        self.factor = nn.Sequential(
            nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
        )

    def _between(self, x, t, r, labels, tap):
        return x * self.factor(torch.stack([t, r], dim=-1))[:, :, None], x


def test_training_finds_the_average_velocity_of_a_gaussian():
    """Of deviation 2, whose samples of one step are twice the noise."""
    torch.manual_seed(0)
    times = {"instantaneous": 0.5, "time_mean": 0.0, "time_std": 2.0}
    model = Factor(LatentSpec(1, 16), 0, width=4, depth=1, heads=1, **times)
    optimizer = torch.optim.Adam(model.factor.parameters(), lr=1e-2, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for step in range(500):
        noise = Noise(0).fork(step)
        z = 2 * noise.normal(torch.empty(128, 1, 16), "data")
        optimizer.zero_grad()
        model.loss(z, None, noise)["average_velocity"].backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        drawn = model.sample(torch.full((1000,), -1), 1.0, Noise(1))
        assert drawn.std().item() == pytest.approx(2, rel=0.05)
        t, r = torch.rand(1000, 2).sort(dim=1).values.T
        x = torch.ones(1000, 1, 16)
        error = model.average(x, t, r, None) - exact_average(x, t, r, 2.0)
        assert error.square().mean().sqrt() < 0.06


def test_checkpoints_and_the_meta_device_take_its_derivative():
    model, z = make().float(), torch.randn(8, 4, 3)
    plain = model.loss(z, LABELS, Noise(0))["average_velocity"]
    cost = step_cost(generator_step, model, z, LABELS)
    again = step_cost(generator_step, model, z, LABELS, checkpointing=True)
    assert again.flops > cost.flops and again.activations < cost.activations
    alone = step_cost(generator_step, make(instantaneous=1.0).float(), z, LABELS)
    assert alone.flops < cost.flops < 1.5 * alone.flops  # the derivative is of a quarter of the rows
    half = step_cost(generator_step, model, z, LABELS, precision="bf16")
    assert half.flops == cost.flops
    prepare({"checkpointing": True}, model)
    assert torch.equal(model.loss(z, LABELS, Noise(0))["average_velocity"], plain)
    assert unpack_dual(plain).tangent is None


def test_half_precision_gives_every_weight_its_gradient():
    model, z = make().float(), torch.randn(8, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(z, LABELS, Noise(0))["average_velocity"]
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert math.isfinite(loss.item())
