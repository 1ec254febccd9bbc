"""Scoring 10,000 images whose features are there: the whole battery against torch-fidelity, metric by metric.

Ours has 100 replicates of every number, and density, coverage, label agreement, memorisation and classes
besides. The reference's own statistics, which later cells find computed, are those of the first round.

pytest tests/benchmarks/test_scoring.py --benchmark-enable -n 0 --benchmark-columns=median,iqr,rounds
"""

import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from latentbench.bench.metrics import frechet, kernel, neighbours
from latentbench.bench.metrics.frechet import frechet_estimate
from latentbench.bench.metrics.kernel import kernel_estimate
from latentbench.bench.metrics.neighbours import memorisation_estimate, overlap_estimates
from latentbench.evaluators.generation import NEIGHBOURS, inception_score

FEATURES, CLASSES = 320, 1000
METRICS = ["Frechet distance", "kernel distance", "inception score", "neighbours", "all"]


@pytest.fixture(scope="module", params=[1437, pytest.param(10_000, marks=pytest.mark.measured)])
def sets(request):
    generator = torch.Generator().manual_seed(0)
    n = request.param
    samples, train, heldout = (
        torch.randn(count, FEATURES, generator=generator).exp() for count in (n, n, n // 4)
    )
    return 1.1 * samples, train, heldout, torch.randn(n, CLASSES, generator=generator)


def ours(metric, samples, train, heldout, logits):
    labels = torch.arange(len(samples)) % 10, torch.arange(len(train)) % 10
    if metric in ("Frechet distance", "all"):
        frechet_estimate("gFD", samples, train)
    if metric in ("kernel distance", "all"):
        kernel_estimate("KD", samples, train, labels=labels)
    if metric in ("inception score", "all"):
        inception_score("IS", logits)
    if metric in ("neighbours", "all"):
        _, near = overlap_estimates({base: base for base in NEIGHBOURS}, samples, train, labels)
        memorisation_estimate("memorisation", near, heldout, train)


def torch_fidelity(metric, samples, train, heldout, logits):
    if metric in ("Frechet distance", "all"):
        statistics = [fid_features_to_statistics(some.double()) for some in (samples, train)]
        fid_statistics_to_metric(*statistics, verbose=False)
    if metric in ("kernel distance", "all"):
        size = min(1000, len(samples) // 2)
        kid_features_to_metric(samples, train, kid_subset_size=size, verbose=False)
    if metric in ("inception score", "all"):
        isc_features_to_metric(logits)
    if metric in ("neighbours", "all"):
        prc_features_to_metric(samples, train, save_cpu_ram=True, verbose=False)


@pytest.mark.parametrize("way", ["ours, first cell", "ours", "torch-fidelity"])
@pytest.mark.parametrize("metric", METRICS)
def test_scoring(benchmark, metric, way, sets, monkeypatch):
    benchmark.group = f"{metric} of {len(sets[0])} images"
    if way == "ours, first cell":
        for module, name in (
            (frechet, "_reference"),
            (kernel, "_within_reference"),
            (neighbours, "_radii_of_reference"),
            (neighbours, "_nearest_to_reference"),
        ):
            monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)
    call = torch_fidelity if way == "torch-fidelity" else ours
    later = way == "ours"
    benchmark.pedantic(call, (metric, *sets), rounds=1, warmup_rounds=1 if later else 0)
