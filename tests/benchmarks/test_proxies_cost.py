"""The cost of proxies: seconds by evaluator, and memory of many latents.

pytest tests/benchmarks/test_proxies_cost.py --benchmark-enable -n 0

measures scoring of 10,000 latents of 16 tokens and 16 channels over that of 2,000, with replicates, by each
evaluator; operations that decode images or sample are not among them. `-m nightly` measures memory.
"""

import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers.fake_subject import FakeSubject
from helpers.in_turns import in_turns
from helpers.measured_memory import peak_of

from latentbench.bench.api import LatentSpec
from latentbench.bench.metrics.proxies import interpolation_neighbours
from latentbench.bench.registry import create

EVALUATORS = ["velocity_variance", "spatial", "label_neighbours", "normality"]
FLOOR = 20e6  # bytes that come and go with the allocator, as in test_memory.py


def subject(n, tokens, channels):
    z = torch.randn(n, tokens, channels, generator=torch.Generator().manual_seed(0))
    side = round(tokens**0.5)
    cell = FakeSubject(
        scope="tokenizer",
        train=8,
        val=8,
        tokenizer=SimpleNamespace(spec=LatentSpec(tokens, channels, (side, side))),
        z={"train": z, "val": z},
    )
    cell.labels = lambda split: torch.arange(n) % 10
    return cell


@pytest.fixture(scope="module", params=[360, pytest.param(10_000, marks=pytest.mark.measured)])
def cells(request):
    """Latents, and a fifth of them."""
    return {f"{n:,} latents": subject(n, 16, 16) for n in (request.param, request.param // 5)}


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.benchmark(timer=time.process_time)  # seconds of CPU: the same beside other work
def test_seconds_of_each_evaluator(benchmark, name, cells):
    ways = {of: partial(create("evaluators", name).run, cell) for of, cell in cells.items()}
    for scores in in_turns(benchmark, ways, rounds=3, warmup_rounds=0).values():
        assert all(score.replicates is not None for score in scores.values())


@pytest.mark.benchmark(timer=time.process_time)
def test_seconds_of_neighbours(benchmark, cells):
    ways = {
        of: partial(interpolation_neighbours, cell.z["train"], cell.z["val"], 10)
        for of, cell in cells.items()
    }
    for near in in_turns(benchmark, ways, rounds=3, warmup_rounds=0).values():
        assert torch.equal(near[:, 0], torch.arange(len(near)))  # itself


@pytest.mark.nightly
@pytest.mark.parametrize("name", EVALUATORS)
def test_memory_of_200_000_latents_is_what_plans_say(name):
    many, shape = subject(200_000, 4, 4), (200_000, 4, 4)
    create("evaluators", name).run(subject(400, 4, 4))  # imports
    evaluator = create("evaluators", name)
    taken = peak_of(lambda: len(evaluator.run(many)) == 0)
    planned = evaluator.memory_bytes(SimpleNamespace(latents=lambda split: shape))
    print(f"{name}: {taken / 1e6:.0f} MB, planned {planned / 1e6:.0f} MB")
    assert taken < 1.5 * planned + FLOOR


@pytest.mark.nightly
def test_memory_of_neighbours_among_200_000_latents_is_that_of_blocks():
    train, val = torch.randn(200_000, 16, 16), torch.randn(500, 16, 16)  # 205 MB
    interpolation_neighbours(train[:1000], val, 10)
    taken = peak_of(lambda: len(interpolation_neighbours(train, val, 10)) == 0)
    print(f"neighbours: {taken / 1e6:.0f} MB")
    assert taken < 3 * 4 * 2**25 + FLOOR  # a block as it is, its squares, and normalised
