import pytest
import torch

from latentbench.bench.metrics import neighbours, pairwise
from latentbench.bench.metrics.neighbours import PARTS, interleaved
from latentbench.bench.metrics.pairwise import GROUP, Lowest, _lowest


def drawn(n, width, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [5, 90, 91])
def test_every_part_of_the_order_is_like_the_whole(n):
    order = interleaved(n)
    assert order.sort().values.equal(torch.arange(n))
    assert order[: -(-n // PARTS)].equal(torch.arange(0, n, PARTS))


@pytest.mark.parametrize("most", [5, 2**18])
@pytest.mark.parametrize("width", [5, 90])
@pytest.mark.parametrize("kind", ["classes", "collapsed"])
def test_neighbours_are_the_brute_force_ones_however_the_points_are_sorted(kind, width, most, monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", 50)
    monkeypatch.setattr(pairwise, "MOST_FOUND", most)
    points = drawn(600, width)
    points += 20 * (torch.arange(600) // 100)[:, None]  # one class after the other
    if kind == "collapsed":
        points[:300] = points[0]
    distances, who = neighbours.neighbours(points, 24)
    every = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    every.fill_diagonal_(torch.inf)
    assert distances.equal(every.topk(24, largest=False).values)
    assert every.gather(1, who).equal(distances) and all(len(set(row)) == 24 for row in who.tolist())


@pytest.mark.parametrize("k", [1, 5, 32])
def test_the_lowest_of_rows_are_topks(k):
    numbers = drawn(40, 80 * GROUP + 7)
    numbers[0], numbers[1, 5:], numbers[2, :300] = 1.0, torch.inf, -7.0  # equal, few finite, many lowest
    lowest, where = _lowest(numbers, k)
    assert lowest.sort().values.equal(numbers.topk(k, largest=False).values.sort().values)
    assert numbers.gather(1, where).equal(lowest)
    assert all(len(set(row)) == k for row in where.tolist())


def test_the_lowest_of_blocks_by_columns_are_those_of_the_whole():
    numbers = drawn(60, 40).T.contiguous()  # (40 others, 60 points)
    lowest = Lowest(60, 3, numbers.dtype)
    lowest.merge()  # of nothing
    for rows in (slice(0, 10), slice(10, 25), slice(25, 40)):
        lowest.add_columns(rows, slice(0, 60), numbers[rows])
        lowest.merge()
    found, expected = lowest.numbers.sort().values, numbers.T.topk(3, largest=False).values
    assert found.equal(expected) and numbers.T.gather(1, lowest.who).sort().values.equal(expected)
