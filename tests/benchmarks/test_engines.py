"""A small matrix from nothing, whole command: one worker, two, and two CPUs of a Ray cluster of its own.

pytest tests/benchmarks/test_engines.py --benchmark-enable -n 0

Ray's start is in it: some 5 seconds that workers of the local engine don't take.
"""

import re
from importlib.util import find_spec

import pytest
from helpers.in_turns import in_turns
from helpers.run import TINY, bench

MATRIX = re.sub(r"  lightningdit: .*\n", "", TINY).replace("tokenizer_steps: 12", "tokenizer_steps: 1000")
MATRIX = MATRIX.replace("weight: 1.0e-3", "weight: [1.0e-4, 1.0e-3, 1.0e-2]")


def test_engine(benchmark, tmp_path_factory):
    if benchmark.disabled:
        pytest.skip("minutes, to be timed only: tests/engine tests the engines")

    def fresh(how):
        folder = tmp_path_factory.mktemp("engine")
        (folder / "matrix.yaml").write_text(MATRIX)
        return how, folder

    def run(how, folder):
        done = bench("run", *how.split(), cwd=folder, timeout=1200)
        assert done.returncode == 0, done.stdout + done.stderr

    hows = ["-j 2", "-j 1"] + (["-j 2 --engine ray"] if find_spec("ray") else [])
    in_turns(benchmark, dict.fromkeys(hows, run), rounds=3, warmup_rounds=0, prepare=fresh)
