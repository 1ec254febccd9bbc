import numpy as np
import pytest
import torch

from latentbench.bench.metrics.bootstrap import counts
from latentbench.bench.metrics.proxies import sliced_distance
from latentbench.bench.metrics.sliced import DIRECTIONS, random_directions, sliced_estimate, weight_changes


def points(n, width, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).double()


def whitened(n, width):
    """Points whose second moments are exactly those of N(0, I)."""
    drawn = points(n, width)
    return torch.linalg.qr(drawn).Q * n**0.5


def transport_cost(x, weights, y):
    """The squared 2-Wasserstein distance of weighted points (n,) to points (m,), by their quantiles."""
    order = np.argsort(x)
    x, own = x[order], np.cumsum(weights[order] / weights.sum())
    other = np.arange(1, len(y) + 1) / len(y)
    levels = np.unique(np.concatenate([own, other]).round(15))
    middles = (levels + np.concatenate([[0], levels[:-1]])) / 2
    moved = (
        x[np.searchsorted(own, middles).clip(max=len(x) - 1)] - np.sort(y)[np.searchsorted(other, middles)]
    )
    return float((np.diff(np.concatenate([[0], levels])) * moved**2).sum())


def test_directions_are_unit_vectors_in_all_directions():
    axes = random_directions(5)
    assert axes.shape == (DIRECTIONS, 5) and torch.equal(axes, random_directions(5))
    assert torch.allclose(axes.square().sum(1), torch.ones(DIRECTIONS).double())
    assert torch.allclose(axes.T @ axes / DIRECTIONS, torch.eye(5).double() / 5, atol=0.03)


def test_a_shift_and_a_scale_have_their_closed_forms():
    x, shift = whitened(400, 6), torch.tensor([2.0, 0, -1, 0.5, 0, 0]).double()
    along = 3 * 6 * (random_directions(6) @ shift).square().mean().item()
    assert sliced_estimate("MIND", x + shift, x) == pytest.approx(along)
    assert along == pytest.approx(3 * shift.square().sum().item(), rel=0.1)  # in expectation over directions
    assert sliced_estimate("MIND", 1.5 * x, x) == pytest.approx(3 * 6 * 0.5**2)
    assert sliced_estimate("MIND", x, x.flip(0)) == 0
    y = points(400, 6, seed=1)
    assert sliced_estimate("MIND", x, y) == pytest.approx(float(sliced_estimate("MIND", y, x)))


def test_changes_are_derivatives_by_the_weights_of_images():
    a, b, axes, step = points(12, 3), points(12, 3, seed=1) + 0.3, random_directions(3)[:5], 1e-6

    def distance(weights):
        sides = zip((a @ axes.T).T.numpy(), (b @ axes.T).T.numpy(), strict=True)
        return 3 * 3 * np.mean([transport_cost(x, weights, y) for x, y in sides])

    assert distance(np.ones(12)) == pytest.approx(sliced_distance(a, b, axes).item())
    numeric = []
    for row in range(12):
        more, less = np.ones(12), np.ones(12)
        more[row], less[row] = 1 + step, 1 - step
        numeric.append((distance(more) - distance(less)) / (2 * step))
    assert weight_changes(a, b, axes).numpy() == pytest.approx(numeric, abs=1e-5)


def test_blocks_of_directions_change_nothing(monkeypatch):
    a, b, axes = points(30, 4), points(30, 4, seed=1), random_directions(4)
    whole = weight_changes(a, b, axes)
    monkeypatch.setattr("latentbench.bench.metrics.sliced.VALUES", 7 * 30)
    assert torch.allclose(weight_changes(a, b, axes), whole)


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_replicates_spread_as_values_of_new_samples_do(scale):
    reference, values, spreads = points(200, 8), [], []
    for seed in range(1, 31):
        found = sliced_estimate("MIND", scale * points(200, 8, seed), reference)
        values.append(float(found))
        spreads.append(np.std(found.replicates, ddof=1))
    assert np.mean(spreads) == pytest.approx(np.std(values, ddof=1), rel=0.35)
    assert np.mean(found.replicates) == pytest.approx(float(found), abs=0.5 * spreads[-1])


def test_replicates_weight_images_as_all_metrics_of_the_name_do():
    a, b = points(20, 3), points(20, 3, seed=1)
    found = sliced_estimate("MIND[x]", a, b)
    changes = weight_changes(a, b, random_directions(3))
    expected = float(found) + (counts("MIND[x]", 20) - 1) @ changes
    assert found.replicates == pytest.approx(expected.tolist())
