"""A small matrix from nothing, whole command: one worker, two, and two CPUs of a Ray cluster of its own.

pytest tests/benchmarks/test_engines.py --benchmark-enable -n 0 --benchmark-columns=median,iqr,rounds

Ray's start is in it: some 5 seconds that workers of the local engine don't take.
"""

import re

import pytest
from helpers.run import TINY, bench

MATRIX = re.sub(r"  lightningdit: .*\n", "", TINY).replace("tokenizer_steps: 12", "tokenizer_steps: 1000")
MATRIX = MATRIX.replace("weight: 1.0e-3", "weight: [1.0e-4, 1.0e-3, 1.0e-2]")


@pytest.mark.parametrize("how", ["-j 1", "-j 2", "-j 2 --engine ray"])
@pytest.mark.benchmark(group="4 tokenizers of 1,000 steps with their generators and scores")
def test_engine(benchmark, how, tmp_path_factory):
    if not benchmark.enabled:
        pytest.skip("a minute, to be timed only: tests/test_run.py and tests/test_ray.py test the engines")
    if "ray" in how:
        pytest.importorskip("ray", reason="the Ray engine needs ray, which isn't installed")

    def fresh():
        folder = tmp_path_factory.mktemp("engine")
        (folder / "matrix.yaml").write_text(MATRIX)
        return (), {"cwd": folder, "timeout": 1200}

    done = benchmark.pedantic(lambda **where: bench("run", *how.split(), **where), setup=fresh, rounds=3)
    assert done.returncode == 0, done.stdout + done.stderr
