"""The Gaussian baseline against numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from latentbench.bench.api import LatentSpec, Noise
from latentbench.generators.gaussian import JOINT, Gaussian, cholesky

SPEC = LatentSpec(3, 2)


def fitted(z, spec=SPEC):
    model = Gaussian(spec, classes=10)
    model.fit((batch, None) for batch in z.split(100))
    return model


def correlated(n, spec=SPEC):
    size = spec.tokens * spec.channels
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(size, size, generator=generator)
    return (torch.randn(n, size, generator=generator) @ mix + 3).reshape(n, spec.tokens, spec.channels)


def test_fitted_moments_are_numpy_s():
    z = correlated(250)
    model, flat = fitted(z), z.flatten(1).double().numpy()
    np.testing.assert_allclose(model.mean[0], flat.mean(0), rtol=1e-5)
    covariance = model.factor[0] @ model.factor[0].T
    np.testing.assert_allclose(covariance, np.cov(flat.T, bias=True), rtol=1e-3, atol=1e-4)


def test_its_density_is_scipy_s():
    z = correlated(500)
    model, flat = fitted(z), z.flatten(1).double().numpy()
    expected = multivariate_normal(flat.mean(0), np.cov(flat.T, bias=True)).logpdf(flat[:20])
    np.testing.assert_allclose(model.log_prob(z[:20], None), expected, rtol=1e-3)


def test_its_samples_have_the_data_s_moments_and_ignore_labels_and_guidance():
    z = correlated(2000)
    model = fitted(z)
    labels = torch.arange(20_000) % 10
    drawn = model.sample(labels, 1.0, Noise(0))
    assert torch.equal(drawn, model.sample(torch.full_like(labels, -1), 3.0, Noise(0)))
    torch.testing.assert_close(drawn.flatten(1).T.cov(), z.flatten(1).T.cov(), rtol=0.1, atol=0.3)


def test_above_the_limit_tokens_are_independent():
    spec = LatentSpec(JOINT // 2 + 1, 2)
    model = Gaussian(spec, classes=0)
    assert model.mean.shape == (spec.tokens, 2) and model.factor.shape == (spec.tokens, 2, 2)
    z = torch.randn(50, 1, 2).expand(-1, spec.tokens, -1) * torch.tensor([1.0, 5.0])
    model.fit([(z, None)])
    expected = np.cov(z[:, 7].T.numpy(), bias=True)
    np.testing.assert_allclose(model.factor[7] @ model.factor[7].T, expected, rtol=1e-3)
    assert model.sample(torch.tensor([-1, -1]), 1.0, Noise(0)).shape == (2, spec.tokens, 2)
    assert model.log_prob(z[:2], None).shape == (2,)


@pytest.mark.parametrize("n", [1, 4])
def test_fewer_samples_than_dimensions_still_give_finite_samples(n):
    z = correlated(n)
    drawn = fitted(z).sample(torch.zeros(100, dtype=torch.long), 1.0, Noise(0))
    assert drawn.isfinite().all()
    # Off the span of the data, samples stray by a thousandth of the data's deviation.
    centred = z.flatten(1) - z.flatten(1).mean(0)
    off = torch.eye(6) - torch.linalg.pinv(centred) @ centred
    assert ((drawn.flatten(1) - z.flatten(1).mean(0)) @ off).std() < 0.02


def test_a_positive_definite_covariance_is_hardly_changed():
    covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    factor = cholesky(covariance)
    torch.testing.assert_close(factor @ factor.T, covariance, rtol=1e-5, atol=1e-5)
