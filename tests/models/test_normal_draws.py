"""Means and variances of latents, against those of many draws."""

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Regularizer, Unfit
from latentbench.bench.models.normal_draws import normal_moments
from latentbench.bench.registry import create

SPEC = LatentSpec(3, 4)
DRAWS = 20_000
FLOW = {"use": "tarflow", "width": 16, "heads": 1}
NORMAL = [
    ("none", {}),
    ("kl", {}),
    ("noised_kl", {"noise_std": 0.7}),
    ("fixed_variance", {"sigma": 0.3}),
    ("fixed_variance", {"sigma": 0.0, "layer_norm": False}),
    ("simflow", {"classes": 0, "prior": FLOW}),
]


def hidden(regularizer, count=1):
    h = torch.randn(count, 3, 4 * regularizer.expansion, generator=torch.Generator().manual_seed(0))
    return 3 + h  # means that are large beside the noise


@pytest.mark.parametrize("name, options", NORMAL, ids=lambda value: str(value)[:30])
def test_moments_are_those_of_many_draws(name, options):
    regularizer = create("regularizers", name, spec=SPEC, **options).eval()
    h = hidden(regularizer)
    mean, log_variance = normal_moments(regularizer, h)
    draws = regularizer.latent(h.expand(DRAWS, -1, -1), Noise(1))
    assert torch.equal(mean, regularizer.latent(h, None))
    std = (0.5 * log_variance[0]).exp()
    assert torch.allclose(draws.mean(0), mean[0], atol=5 * (std.max().item() + 1e-3) / DRAWS**0.5)
    assert torch.allclose(draws.std(0), std, rtol=0.03, atol=1e-5)


def test_a_small_variance_beside_a_large_mean_is_exact():
    regularizer = create("regularizers", "fixed_variance", spec=SPEC, sigma=1e-4, layer_norm=False)
    _, log_variance = normal_moments(regularizer, 100 + hidden(regularizer))
    assert torch.allclose((0.5 * log_variance).exp(), torch.tensor(1e-4), rtol=2e-3)


class Squashed(Regularizer):
    """Draws between -1 and 1."""

    def latent(self, h, noise, labels=None):
        return torch.tanh(h if noise is None else h + noise.normal(h))


class Scaled(Regularizer):
    """Draws whose noise multiplies."""

    def latent(self, h, noise, labels=None):
        return h if noise is None else h * (1 + noise.normal(h).square())


@pytest.mark.parametrize(
    "regularizer",
    [
        lambda: Squashed(SPEC),
        lambda: Scaled(SPEC),
        lambda: create("regularizers", "simflow", spec=SPEC, classes=0, prior=FLOW, perturbation="linear"),
        lambda: create("regularizers", "simflow", spec=SPEC, classes=0, prior=FLOW, perturbation="slerp"),
    ],
)
def test_draws_that_are_no_mean_with_normal_noise_are_refused(regularizer):
    made = regularizer()
    with pytest.raises(Unfit, match=f"draws of {type(made).__name__} aren't a mean and normal noise"):
        normal_moments(made, hidden(made))


def test_moments_on_meta_have_their_shape():
    regularizer = create("regularizers", "kl", spec=SPEC)
    moments = normal_moments(regularizer, torch.empty(2, 3, 8, device="meta"))
    assert [one.shape for one in moments] == [(2, 3, 4)] * 2
