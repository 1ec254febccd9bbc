"""Noise on shown latents: its moments in closed form, and the laws of its level."""

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Step
from latentbench.bench.registry import create
from latentbench.regularizers.denoising import noised

SPEC = LatentSpec(4, 3)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_level_0_is_the_latent_and_level_1_is_pure_noise_of_deviation_gamma():
    z, noise, one = randn(5, 4, 3), randn(5, 4, 3, seed=1), torch.ones(5, 1, 1, dtype=torch.float64)
    for interpolate in (True, False):
        assert torch.equal(noised(z, 0 * one, noise, 3.0, interpolate), z)
    assert torch.equal(noised(z, one, noise, 3.0, True), 3 * noise)
    torch.testing.assert_close(noised(z, one, noise, 3.0, False), z + 3 * noise)


def test_the_level_is_each_images_own_and_shared_by_its_tokens_and_channels():
    z, noise = torch.ones(2, 4, 3), torch.zeros(2, 4, 3)
    faded = noised(z, torch.tensor([0.25, 0.5]).view(2, 1, 1), noise, 3.0, True)
    assert faded[0].unique().tolist() == [0.75] and faded[1].unique().tolist() == [0.5]


@pytest.mark.parametrize(
    "options, moment",
    [
        ({}, lambda z2: (z2 + 9) / 3),  # E (1-u)^2 = E u^2 = 1/3
        ({"gamma": 0.8, "interpolate": False}, lambda z2: z2 + 0.64 / 3),  # RAE
        ({"gamma": 0.25, "interpolate": False, "law": "normal"}, lambda z2: z2 + 0.0625),  # GAE
    ],
)
def test_second_moments_are_those_of_the_closed_form(options, moment):
    z = randn(40_000, 4, 3).float()
    part = create("regularizers", "denoising", spec=SPEC, **options)
    step = Step(0, torch.zeros(40_000, 1, 2, 2), None, Noise(0), lambda z: z)
    (pair,) = part.shown(z, step)
    squares = pair.z.square().flatten(1).mean(1)
    error = 4 * squares.std() / len(squares) ** 0.5
    assert abs(squares.mean() - moment(z.square().mean())) < error
    assert pair.images is step.images and pair.grid is None


def test_gamma_0_leaves_the_latent_as_it_is():
    z = randn(2, 4, 3)
    part = create("regularizers", "denoising", spec=SPEC, gamma=0.0)
    assert part.shown(z, Step(0, torch.zeros(2, 1, 2, 2), None, Noise(0), lambda z: z))[0].z is z


def test_normal_levels_would_fade_latents_beyond_nothing():
    with pytest.raises(ValueError, match="law 'normal'"):
        create("regularizers", "denoising", spec=SPEC, law="normal")
