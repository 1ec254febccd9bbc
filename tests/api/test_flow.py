"""Linear paths, time warps and guidance against their closed forms."""

import pytest
import torch

from latentbench.bench.api import Noise
from latentbench.bench.flow import euler, expand_time, guide, interpolate, logit_normal, shift_time


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
