"""What scores of a tokenizer are mostly made of, decoding and describing, against plain layers.

pytest tests/benchmarks/test_judging.py --benchmark-enable -n 0
"""

import time
from unittest import mock

import pytest
import torch
from helpers.in_turns import in_turns

from latentbench.bench import api
from latentbench.bench.api import ImageSpec
from latentbench.bench.data import images
from latentbench.bench.features import effnet_lite
from latentbench.bench.models.latents import decode_all
from latentbench.bench.registry import create
from latentbench.bench.runtime import onednn

IMAGES = 256


def decoding():
    shape = {"width": 128, "depth": 4, "patch": 8, "channels": 16}
    tokenizer = create("tokenizers", "vit", image=ImageSpec(1, 32, 32), expansion=1, **shape).eval()
    z = torch.randn(IMAGES, 16, 16)

    def plain():
        with mock.patch.object(onednn, "AVAILABLE", False):
            return decode_all(tokenizer, z, "cpu")

    return lambda: decode_all(tokenizer, z, "cpu"), plain


def describing(output):
    """One output of grey images; plain: three channels resized, padded copies, every output."""
    ours, theirs = (create("features", "effnet_lite0") for _ in range(2))
    with mock.patch.object(effnet_lite, "pad_evenly"):
        assert theirs._network
    grey = torch.rand(IMAGES, 1, 32, 32) * 2 - 1

    def coloured(levels, resolution, resizing, rounds):
        return images.resize(images.to_rgb(api.to_uint8(levels)), resolution, resizing)

    def plain():
        with mock.patch.object(effnet_lite, "prepared", coloured):
            return theirs.describe(grey, ["pooled", "logits", "spatial"])[output]

    return lambda: ours.describe(grey, [output])[output], plain


CASES = {
    "decoding": decoding,
    "pooled features": lambda: describing("pooled"),
    "spatial features": lambda: describing("spatial"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.benchmark(timer=time.process_time)  # seconds of CPU: the same beside other work
def test_judging(benchmark, case):
    torch.manual_seed(0)
    ours, plain = CASES[case]()
    found = in_turns(benchmark, {"ours": ours, "plain": plain}, rounds=7)
    torch.testing.assert_close(found["ours"], found["plain"], rtol=1e-4, atol=1e-4)
