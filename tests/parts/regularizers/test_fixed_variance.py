"""The fixed-variance posterior: its spread, and what the layer norm holds."""

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Unfit
from latentbench.regularizers.simflow import FixedVariance


def test_the_noise_around_the_mean_has_standard_deviation_sigma():
    regularizer = FixedVariance(LatentSpec(16, 8), sigma=0.5)
    h = torch.randn(200, 16, 8)
    around = regularizer.latent(h, Noise(0)) - regularizer.latent(h, None)
    assert around.std().item() == pytest.approx(0.5, rel=0.02)
    assert around.mean().item() == pytest.approx(0, abs=0.01)


def test_each_token_is_normalised_over_its_channels():
    h = 5 + 3 * torch.randn(4, 6, 8)
    mean = FixedVariance(LatentSpec(6, 8)).latent(h, None)
    torch.testing.assert_close(mean.mean(-1), torch.zeros(4, 6), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean.var(-1, correction=0), torch.ones(4, 6), atol=1e-4, rtol=0)


def test_a_louder_encoder_does_not_drown_the_noise():
    regularizer, h = FixedVariance(LatentSpec(6, 8)), torch.randn(4, 6, 8)
    torch.testing.assert_close(
        regularizer.latent(100 * h, Noise(0)), regularizer.latent(h, Noise(0)), atol=1e-3, rtol=0
    )


def test_without_the_layer_norm_the_mean_is_the_encoders_output():
    h = torch.randn(4, 6, 8)
    assert torch.equal(FixedVariance(LatentSpec(6, 8), layer_norm=False).latent(h, None), h)


def test_a_layer_norm_over_two_channels_is_refused():
    with pytest.raises(Unfit, match="2 channels"):
        FixedVariance(LatentSpec(6, 2))
    FixedVariance(LatentSpec(6, 2), layer_norm=False)
