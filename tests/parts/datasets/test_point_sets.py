"""Point sets: what is drawn has the density that they say, in the units of the frame's reference."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import gaussian_kde, multivariate_normal

from latentbench.bench.api import LatentSpec, Reference
from latentbench.bench.registry import create

NAMES = ["ring", "grid", "moons", "rings", "spiral", "swiss_roll", "s_curve"]
every_set = pytest.mark.parametrize("name", NAMES)


def standardised(dataset, split="train"):
    """All points of a split in the units of log_prob, float64 (n, 2)."""
    index = torch.arange(dataset.size(split))
    return dataset.images(split, index).flatten(1).double() / dataset.scale


def plane(side=25, reach=3.0):
    axis = torch.linspace(-reach, reach, side, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis)


@every_set
def test_the_population_has_mean_zero_and_the_scale_that_it_says(name):
    points = standardised(create("datasets", name, count=50_000))
    assert points.mean(0).abs().max() < 4 / 50_000**0.5 * 1.5  # no axis has a deviation above 1.5
    assert points.square().mean().sqrt().item() == pytest.approx(1, abs=0.01)


@every_set
def test_the_frames_standardised_reference_has_the_units_of_log_prob(name):
    dataset = create("datasets", name)
    images = dataset.images("train", torch.arange(dataset.size("train")))
    tokens = create("features", "coordinates")(images)[1]
    projected = Reference(tokens).projected(LatentSpec(1, 2)).samples
    assert (projected[:, 0] - standardised(dataset)).abs().max() < 0.05


@pytest.mark.parametrize(
    "name, spread, centres",
    [
        ("ring", 0.3, [3 * np.array([np.cos(a), np.sin(a)]) for a in np.arange(5) * 2 * np.pi / 5]),
        ("grid", 0.1, [np.array([x, y]) for x in (-1.5, -0.5, 0.5, 1.5) for y in (-1.5, -0.5, 0.5, 1.5)]),
    ],
)
def test_a_mixtures_log_density_is_scipys(name, spread, centres):
    dataset, points = create("datasets", name), plane()
    scale = np.sqrt(np.mean([c @ c for c in centres]) / 2 + spread**2)
    each = [multivariate_normal(c / scale, (spread / scale) ** 2).logpdf(points) for c in centres]
    expected = logsumexp(each, axis=0) - np.log(len(centres))
    assert dataset.exact
    np.testing.assert_allclose(dataset.log_prob(points), expected, rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("name", ["moons", "rings", "spiral", "swiss_roll", "s_curve"])
def test_a_curves_density_is_the_integral_along_it(name):
    dataset = create("datasets", name, bandwidth=0, count=200)

    # Gauss-Legendre on 400 pieces, where the code sums over midpoints.
    nodes, weights = np.polynomial.legendre.leggauss(20)
    u = ((np.arange(400)[:, None] + (nodes + 1) / 2) / 400).ravel()
    factors, centres = dataset.factors(u), dataset.centres(u) - dataset._mean
    covariances = factors @ factors.swapaxes(1, 2)
    norm = 2 * np.pi * np.sqrt(np.linalg.det(covariances))
    for z in standardised(dataset)[:50]:
        away = z.numpy() * dataset._spread - centres
        squared = (away * np.linalg.solve(covariances, away[..., None])[..., 0]).sum(1)
        density = (np.exp(-squared / 2) / norm * np.tile(weights, 400)).sum() / 800
        expected = np.log(density) + 2 * np.log(dataset._spread)
        assert dataset.log_prob(z[None]).item() == pytest.approx(expected, abs=0.02)


@every_set
def test_the_density_integrates_to_one_and_drawn_points_have_its_entropy(name):
    dataset = create("datasets", name, bandwidth=0)
    # A grid as wide as the narrowest Gaussian sums a density to 1e-6.
    log_prob, cell = dataset.log_prob(plane(141)), (6 / 140) ** 2
    assert (log_prob.exp().sum() * cell).item() == pytest.approx(1, abs=0.003)
    values = dataset.log_prob(standardised(dataset)[:2000])
    expected, error = (log_prob.exp() * log_prob).sum() * cell, values.std() / len(values) ** 0.5
    assert abs(values.mean() - expected) < 4 * error


def test_with_a_bandwidth_it_is_a_kernel_estimate_over_many_samples():
    # SciPy's kernel has the shape of the samples' covariance, which for rings is the identity.
    dataset = create("datasets", "rings", count=100_000)
    assert not dataset.exact and dataset.bandwidth == 0.1
    estimate = gaussian_kde(standardised(dataset).T.numpy(), bw_method=0.1)
    points = plane(15, 3.0)
    mine, kernel = dataset.log_prob(points), torch.from_numpy(estimate.logpdf(points.T.numpy()))
    dense = kernel > -4  # beyond, few samples decide the estimate
    assert dense.sum() > 50
    torch.testing.assert_close(mine[dense], kernel[dense], atol=0.1, rtol=0)
    assert torch.corrcoef(torch.stack([mine, kernel]))[0, 1] > 0.999


def test_far_away_the_density_is_finite():
    far = torch.tensor([[100.0, 100.0]])
    assert create("datasets", "swiss_roll", bandwidth=0).log_prob(far).isfinite().all()
    assert create("datasets", "swiss_roll").log_prob(far).dtype == torch.float32


@every_set
def test_a_seed_and_the_options_decide_the_points(name):
    one, two = (create("datasets", name, count=100, val=50) for _ in range(2))
    other = create("datasets", name, count=100, val=50, seed=1)
    noisy = create("datasets", name, count=100, val=50, std=0.2)
    assert torch.equal(standardised(one), standardised(two))
    assert len({d.fingerprint() for d in (one, two, other, noisy)}) == 3
    assert one.classes == 0 and one.labels("train") is None


def test_the_split_sizes_do_not_change_the_first_points():
    short, long = (create("datasets", "spiral", count=count) for count in (100, 300))
    assert torch.equal(short.images("val", torch.arange(50)), long.images("val", torch.arange(50)))


def test_coordinates_are_the_points_themselves_unrounded():
    points = torch.rand(5, 1, 1, 2) * 2 - 1
    pooled, tokens = create("features", "coordinates")(points)
    assert torch.equal(pooled, points.flatten(1)) and torch.equal(tokens[:, 0], pooled)


def test_coordinates_refuse_pictures():
    with pytest.raises(ValueError, match="1 x 8 x 8"):
        create("features", "coordinates")(torch.zeros(2, 1, 8, 8))
