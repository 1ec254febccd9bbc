"""Neighbours of 20,000 features and their overlap with 2,000, against all distances in double precision.

pytest tests/benchmarks/test_neighbours.py --benchmark-enable -n 0
"""

import time

import numpy as np
import pytest
import torch
from helpers.in_turns import in_turns

from latentbench.bench.metrics import neighbours
from latentbench.bench.metrics.neighbours import REACH, halves, nearest, overlap, radii

GENERATED, REAL, FEATURES, ROWS = 2000, 20_000, 320, 256


def plain_neighbours(points, k):
    points = points.double()
    chunks = [torch.cdist(some, points).topk(k + 1, largest=False) for some in points.split(ROWS)]
    distances, who = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return distances[:, 1:], who[:, 1:]


def plain_radii(points):
    return plain_neighbours(points, 5)[0][:, [2, 4]]


def plain_nearest(queries, bank):
    bank = bank.double()
    return torch.cat([torch.cdist(some.double(), bank).amin(1) for some in queries.split(ROWS)])


def plain_overlap(generated, real, choices):
    """The distances to the nearest, who lies in a ball, in how many, and the real ones that are held."""
    balls = neighbours._radii_of_reference(real)
    distance, who = plain_neighbours(generated, REACH)
    holding = neighbours._holding(who, torch.cat([torch.ones(1, len(generated), dtype=torch.bool), choices]))
    held_by, each = np.zeros((len(holding), len(real)), dtype=np.int64), []
    for rows in torch.arange(len(generated)).split(ROWS):
        distances = torch.cdist(generated[rows].double(), real.double())
        nearer = torch.searchsorted(distance[rows], distances).numpy()
        for word, bits in zip(held_by, holding, strict=True):
            word |= np.bitwise_or.reduce(np.take_along_axis(bits[rows], nearer, 1), 0)
        near, _ = distances.topk(5, largest=False)
        inside = (distances <= balls[:, 0]).any(1).double()
        each.append((near[:, 0], inside, (distances <= balls[:, 1]).sum(1) / 5))
    return *(torch.cat(parts) for parts in zip(*each, strict=True)), torch.from_numpy(held_by)


@pytest.fixture(scope="module")
def sets(request):
    """Correlated features, as a network's are: a few directions hold most of the variance."""
    real = REAL if request.config.getoption("benchmark_enable") else 1000
    generator = torch.Generator().manual_seed(0)
    scales = torch.arange(1, FEATURES + 1) ** -0.5
    return [torch.randn(n, FEATURES, generator=generator) * scales for n in (GENERATED, real)]


@pytest.mark.parametrize("name", ["radii", "nearest", "overlap"])
@pytest.mark.benchmark(timer=time.process_time)  # seconds of CPU: the same beside other work
def test_neighbours(benchmark, name, sets):
    generated, real = sets
    choices = halves("recall", GENERATED)
    ours, plain, given = {
        "radii": (radii, plain_radii, (real,)),
        "nearest": (nearest, plain_nearest, (generated, real)),
        "overlap": (
            lambda a, b, chosen: overlap(a, b, None, chosen),
            plain_overlap,
            (generated, real, choices),
        ),
    }[name]
    neighbours._radii_of_reference(real)  # later cells find it computed
    ways = {"ours": lambda: ours(*given), "plain": lambda: plain(*given)}
    found, expected = in_turns(benchmark, ways, rounds=3, warmup_rounds=0).values()
    if name == "overlap":
        near, inside, density, held_by = expected
        torch.testing.assert_close(found.nearest, near)
        assert found.inside.equal(inside) and found.density.equal(density.double())
        assert found.recall[0].equal((held_by[0] & 1).double())
    else:
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
