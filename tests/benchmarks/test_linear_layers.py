"""A training step with oneDNN's linear layers, against MKL's: forward and backward, without the optimizer.

pytest tests/benchmarks/test_linear_layers.py --benchmark-enable -n 0
"""

import time

import pytest
import torch
from helpers.in_turns import in_turns

from latentbench.bench.api import ImageSpec, LatentSpec, Noise
from latentbench.bench.registry import create
from latentbench.bench.runtime import onednn

BATCH = 32


def generator(name):
    model = create("generators", name, spec=LatentSpec(16, 16, (4, 4)), classes=10, width=96).train()
    z, labels = torch.randn(BATCH, 16, 16), torch.arange(BATCH) % 10
    return model, lambda: sum(model.loss(z, labels, Noise(0)).values())


def tokenizer(name):
    shape = {"width": 128, "depth": 2, "patch": 8, "channels": 16}
    model = create("tokenizers", name, image=ImageSpec(1, 32, 32), expansion=1, **shape)
    images = torch.randn(BATCH, 1, 32, 32)
    return model, lambda: (model.decode(model.encode(images)) - images).abs().mean()


CASES = {"vit": tokenizer, "lightningdit": generator, "mar": generator, "tarflow": generator}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.benchmark(timer=time.process_time)  # seconds of CPU: the same beside other work
def test_a_step(benchmark, name, monkeypatch):
    monkeypatch.setattr(onednn, "MIN_MULTIPLICATIONS", 2**21)  # as from Zen 5 on
    torch.manual_seed(0)
    model, loss = CASES[name](name)

    def mkl():
        model.zero_grad()
        loss().backward()

    def by_onednn():
        with onednn.by_onednn():
            mkl()

    in_turns(benchmark, {"oneDNN": by_onednn, "MKL": mkl}, rounds=9)
