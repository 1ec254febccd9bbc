"""Latents of unit root mean square against torch's RMSNorm, and what the norm takes from gradients."""

import pytest
import torch
from torch.nn import functional as F

from latentbench.bench.api import LatentSpec, Noise, Unfit
from latentbench.regularizers.rms import RMS, normalised


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_it_is_torch_s_rms_norm_without_a_gain(scale):
    h = scale * randn(4, 6, 8)
    torch.testing.assert_close(normalised(h), F.rms_norm(h, (8,), eps=1e-6), rtol=1e-12, atol=0)


def test_tokens_have_the_norm_of_the_square_root_of_their_channels_and_keep_their_direction():
    h = 3 * randn(4, 6, 8) + 1
    z = RMS(LatentSpec(6, 8)).latent(h, Noise(0))
    torch.testing.assert_close(z.norm(dim=-1), torch.full((4, 6), 8**0.5).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(F.cosine_similarity(z, h, dim=-1), torch.ones(4, 6).double())


def test_latents_draw_no_noise_and_have_no_loss():
    regularizer, h = RMS(LatentSpec(6, 8)), randn(4, 6, 8)
    assert torch.equal(regularizer.latent(h, Noise(0)), regularizer.latent(h, None))
    assert type(regularizer).loss is RMS.__bases__[0].loss


def test_gradients_are_orthogonal_to_h_so_its_scale_is_not_trained():
    h = (10 * randn(4, 6, 8)).requires_grad_()
    (gradient,) = torch.autograd.grad((normalised(h) * randn(4, 6, 8, seed=1)).sum(), h)
    along = F.cosine_similarity(gradient, h, dim=-1)
    torch.testing.assert_close(along, torch.zeros(4, 6).double(), atol=1e-6, rtol=0)


def test_zeros_stay_zeros_with_a_finite_gradient():
    h = torch.zeros(1, 1, 4, requires_grad=True)
    z = normalised(h)
    (gradient,) = torch.autograd.grad(z.sum(), h)
    assert not z.any()
    torch.testing.assert_close(gradient, torch.full_like(h, 1e3))


def test_a_single_channel_is_refused():
    with pytest.raises(Unfit, match="1 channel"):
        RMS(LatentSpec(6, 1))
