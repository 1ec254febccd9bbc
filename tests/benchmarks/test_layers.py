"""Blocks at published widths, forward and backward, against what this CPU does in one large matrix product.

The ratio is of seconds for the same number of operations; causal attention counts as a whole square. Read it
with OMP_NUM_THREADS=1.

pytest tests/benchmarks/test_layers.py --benchmark-enable -n 0
"""

import time
from functools import partial

import pytest
import torch
from helpers.in_turns import in_turns
from timm.models.vision_transformer import Block as ViTBlock

from latentbench.bench.api import LatentSpec
from latentbench.bench.models.activations import step_cost
from latentbench.bench.nn.blocks import rotary_table
from latentbench.bench.nn.causal_blocks import CausalLayer
from latentbench.bench.registry import create, get
from latentbench.bench.training.one_step import backward

IMAGES, TOKENS = 2, 256
SPEC = LatentSpec(TOKENS, 32, (16, 16))
LARGE = 1536  # of the matrices in the product


def of_generator(name, size):
    """The first block of a generator without the others, and what it is given."""
    options = get("generators", name).sizes[size] | {"depth": 1}
    model = create("generators", name, spec=SPEC, classes=0, **options)
    return model.blocks[0], (torch.randn(IMAGES, 1, options["width"]), model.rotary)


def causal(width, heads, adaptive):
    modulation = torch.randn(IMAGES, 1, 6 * width) if adaptive else None
    rotary = None if adaptive else rotary_table(SPEC, width // heads)
    return CausalLayer(width, heads, adaptive), (modulation, None, 0, None, rotary)


BLOCKS = {
    "LightningDiT-XL": (1152, partial(of_generator, "lightningdit", "XL")),
    "SiT-XL": (1152, partial(of_generator, "sit", "XL")),
    "MAR-L": (1024, lambda: (ViTBlock(1024, 16, qkv_bias=True, proj_drop=0.1, attn_drop=0.1), ())),
    "ViT-L": (1024, lambda: (ViTBlock(1024, 16, qkv_bias=True), ())),
    "SimFlow-L": (1024, partial(causal, 1024, 16, True)),
    "STARFlow-XL": (2048, partial(causal, 2048, 32, False)),
}


def step(block, x, *given):
    backward(block(x, *given).square().mean())


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.benchmark(timer=time.process_time)  # seconds of CPU: the same beside other work
def test_block(benchmark, name):
    width, build = BLOCKS[name]
    torch.manual_seed(0)
    block, given = build()
    x, (a, b) = torch.randn(IMAGES, TOKENS, width), torch.randn(2, LARGE, LARGE)
    flops = step_cost(step, block, x, *given).flops
    ways = {"block": lambda: step(block, x, *given), "matrix product": lambda: a @ b}
    x.requires_grad_()
    in_turns(benchmark, ways, amounts={"block": flops, "matrix product": 2 * LARGE**3})
    assert x.grad.isfinite().all()
    if not benchmark.disabled:
        seconds = benchmark.extra_info["seconds"]
        benchmark.extra_info["µs a token"] = round(1e6 * seconds["block"] / (IMAGES * TOKENS))
        benchmark.extra_info["GFLOP/s of the product"] = round(2e-9 * LARGE**3 / seconds["matrix product"])
