import numpy as np
import pytest
import torch

from latentbench.bench.metrics import neighbours, pairwise
from latentbench.bench.metrics.neighbours import halves, nearest, overlap, radii
from latentbench.bench.metrics.pairwise import Squares

WIDTHS = [5, 90]  # in double and in single precision


def drawn(n, seed, width):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def ties(width):
    """Sets that share points, with near copies and duplicates, far from the origin and on a grid."""
    generated, real = drawn(60, 0, width), drawn(80, 1, width)
    generated[:9], generated[9:18] = real[:9], real[9:18] + 1e-6
    generated[20:40], real[60:75] = generated[20], real[60]  # more duplicates than there are candidates
    real[75], generated[41] = 1e4, 30 * generated[41]
    grid = drawn(150, 2, width).mul(0.6).round()
    return {
        "mixed": (generated, real),
        "far": (generated + 1000, real + 1000),
        "grid": (grid[:70], grid[70:]),
        "swapped": (real, generated),
        "clusters": (100 * real[:60].round() + 1e-3 * generated, 100 * real[:70].round() + 1e-3 * real[10:]),
        "equal": (torch.ones(30, width), torch.ones(40, width)),
        "tiny": (1e-9 * generated, 1e-9 * real),
    }


def apart(a, b):
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def among(points):
    distances = apart(points, points)
    return distances.fill_diagonal_(torch.inf).sort(stable=True)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ties(2))
def test_every_share_and_neighbour_is_the_brute_force_one_down_to_ties(name, width):
    generated, real = ties(width)[name]
    n, m = len(generated), len(real)
    labels, choices = (torch.arange(n) % 3, torch.arange(m) % 3), halves("recall", n)
    distances, balls = apart(generated, real), among(real).values
    assert radii(real).equal(balls[:, [2, 4]])
    found = overlap(generated, real, labels, choices)
    near, who = distances.sort(stable=True)
    assert found.nearest.equal(near[:, 0]) and nearest(real, generated).equal(distances.amin(0))
    assert found.inside.equal((distances <= balls[:, 2]).any(1).double())
    held = distances <= balls[:, 4]
    assert found.density.equal((held.sum(1) / 5).double())
    assert found.coverage.equal(torch.stack([held.sum(0), (torch.arange(n)[:, None] * held).sum(0)]).float())
    assert found.agreement.equal((labels[1][who[:, :5]] == labels[0][:, None]).double().mean(1))
    # Of all and of any half: held by a ball that reaches to its third neighbour in the half.
    for got, chosen in zip(found.recall, [torch.ones(n, dtype=torch.bool), *choices], strict=True):
        reach = among(generated[chosen]).values[:, 2]
        within = (distances[chosen] <= reach[:, None]).any(0)
        assert got.equal(within.double())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ties(2))
def test_the_bound_is_below_the_squares_and_above_them_less_twice_the_error(name, width):
    a, b = ties(width)[name]
    found = Squares(a, b)
    below, true = found.below(torch.arange(len(a))).double(), apart(a, b).square()
    slack = 2 * found.error * (found.norms[0][:, None] + found.norms[1])
    assert (below <= true).all() and (true <= below + slack).all()


@pytest.mark.parametrize("width", [3, 8, 17, 320])
def test_the_distance_of_a_pair_is_the_same_in_any_set_and_order(width):
    a, b = drawn(40, 0, width), drawn(50, 1, width)
    whole = pairwise.exact(a, b)
    assert whole.equal(pairwise.exact(b, a).T)
    assert all(pairwise.exact(a[i, None], b[j, None]) == whole[i, j] for i in range(40) for j in (0, 7, 49))
    np.testing.assert_allclose(whole, (a[:, None] - b).double().norm(dim=2), rtol=1e-6)


def test_blocks_and_pairs_by_parts_change_nothing(monkeypatch):
    generated, real = ties(90)["mixed"]
    whole = overlap(generated, real, None, halves("recall", 60))
    monkeypatch.setattr(neighbours, "ROWS", 7)
    monkeypatch.setattr(neighbours, "PAIRS", 11)
    monkeypatch.setattr(pairwise, "MOST", 1000)
    for one, two in zip(overlap(generated, real, None, halves("recall", 60)), whole, strict=True):
        assert one is two is None or one.equal(two)
