"""Large matrices: a plan of 10,000 cells, and what a cell costs whose artifacts, or record, are all there.

pytest tests/benchmarks/test_plans.py --benchmark-enable -n 0
"""

import random
import subprocess
import sys
from functools import partial

import pytest
import torch
from helpers import fabricated_records
from helpers.in_turns import cpu_seconds, in_turns

from latentbench.bench.engine import results_folder, run, run_options
from latentbench.bench.engine.open_plan import OpenPlan
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.plan.make import make_plan
from latentbench.bench.store.artifacts import Result, Store

WEIGHTS = [round(0.001 * i, 3) for i in range(1, 100)]
LARGE = f"""\
name: large
dataset: {{use: digits}}
seeds: 10
features: {{use: effnet_lite0, resolution: 32}}
samples: 64
tokenizers: {{vit: {{}}, conv: {{}}}}
regularizers: {{none: {{}}, kl: {{weight: {WEIGHTS}}}}}
generators: {{gaussian: {{}}, velocity_mlp: {{depth: [1, 2, 3]}}, lightningdit: {{}}}}
evaluators: [reconstruction, generation]
"""
# Peak memory, in KiB, that a plan adds to what is imported; the peak so far, of imports, is forgotten.
PLAN = """\
import re, sys
from pathlib import Path
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.plan import forecast
from latentbench.bench.plan.make import make_plan
loaded = load_matrix(sys.argv[1])
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")
before = peak()
made = make_plan(loaded)
forecast.forecast(made, made.cells, (), "h100", "fp32", 0.35)
print(len(made.cells), peak() - before)
"""


FEWER = LARGE.replace("seeds: 10", "seeds: 1")
CELLS = {"10,000 cells": 10_001, "1,001 cells": 1_001}


@pytest.fixture
def files(tmp_path):
    for name, text in zip(CELLS, (LARGE, FEWER), strict=True):
        (tmp_path / f"{name}.yaml").write_text(text)
    return {name: tmp_path / f"{name}.yaml" for name in CELLS}


@pytest.mark.benchmark(timer=cpu_seconds)  # the same beside other work
def test_planned(benchmark, files):
    loaded = {name: load_matrix(file) for name, file in files.items()}
    ways = {name: partial(make_plan, matrix) for name, matrix in loaded.items()}
    made = in_turns(benchmark, ways, rounds=3, warmup_rounds=0)
    assert {name: len(plan.cells) for name, plan in made.items()} == CELLS


@pytest.mark.measured
@pytest.mark.benchmark(timer=cpu_seconds)  # the same beside other work
def test_planned_and_estimated_in_a_process_of_its_own(benchmark, files):
    def planned(file):
        command = [sys.executable, "-c", PLAN, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [int(number) for number in done.stdout.split()]

    ways = {name: partial(planned, file) for name, file in files.items()}
    made = in_turns(benchmark, ways, rounds=3, warmup_rounds=0)
    assert {name: cells for name, (cells, _) in made.items()} == CELLS
    benchmark.extra_info["MB above the imports"] = made["10,000 cells"][1] // 1000


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """100 cells and artifacts for all of their stages."""
    folder = tmp_path_factory.mktemp("cached")
    text = LARGE.replace("seeds: 10", "seeds: 2").replace(str(WEIGHTS), str(WEIGHTS[:9]))
    (folder / "matrix.yaml").write_text(text.replace(", conv: {}", ""))
    loaded = load_matrix(folder / "matrix.yaml")
    made, store, rng = make_plan(loaded), Store(folder / ".bench"), random.Random(0)
    for stage in made.stages.values():
        store.put(stage, artifact(stage, rng))
    return loaded, made, store, folder


def artifact(stage, rng):
    if stage.kind != "scores":
        images = {"images": torch.zeros(64, 1, 8, 8).byte(), "labels": torch.zeros(64).long()}
        return Result(tensors=images if stage.kind == "samples" else {}, cost={"seconds": 1.0})
    scope = stage.config["scope"]
    names = ("PSNR", "rFD[net]") if scope == "tokenizer" else ("gFD[net]", "recall[net]")
    metrics = {
        name: fabricated_records.metric(rng.gauss(50, 5), scope, "lower", 64, 1.0, rng) for name in names
    }
    return Result({"metrics": metrics, "cost": {"seconds": 1.0}})


@pytest.mark.benchmark(timer=cpu_seconds)  # the same beside other work
def test_cached(benchmark, cached, monkeypatch):
    loaded, made, store, folder = cached
    monkeypatch.setattr(
        results_folder.ResultsWriter, "publish", lambda book, to_come="": list(book.records.values())
    )

    def runs(keep_records):
        options = run_options.RunOptions(out=folder / "results", jobs=1, keep_records=keep_records)
        found = run.run(OpenPlan(loaded, made, made.cells, store), options)
        assert len(found) == len(made.cells) == 101 and all(record.status == "done" for record in found)

    ways = {"artifacts there": partial(runs, False), "records kept": partial(runs, True)}
    in_turns(benchmark, ways, rounds=3)
    if not benchmark.disabled:
        for way, seconds in benchmark.extra_info["seconds"].items():
            benchmark.extra_info[f"ms a cell, {way}"] = 1000 * seconds / len(made.cells)
