"""What isn't training: the start of the command, and a matrix whose artifacts are all there.

pytest tests/benchmarks/test_overhead.py --benchmark-enable -n 0
"""

import subprocess
import sys

import pytest
from helpers.in_turns import cpu_seconds, in_turns
from helpers.run import TINY, bench


def python(*arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True)
    assert done.returncode == 0


@pytest.mark.benchmark(timer=cpu_seconds)  # the same beside other work
def test_start_up(benchmark):
    ways = {
        "bench --help": lambda: python("-m", "latentbench.bench.cli", "--help"),
        "an empty Python": lambda: python("-c", "pass"),
        "import torch": lambda: python("-c", "import torch"),
    }
    in_turns(benchmark, ways)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cached")
    (folder / "matrix.yaml").write_text(TINY)
    assert bench("run", cwd=folder).returncode == 0
    return folder


@pytest.mark.measured
@pytest.mark.benchmark(timer=cpu_seconds)  # the same beside other work
def test_cached(benchmark, made):
    def command(name):
        done = bench(name, cwd=made)
        assert done.returncode == 0 and "start" not in done.stdout

    imports = "imports of torch and timm"
    ways = {
        "run of a cached matrix": lambda: command("run"),
        "its plan": lambda: command("plan"),
        imports: lambda: python("-c", "import torch, timm"),
    }
    pairs = [(way, imports) for way in ways if way != imports]
    in_turns(benchmark, ways, pairs, rounds=3, warmup_rounds=0)
