"""The cost of proxies: seconds by evaluator, and memory of many latents.

pytest tests/benchmarks/test_proxies_cost.py --benchmark-enable -n 0 --benchmark-columns=median,rounds

prints seconds of scoring 10,000 latents of 16 tokens and 16 channels, with replicates, metric by metric;
operations that decode images or sample are not among them. `-m nightly` measures memory.
"""

from types import SimpleNamespace

import pytest
import torch
from helpers.fake_subject import FakeSubject
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
def cell(request):
    return subject(request.param, 16, 16)


@pytest.mark.parametrize("name", EVALUATORS)
def test_seconds_of_each_evaluator(benchmark, name, cell):
    benchmark.group = f"{len(cell.z['val'])} latents"
    scores = benchmark.pedantic(create("evaluators", name).run, (cell,), rounds=1)
    assert all(score.replicates is not None for score in scores.values())


def test_seconds_of_neighbours(benchmark, cell):
    benchmark.group = f"{len(cell.z['val'])} latents"
    near = benchmark.pedantic(interpolation_neighbours, (cell.z["train"], cell.z["val"], 10), rounds=1)
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
