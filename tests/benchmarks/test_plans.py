"""Large matrices: a plan of 10,000 cells, and what a cell costs whose artifacts, or record, are all there.

pytest tests/benchmarks/test_plans.py --benchmark-enable -n 0 --benchmark-columns=median,rounds
"""

import random
import subprocess
import sys

import pytest
import torch
from helpers import fabricated_records

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


@pytest.mark.benchmark(group="10,000 cells")
def test_planned(benchmark, tmp_path):
    (tmp_path / "matrix.yaml").write_text(LARGE)
    loaded = load_matrix(tmp_path / "matrix.yaml")
    made = benchmark.pedantic(make_plan, (loaded,), rounds=3)
    assert len(made.cells) == 10_001


@pytest.mark.measured
@pytest.mark.benchmark(group="10,000 cells")
def test_planned_and_estimated_in_a_process_of_its_own(benchmark, tmp_path):
    (tmp_path / "matrix.yaml").write_text(LARGE)
    command = [sys.executable, "-c", PLAN, str(tmp_path / "matrix.yaml")]
    done = benchmark.pedantic(subprocess.run, (command,), {"capture_output": True, "text": True}, rounds=1)
    cells, kib = map(int, done.stdout.split())
    benchmark.extra_info["MB above the imports"] = kib // 1000
    assert cells == 10_001


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


@pytest.mark.parametrize("kept", [False, True], ids=["artifacts", "records"])
@pytest.mark.benchmark(group="100 cells that are all there, without the tables")
def test_cached(benchmark, kept, cached, monkeypatch):
    loaded, made, store, folder = cached
    options = run_options.RunOptions(out=folder / "results", jobs=1, keep_records=kept)
    monkeypatch.setattr(
        results_folder.ResultsWriter, "publish", lambda book, to_come="": list(book.records.values())
    )
    arguments = (OpenPlan(loaded, made, made.cells, store), options)
    found = benchmark.pedantic(run.run, arguments, rounds=3)
    assert len(found) == len(made.cells) == 101 and all(record.status == "done" for record in found)
