"""Sampling speed of the generators: `pytest tests/benchmarks/test_sampling.py --benchmark-enable -n 0`."""

from functools import partial

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise
from latentbench.bench.registry import create, names
from latentbench.generators.tarflow import TARFlow

SPEC = LatentSpec(16, 8, (4, 4))
LABELS = torch.arange(128) % 10


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("name", names("generators"))
def test_sampling(benchmark, name, guidance):
    model = create("generators", name, spec=SPEC, classes=10).eval()
    benchmark.extra_info["samples"] = len(LABELS)
    with torch.no_grad():
        z = benchmark.pedantic(model.sample, (LABELS, guidance, Noise(0)), rounds=3, warmup_rounds=1)
    assert z.shape == (len(LABELS), 16, 8)


def uncached(model: TARFlow, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Runs each block anew on all tokens for every token."""
    for index, block in reversed(list(enumerate(model.blocks))):
        target = model._reorder(noise, index)
        x = target.clone()
        for i in range(x.shape[1]):
            a, b = block.affine(x, labels)
            x[:, i] = target[:, i] * a[:, i].exp() + b[:, i]
        noise = model._reorder(x, index)
    return noise


LAYOUTS = {"tarflow": {}, "simflow": {"conditioning": "adaln"}, "starflow": {"conditioning": "prefix"}}


@pytest.mark.parametrize("way", ["cached", "uncached", "in groups"])
@pytest.mark.parametrize("tokens", [16, 64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tarflow_inverse(benchmark, layout, tokens, way):
    torch.manual_seed(0)
    model = TARFlow(LatentSpec(tokens, 8), 10, **LAYOUTS[layout]).eval()
    for block in model.blocks:
        torch.nn.init.normal_(block.output.weight, std=0.02)
    noise, labels = torch.randn(32, tokens, 8), LABELS[:32]
    ways = {
        "uncached": partial(uncached, model),
        "in groups": partial(model.inverse, group=8, tolerance=1e-5),
    }
    inverse = ways.get(way, model.inverse)
    benchmark.group = f"{layout} of {tokens} tokens"
    with torch.no_grad():
        z = benchmark.pedantic(inverse, (noise, labels), rounds=3, warmup_rounds=1)
        torch.testing.assert_close(model(z, labels)[0], noise, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("iterations", [64, 16, 4])
@pytest.mark.benchmark(
    group="mar: 64 tokens in so many rounds; attention looks both ways, so nothing is kept"
)
def test_mar_rounds(benchmark, iterations):
    model = create("generators", "mar", spec=LatentSpec(64, 8, (8, 8)), classes=10).eval()
    draw = partial(model.sample, LABELS[:32], 1.5, Noise(0), iterations=iterations)
    with torch.no_grad():
        z = benchmark.pedantic(draw, rounds=3, warmup_rounds=1)
    assert z.shape == (32, 64, 8)
