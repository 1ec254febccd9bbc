"""What isn't training: the start of the command, and a matrix whose artifacts are all there.

pytest tests/benchmarks/test_overhead.py --benchmark-enable -n 0 --benchmark-columns=median,iqr,rounds
"""

import subprocess
import sys

import pytest
from helpers.run import TINY, bench


@pytest.mark.parametrize("code", ["pass", "import torch", "help"])
@pytest.mark.benchmark(group="start-up: an empty Python, torch alone, and bench --help")
def test_start_up(benchmark, code):
    python = [sys.executable, "-m", "latentbench.bench.cli", "--help"]
    command = python if code == "help" else [sys.executable, "-c", code]
    done = benchmark.pedantic(subprocess.run, (command,), {"capture_output": True}, rounds=5, warmup_rounds=1)
    assert done.returncode == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cached")
    (folder / "matrix.yaml").write_text(TINY)
    assert bench("run", cwd=folder).returncode == 0
    return folder


@pytest.mark.measured
@pytest.mark.parametrize("what", ["plan", "run"])
@pytest.mark.benchmark(group="a fully cached matrix: the plan alone, and the run")
def test_cached(benchmark, what, made):
    done = benchmark.pedantic(bench, (what,), {"cwd": made}, rounds=3)
    assert done.returncode == 0 and "start" not in done.stdout
