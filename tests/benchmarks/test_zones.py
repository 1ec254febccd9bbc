"""Latent zones, forward and backward, at 20 Euler steps and q = 200; the peak memory is in `extra_info`.

pytest tests/benchmarks/test_zones.py --benchmark-enable -n 0
"""

import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from helpers.in_turns import in_turns

from latentbench.bench.nn.zones import zones

Q, G, STEPS = 200, 1e-4, 20

# In a process of its own, as a peak never sinks; in MB above what the imports take. Not `resource.getrusage`,
# whose peak a new process has from the one that started it (Linux).
PEAK = r"""
import re, sys, torch
from latentbench.bench.nn.zones import zones
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024
n, spread, recompute = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "True"
before, (anchors, noise) = peak(), torch.randn(2, n, {Q})
zones((spread * anchors).requires_grad_(), noise, {G}, {STEPS}, recompute=recompute).square().sum().backward()
print(peak() - before)
"""


def peak(n, spread, recompute):
    code = PEAK.format(Q=Q, G=G, STEPS=STEPS)
    command = [sys.executable, "-c", code, str(n), str(spread), str(recompute)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# At a spread of 1 the anchors see each other in 9 of the 20 steps, at 0.1 in 17: a step without is cheap.
@pytest.mark.parametrize("spread", [1.0, 0.1])
@pytest.mark.parametrize("n", [256, *(pytest.param(n, marks=pytest.mark.measured) for n in (1024, 2048))])
@pytest.mark.benchmark(timer=time.process_time)  # seconds of CPU: the same beside other work
def test_zones(benchmark, n, spread):
    anchors, noise = torch.randn(2, n, Q, generator=torch.Generator().manual_seed(0))
    anchors = (spread * anchors).requires_grad_()

    def both_ways(recompute):
        z = zones(anchors, noise, G, STEPS, recompute=recompute)
        return torch.autograd.grad(z.square().sum(), anchors)[0]

    recomputed = {"recomputed": True, "autograd": False}
    ways = {way: partial(both_ways, recompute) for way, recompute in recomputed.items()}
    gradients = in_turns(benchmark, ways, rounds=3)
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())
    for way, recompute in recomputed.items():
        benchmark.extra_info[f"peak MB, {way}"] = round(peak(n, spread, recompute))
