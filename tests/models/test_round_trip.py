"""The check that generators' normalised latents decode to what the tokenizer's own do."""

import numpy as np
import pytest
import torch
from torch import nn

from latentbench.bench.api import FlowTokenizer, ImageSpec, LatentSpec, Tokenizer
from latentbench.bench.models.latents import CHUNK, Normalisation, normalisation, round_trip

IMAGE = ImageSpec(1, 1, 4)


class Off(Normalisation):
    """Comes back with an error in every latent."""

    def inverse(self, z):
        return super().inverse(z) + 0.01


class Copy(Tokenizer):
    """An image is a latent's numbers."""

    def __init__(self):
        super().__init__(IMAGE, 1)
        self.spec, self.decoder = LatentSpec(1, 4), nn.Identity()

    def decode(self, z):
        return z[:, :, None]


class Draws(FlowTokenizer):
    """Follows its flow differently every time, as adaptive steps do after a rounding."""

    def __init__(self):
        super().__init__(IMAGE, 1)
        self.spec = LatentSpec(1, 4)

    def velocity(self, x, t, z, labels):
        return x + t[:, None, None, None] * z[:, :, None]

    def decode(self, z, labels=None, noise=None):
        return torch.rand(len(z), 1, 1, 4)


def latents(count=CHUNK + 8):
    return 0.1 * torch.randn(count, 1, 4, generator=torch.Generator().manual_seed(0)) + 0.3


@pytest.mark.parametrize("tokenizer, share", [(Copy(), 1.0), (Draws(), 0.5)])
def test_what_comes_back_otherwise_is_seen_and_roundings_are_none(tokenizer, share):
    z = latents()
    rule = normalisation(z, "channel")
    assert round_trip(tokenizer, IMAGE, z, rule, "cpu") < 1e-6
    off = Off(rule.mean, rule.std)
    assert round_trip(tokenizer, IMAGE, z, off, "cpu") == pytest.approx(0.01 * share, rel=1e-3)


def test_the_worst_image_counts_and_not_its_worst_pixel():
    z = latents()

    class OneOff(Normalisation):
        def inverse(self, given):
            back = super().inverse(given)
            back[(z[-1] - back).abs().amax((1, 2)) < 1e-5, 0, 0] += 0.02
            return back

    rule = normalisation(z, "none")
    found = round_trip(Copy(), IMAGE, z, OneOff(rule.mean, rule.std), "cpu")
    assert found == pytest.approx(0.01, rel=1e-3)  # 0.02 in one of four pixels


def test_statistics_by_position_are_those_of_each_element_over_the_set():
    z = torch.randn(300, 6, 5, generator=torch.Generator().manual_seed(1)).double()
    z = (z * torch.linspace(0.5, 3, 30).view(6, 5) + torch.linspace(-9, 9, 30).view(6, 5)).float()
    z[:, 2, 3] = 4.0
    rule = normalisation(z, "position")
    assert rule.mean.shape == rule.std.shape == (6, 5)
    numbers = z.double().numpy()
    deviations = numbers.std(0, ddof=1)
    deviations[2, 3] = 1  # a constant isn't scaled
    np.testing.assert_allclose(rule.mean, numbers.mean(0), atol=1e-5)
    np.testing.assert_allclose(rule.std, deviations, rtol=1e-5)
    normal = rule(z)
    torch.testing.assert_close(normal.mean(0), torch.zeros(6, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(rule.inverse(normal), z, atol=1e-5, rtol=0)
    # RAE divides by the root of the variance + 1e-5, without Bessel's correction.
    raes = (numbers - numbers.mean(0)) / np.sqrt(numbers.var(0) + 1e-5)
    np.testing.assert_allclose(np.delete(normal.numpy(), 3, 2), np.delete(raes, 3, 2), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("rule", ["channel", "scalar", "position", "none"])
def test_statistics_of_maps_normalise_latents_on_their_grid_likewise(rule):
    z = torch.randn(20, 6, 5, generator=torch.Generator().manual_seed(2)) * 3 + 1
    found = normalisation(z, rule)
    mean, std = found.as_maps((2, 3))
    maps = (z.mT.unflatten(2, (2, 3)) - mean) / std
    torch.testing.assert_close(maps.flatten(2).mT, found(z))
