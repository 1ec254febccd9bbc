"""Linear paths, time warps and guidance against their closed forms."""

import pytest
import torch
from scipy.special import expit
from scipy.stats import norm

from latentbench.bench.api import Noise
from latentbench.bench.flow import (
    dimension_shift,
    euler,
    expand_time,
    guide,
    interpolate,
    logit_normal,
    shift_time,
    velocity_to,
    x_prediction_loss,
)


def test_a_path_starts_at_noise_and_ends_at_data():
    z, noise = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    assert torch.equal(interpolate(z, noise, torch.zeros(3)), noise)
    assert torch.equal(interpolate(z, noise, torch.ones(3)), z)


def test_the_velocity_is_the_path_s_derivative():
    z, noise, t = torch.randn(3, 4, 2), torch.randn(3, 4, 2), torch.rand(3)
    path = lambda t: interpolate(z, noise, t)  # noqa: E731
    _, derivative = torch.autograd.functional.jvp(path, t, torch.ones(3))
    torch.testing.assert_close(derivative, z - noise)


def test_both_time_directions_describe_the_same_point():
    z, noise, t = torch.randn(3, 4, 2), torch.randn(3, 4, 2), torch.rand(3)
    data_first = (1 - t)[:, None, None] * z + t[
        :, None, None
    ] * noise  # the convention of REPA's and SiT-like codes
    torch.testing.assert_close(interpolate(z, noise, 1 - t), data_first)


def test_times_may_belong_to_images_or_to_tokens():
    like = torch.zeros(3, 4, 2)
    assert expand_time(torch.zeros(3), like).shape == (3, 1, 1)
    assert expand_time(torch.zeros(3, 4), like).shape == (3, 4, 1)


@pytest.mark.parametrize("s", [0.3, 1.0, 2.5])
def test_shifted_time_keeps_the_ends_and_the_order(s):
    t = shift_time(torch.linspace(0, 1, 11), s)
    assert t[0] == 0 and t[-1] == 1 and (t.diff() > 0).all()


def test_shifted_time_has_lightningdit_s_midpoint():
    assert shift_time(torch.tensor(0.5), 0.3).item() == pytest.approx(0.2308, abs=1e-4)


def test_euler_is_exact_on_straight_paths_and_first_order_on_curved_ones():
    noise, z = torch.randn(5, 2, 2), torch.randn(5, 2, 2)
    times = torch.linspace(0, 1, 4)
    torch.testing.assert_close(euler(lambda x, t: z - noise, noise, times), z)
    grown = [euler(lambda x, t: x, torch.ones(1), torch.linspace(0, 1, n + 1)).item() for n in (100, 200)]
    errors = [abs(value - torch.e) for value in grown]
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.02)


def test_guidance_of_one_is_none_and_of_zero_is_unconditional():
    c, u = torch.randn(4), torch.randn(4)
    torch.testing.assert_close(guide(c, u, 1.0), c)
    assert torch.equal(guide(c, u, 0.0), u)


def test_logit_normal_times_are_sigmoids_of_standard_normals():
    t = logit_normal(Noise(0).uniform(torch.empty(20_000)))
    x = t.logit()
    assert abs(x.mean()) < 0.03 and abs(x.std() - 1) < 0.02 and abs(t.median() - 0.5) < 0.01


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.8), (0.4, 1.0)])
def test_logit_normal_times_have_their_mean_and_deviation(mean, std):
    uniform = torch.linspace(0.001, 0.999, 999).double()
    expected = expit(norm(mean, std).ppf(uniform.numpy()))
    torch.testing.assert_close(logit_normal(uniform, mean, std), torch.from_numpy(expected))


@pytest.mark.parametrize("t_eps", [0.05, 0.2])
def test_the_loss_of_predicted_data_is_its_error_over_the_clamped_noise_level(t_eps):
    prediction, z, noise = torch.randn(3, 6, 4, 2).double()
    t = torch.tensor([0.0, 0.3, 0.7, 0.9, 0.97, 1.0]).double()
    divisor = (1 - t).clamp(min=t_eps)[:, None, None]
    expected = ((prediction - z) ** 2 / divisor**2).mean()
    torch.testing.assert_close(x_prediction_loss(prediction, z, noise, t, t_eps), expected)


def test_the_velocity_to_data_is_the_path_s_until_it_is_bounded():
    z, noise = torch.randn(2, 5, 4, 2).double()
    t = torch.tensor([0.0, 0.5, 0.95, 0.99, 1.0], dtype=torch.float64)
    v = velocity_to(z, interpolate(z, noise, t), t)
    torch.testing.assert_close(v[:3], (z - noise)[:3])
    torch.testing.assert_close(v[3], (z - noise)[3] * 0.01 / 0.05)
    assert not v[4].any()


@pytest.mark.parametrize(
    ("numbers", "factor"),
    [
        (16 * 16 * 768, 48**0.5),
        (16 * 16 * 1024, 8.0),
        (16 * 16 * 32, 2**0.5),
        (64 * 32, 1.0),
        (16 * 8, 1.0),
    ],
)
def test_times_are_shifted_by_the_root_of_the_latent_s_numbers_over_4096(numbers, factor):
    s = dimension_shift(numbers)
    assert s == pytest.approx(factor)
    level = torch.linspace(0, 1, 9).double()  # of noise: s : 1 times the odds of noise
    shifted = 1 - shift_time(1 - level, 1 / s)
    torch.testing.assert_close(shifted, s * level / (1 + (s - 1) * level))
    assert shifted[[0, -1]].tolist() == pytest.approx([0, 1], abs=1e-12)
    assert shifted[4].item() == pytest.approx(s / (1 + s))
