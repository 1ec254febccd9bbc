"""The sliced Wasserstein distance against sorted lists, couplings and closed forms of Gaussians."""

import itertools

import pytest
import torch
from torch.nn.functional import normalize

from latentbench.bench.api import LatentSpec, Noise, Reference, Step, Unfit
from latentbench.regularizers.swae import SWAE, sliced_wasserstein

SPEC = LatentSpec(4, 2)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(count, channels, seed=9):
    return normalize(randn(count, channels, seed=seed), dim=1)


def step(index=0, reference=None):
    return Step(index, torch.zeros(64, 1, 2, 2), None, Noise(0).fork(index), lambda z: z, None, reference)


def test_it_is_the_cheapest_pairing_along_each_direction():
    x, y, directions = randn(5, 3), randn(5, 3, seed=1) + 0.5, unit(4, 3)
    total = 0.0
    for direction in directions:
        a, b = (x @ direction).tolist(), (y @ direction).tolist()
        pairings = itertools.permutations(b)
        total += min(sum((i - j) ** 2 for i, j in zip(a, p, strict=True)) for p in pairings) / 5
    assert sliced_wasserstein(x, y, directions).item() == pytest.approx(total / 4, abs=1e-12)


@pytest.mark.parametrize("n, m", [(6, 4), (4, 6), (12, 3), (5, 1), (7, 8)])
def test_samples_of_different_sizes_are_compared_as_if_each_value_were_repeated(n, m):
    x, y, directions = randn(n, 3), randn(m, 3, seed=1), unit(4, 3)
    repeated = sliced_wasserstein(x.repeat(m, 1), y.repeat(n, 1), directions)
    torch.testing.assert_close(sliced_wasserstein(x, y, directions), repeated)


@pytest.mark.parametrize("m", [6, 4])
def test_it_is_symmetric_blind_to_order_and_0_for_equal_samples(m):
    x, y, directions = randn(6, 3), randn(m, 3, seed=1), unit(4, 3)
    value = sliced_wasserstein(x, y, directions)
    torch.testing.assert_close(sliced_wasserstein(y, x, directions), value)
    torch.testing.assert_close(sliced_wasserstein(x.flip(0), y, directions), value)
    assert sliced_wasserstein(x, x.flip(0), directions) == 0
    assert sliced_wasserstein(x, x.repeat(2, 1), directions).item() == pytest.approx(0, abs=1e-30)


def test_between_gaussians_it_is_the_closed_form():
    factor = torch.tensor([[1.5, 0.0, 0.0], [0.7, 0.4, 0.0], [-0.5, 0.3, 1.0]], dtype=torch.float64)
    mean, directions = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64), unit(12, 3)
    x, y = randn(100_000, 3) @ factor.T + mean, randn(100_000, 3, seed=1)
    stds = ((directions @ factor @ factor.T) * directions).sum(1).sqrt()
    exact = ((directions @ mean).square() + (stds - 1).square()).mean().item()
    assert sliced_wasserstein(x, y, directions).item() == pytest.approx(exact, rel=0.02)


def test_between_isotropic_gaussians_it_is_the_squared_distance_per_channel_and_that_of_scales():
    mean, axes = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    x, y = 0.6 * randn(100_000, 3) + mean, randn(100_000, 3, seed=1)
    exact = mean.square().sum().item() / 3 + 0.4**2
    assert sliced_wasserstein(x, y, axes).item() == pytest.approx(exact, rel=0.02)
    assert sliced_wasserstein(x[:2000], y[:2000], unit(2000, 3)).item() == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("m", [5, 3])
def test_its_gradient_through_the_sort_is_that_of_finite_differences(m):
    x, y = randn(5, 3).requires_grad_(), randn(m, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: sliced_wasserstein(x, y, unit(4, 3)), (x, y))
    same = torch.zeros(5, 3, requires_grad=True)  # collapsed
    sliced_wasserstein(same, randn(m, 3).float(), unit(4, 3).float()).backward()
    assert same.grad.isfinite().all() and same.grad.any()


def test_tokens_are_pooled_and_images_compared_as_vectors():
    z, drawn = randn(5, 4, 2), randn(5, 4, 2, seed=1)
    for samples, shape in (("token", (20, 2)), ("image", (5, 8))):
        regularizer = SWAE(SPEC, SPEC, weight=3.0, samples=samples, directions=7)
        directions = Noise(0).fork(0).normal(z.new_empty(7, shape[1]), "directions")
        expected = 3 * sliced_wasserstein(
            z.reshape(shape), drawn.reshape(shape), normalize(directions, dim=1)
        )
        found = regularizer.loss(z, z, step(reference=drawn))["swae"]
        torch.testing.assert_close(found, expected)
        assert not torch.isclose(regularizer.loss(z, z, step(1, drawn))["swae"], found)  # other directions


def test_a_reference_of_single_tokens_says_nothing_of_whole_images():
    with pytest.raises(Unfit, match="whole latents of 4"):
        SWAE(SPEC, LatentSpec(1, 9), samples="image")
    SWAE(SPEC, LatentSpec(1, 9), "gaussian", samples="image")
    z, drawn = randn(5, 4, 2), randn(5, 1, 2, seed=1)
    found = SWAE(SPEC, LatentSpec(1, 2)).loss(z, z, step(reference=drawn))["swae"]
    repeated = SWAE(SPEC, SPEC).loss(z, z, step(reference=drawn.expand(-1, 4, -1)))["swae"]
    torch.testing.assert_close(found, repeated)


def test_single_tokens_are_compared_with_tokens_and_images_with_pooled_tokens():
    spec, samples = LatentSpec(4, 3, (2, 2)), randn(20, 16, 3).float()
    reference = Reference(samples, None, (4, 4))
    for compared, fit in (("token", Reference.thinned), ("image", Reference.pooled)):
        own = SWAE(spec, LatentSpec(16, 3, (4, 4)), samples=compared).reference(reference)
        assert torch.equal(own.samples, fit(reference, spec).standardised().samples)


@pytest.mark.parametrize("target", ["reference", "gaussian"])
def test_descending_it_moves_latents_onto_the_prior(target):
    regularizer = SWAE(SPEC, SPEC, target, weight=1.0)
    goal = 2.0 if target == "reference" else 0.0
    scale, shift = torch.full((2,), 0.3, requires_grad=True), torch.full((2,), 3.0, requires_grad=True)
    optimizer = torch.optim.Adam([scale, shift], lr=0.1)
    for index in range(100):
        optimizer.zero_grad()
        z = scale * randn(64, 4, 2, seed=-index).float() + shift
        drawn = randn(64, 4, 2, seed=index + 1).float() + 2
        regularizer.loss(z, z, step(index, drawn))["swae"].backward()
        optimizer.step()
    assert (shift - goal).abs().max() < 0.2 and (scale.abs() - 1).abs().max() < 0.2
