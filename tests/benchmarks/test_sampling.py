"""Sampling speed of the generators: `pytest tests/benchmarks/test_sampling.py --benchmark-enable -n 0`."""

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
        target = noise.flip(1) if index % 2 else noise
        x = target.clone()
        for i in range(1, x.shape[1]):
            hidden = block.embed(x) + block.positions + block.label(labels)
            for layer in block.layers:
                hidden = layer(hidden)
            a, b = block.output(hidden)[:, i - 1].chunk(2, dim=-1)
            x[:, i] = target[:, i] * a.exp() + b
        noise = x.flip(1) if index % 2 else x
    return noise


@pytest.mark.parametrize("way", ["cached", "uncached"])
@pytest.mark.parametrize("tokens", [16, 64])
def test_tarflow_inverse(benchmark, tokens, way):
    torch.manual_seed(0)
    model = TARFlow(LatentSpec(tokens, 8), 10).eval()
    for block in model.blocks:
        torch.nn.init.normal_(block.output.weight, std=0.02)
    noise = torch.randn(len(LABELS), tokens, 8)
    inverse = model.inverse if way == "cached" else lambda *inputs: uncached(model, *inputs)
    with torch.no_grad():
        z = benchmark.pedantic(inverse, (noise, LABELS), rounds=3, warmup_rounds=1)
        torch.testing.assert_close(model(z, LABELS)[0], noise, rtol=1e-3, atol=1e-3)
