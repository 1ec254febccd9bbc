"""Scoring 10,000 images whose features are there, against torch-fidelity's four metrics.

pytest tests/benchmarks/test_scoring.py --benchmark-enable -n 0

"the same four numbers" are torch-fidelity's, with nothing known beforehand. "generation" is all that the
evaluator computes: 100 replicates of every number, and density, coverage, label agreement, memorisation and
classes besides; its first cell computes the reference's own statistics, which later cells find computed.
"""

import time
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest import mock

import pytest
import torch
from helpers.in_turns import in_turns
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from latentbench.bench.metrics import frechet, neighbours, one_pass
from latentbench.bench.metrics.frechet import frechet_distance, frechet_estimate
from latentbench.bench.metrics.neighbours import memorisation_estimate
from latentbench.bench.metrics.one_pass import kernel_and_overlap, kernel_and_overlap_estimates
from latentbench.evaluators.generation import NEIGHBOURS, inception_score

FEATURES, CLASSES = 320, 1000
METRICS = ["Frechet distance", "kernel distance and neighbours", "inception score"]
KEPT = ((frechet, "_reference"), (one_pass, "_reference"), (neighbours, "_nearest_to_reference"))


@pytest.fixture(scope="module", params=[1437, pytest.param(10_000, marks=pytest.mark.measured)])
def sets(request):
    generator = torch.Generator().manual_seed(0)
    n = request.param
    samples, train, heldout = (
        torch.randn(count, FEATURES, generator=generator).exp() for count in (n, n, n // 4)
    )
    return 1.1 * samples, train, heldout, torch.randn(n, CLASSES, generator=generator)


@contextmanager
def nothing_kept():
    """Has everything of the reference computed anew, as in a process's first cell."""
    with ExitStack() as patches:
        for module, name in KEPT:
            patches.enter_context(mock.patch.object(module, name, getattr(module, name).__wrapped__))
        yield


def ours(metrics, samples, train, heldout, logits):
    """Metrics as `generation` computes them."""
    labels = torch.arange(len(samples)) % 10, torch.arange(len(train)) % 10
    if "Frechet distance" in metrics:
        frechet_estimate("gFD", samples, train)
    if "inception score" in metrics:
        inception_score("IS", logits)
    if "kernel distance and neighbours" in metrics:
        names = {base: base for base in NEIGHBOURS}
        _, near = kernel_and_overlap_estimates("KD", names, samples, train, labels)
        memorisation_estimate("memorisation", near, heldout, train)


def first_cell(*given):
    with nothing_kept():
        ours(METRICS, *given)


def same_four(samples, train, heldout, logits):
    """torch-fidelity's five numbers of four metrics, in its order."""
    with nothing_kept():
        _, kernel, shares = kernel_and_overlap(samples, train)
        distance = frechet_distance(samples, train)
    precision, recall = shares.inside.mean().item(), shares.recall[0].mean().item()
    return [distance, kernel.unbiased.mean().item(), float(inception_score("IS", logits)), precision, recall]


def torch_fidelity(metrics, samples, train, heldout, logits):
    found = {}
    if "Frechet distance" in metrics:
        statistics = [fid_features_to_statistics(some.double()) for some in (samples, train)]
        found |= fid_statistics_to_metric(*statistics, verbose=False)
    if "kernel distance and neighbours" in metrics:
        size = min(1000, len(samples) // 2)
        found |= kid_features_to_metric(samples, train, kid_subset_size=size, verbose=False)
        found |= prc_features_to_metric(samples, train, save_cpu_ram=True, verbose=False)
    if "inception score" in metrics:
        found |= isc_features_to_metric(logits)
    return found


@pytest.mark.benchmark(timer=time.process_time)  # seconds of CPU: the same beside other work
def test_scoring(benchmark, sets):
    ways = {
        "torch-fidelity's four metrics": lambda: torch_fidelity(METRICS, *sets),
        "the same four numbers": lambda: same_four(*sets),
        "generation, first cell": lambda: first_cell(*sets),
        "generation, later cells": lambda: ours(METRICS, *sets),
    }
    found = in_turns(benchmark, ways, rounds=3)
    theirs = found["torch-fidelity's four metrics"]
    names = ("frechet_inception_distance", "kernel_inception_distance_mean", "inception_score_mean")
    expected = [theirs[name] for name in (*names, "precision", "recall")]
    assert found["the same four numbers"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.measured
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.benchmark(timer=time.process_time)
def test_scoring_by_one_metric(benchmark, metric, sets):
    ways = {"torch-fidelity": torch_fidelity, "generation, later cells": ours}
    in_turns(benchmark, {way: partial(call, [metric], *sets) for way, call in ways.items()}, rounds=3)
