"""The kernel discrepancy against brute force, closed forms and scikit-learn's kernels."""

import math

import numpy as np
import pytest
import torch
from sklearn.gaussian_process.kernels import RationalQuadratic
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

from latentbench.bench.api import LatentSpec, Noise, Reference, Step, Unfit
from latentbench.regularizers.mmd import (
    MMD,
    SCALES,
    imq,
    median_variance,
    mmd,
    rbf,
    some_tokens,
    squared_distances,
)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(a, b):
    """The inverse multiquadratics of two vectors."""
    d2 = sum((i - j) ** 2 for i, j in zip(a.tolist(), b.tolist(), strict=True))
    return sum(s * 2 * len(a) / (s * 2 * len(a) + d2) for s in SCALES)


def test_the_estimate_is_that_of_a_double_loop_over_pairs_of_different_rows():
    x, y = randn(4, 2, 3), randn(5, 3, 3, seed=1) + 0.5

    def within(rows):
        pairs = [
            value(a, b)
            for i, one in enumerate(rows)
            for j, other in enumerate(rows)
            for a in one
            for b in other
            if i != j
        ]
        return sum(pairs) / len(pairs)

    across = [value(a, b) for a in x.flatten(0, 1) for b in y.flatten(0, 1)]
    expected = within(x) + within(y) - 2 * sum(across) / len(across)
    assert mmd(x, y, imq(3)).item() == pytest.approx(expected, abs=1e-10)


def test_kernels_are_scikit_learn_s():
    x, y = randn(6, 3), randn(5, 3, seed=1)
    d2 = squared_distances(x, y)
    np.testing.assert_allclose(d2, euclidean_distances(x, y, squared=True), atol=1e-12)
    np.testing.assert_allclose(rbf(torch.tensor(0.7))(d2), rbf_kernel(x, y, gamma=1 / 1.4), rtol=1e-6)
    # C / (C + d^2) is the rational quadratic with alpha = 1 and 2 l^2 = C.
    kernels = [RationalQuadratic(alpha=1, length_scale=math.sqrt(3 * s)) for s in SCALES]
    np.testing.assert_allclose(imq(3)(d2), sum(k(x.numpy(), y.numpy()) for k in kernels), rtol=1e-10)


def test_it_is_zero_on_average_for_equal_distributions_even_with_dependent_tokens():
    def draw(seed):  # tokens of a row share a part
        return randn(8, 1, 2, seed=seed) + 0.5 * randn(8, 4, 2, seed=seed + 10_000)

    estimates = torch.stack([mmd(draw(2 * i), draw(2 * i + 1), imq(2)) for i in range(600)])
    error = estimates.std() / 600**0.5
    assert abs(estimates.mean()) < 4 * error and (estimates < 0).any()
    biased = torch.stack(
        [mmd(draw(2 * i).flatten(0, 1)[:, None], draw(2 * i + 1), imq(2)) for i in range(200)]
    )
    assert biased.mean() > 10 * error  # had pairs within a row been counted


def test_between_two_gaussians_it_is_the_closed_form():
    shift, variance = torch.tensor([1.0, -0.5], dtype=torch.float64), torch.tensor(1.5, dtype=torch.float64)
    # x - y ~ N(m, 2 I): E exp(-|x - y|^2 / 2 s) = s / (s + 2) exp(-|m|^2 / (2 (s + 2))) in two dimensions.
    scale = (variance / (variance + 2)).item()
    exact = 2 * scale * (1 - math.exp(-shift.square().sum().item() / (2 * (variance.item() + 2))))
    draws = [
        mmd(randn(20, 1, 2, seed=2 * i), shift + randn(30, 1, 2, seed=2 * i + 1), rbf(variance))
        for i in range(500)
    ]
    estimates = torch.stack(draws)
    assert estimates.mean().item() == pytest.approx(exact, abs=4 * estimates.std().item() / 500**0.5)
    assert exact > 20 * estimates.std().item() / 500**0.5


@pytest.mark.parametrize("kernel", [imq(3), rbf(torch.tensor(1.3, dtype=torch.float64))], ids=["imq", "rbf"])
def test_its_gradient_is_that_of_finite_differences(kernel):
    x, y = randn(3, 2, 3).requires_grad_(), randn(4, 1, 3, seed=1)
    assert torch.autograd.gradcheck(lambda x: mmd(x, y, kernel), (x,))


def test_descending_it_moves_latents_onto_the_prior():
    regularizer = MMD(LatentSpec(4, 2), LatentSpec(4, 2), weight=1.0)
    scale, shift = torch.full((2,), 0.3, requires_grad=True), torch.full((2,), 3.0, requires_grad=True)
    optimizer = torch.optim.Adam([scale, shift], lr=0.1)
    for index in range(100):
        optimizer.zero_grad()
        z, reference = scale * randn(32, 4, 2, seed=-index).float() + shift, randn(32, 4, 2, seed=index + 1)
        regularizer.loss(z, z, step(index, reference.float()))["mmd"].backward()
        optimizer.step()
    assert shift.abs().max() < 0.2 and (scale.abs() - 1).abs().max() < 0.2


def step(index=0, reference=None):
    return Step(index, torch.zeros(64, 1, 2, 2), None, Noise(0).fork(index), lambda z: z, None, reference)


def test_the_gaussian_s_width_is_the_released_heuristic():
    x, y = randn(6, 2, 3), randn(5, 1, 3, seed=1)
    flat = [v.flatten(0, 1).numpy() for v in (x, y)]
    d2 = [np.sort(euclidean_distances(a, b, squared=True).ravel()) for a, b in (flat, flat[:1] * 2)]
    medians = sum(v[(len(v) - 1) // 2] for v in d2)
    assert median_variance(x, y).item() == pytest.approx(medians, abs=1e-10)


def test_tokens_are_drawn_without_replacement_and_all_where_there_are_few():
    z = torch.arange(24.0).reshape(2, 12, 1)
    drawn = some_tokens(z, 5, Noise(0))
    assert drawn.shape == (2, 5, 1) and all(len(set(row)) == 5 for row in drawn.flatten(1).tolist())
    assert drawn[0].max() < 12 <= drawn[1].min()
    assert not torch.equal(some_tokens(z, 5, Noise(1)), drawn)
    assert some_tokens(z, 12, Noise(0)) is z


def test_whole_images_are_compared_as_vectors_and_need_a_reference_of_whole_images():
    regularizer = MMD(LatentSpec(4, 2), LatentSpec(4, 2), samples="image", weight=3.0)
    z, drawn = randn(5, 4, 2), randn(6, 4, 2, seed=1)
    expected = 3 * mmd(z.reshape(5, 1, 8), drawn.reshape(6, 1, 8), imq(8))
    torch.testing.assert_close(regularizer.loss(z, z, step(reference=drawn))["mmd"], expected)
    with pytest.raises(Unfit, match="whole latents of 4"):
        MMD(LatentSpec(4, 2), LatentSpec(1, 9), samples="image")
    MMD(LatentSpec(4, 2), LatentSpec(1, 9))


def test_single_tokens_are_compared_with_tokens_and_images_with_pooled_tokens():
    spec, samples = LatentSpec(4, 3, (2, 2)), randn(20, 16, 3).float()
    reference = Reference(samples, None, (4, 4))
    for compared, fit in (("token", Reference.thinned), ("image", Reference.pooled)):
        own = MMD(spec, LatentSpec(16, 3, (4, 4)), samples=compared).reference(reference)
        assert torch.equal(own.samples, fit(reference, spec).standardised().samples)
