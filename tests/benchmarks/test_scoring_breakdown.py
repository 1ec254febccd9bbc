"""Scoring 10,000 held-out images and 10,000 samples with every evaluator that fits: seconds of each.

pytest tests/benchmarks/test_scoring_breakdown.py -m nightly -n 0 -s

prints a line for each evaluator and scope. An extractor's pass over images counts for the evaluator that
asks for it first: `reconstruction` for reconstructions, `generation` for samples.
"""

import time

import pytest
from helpers.run import bench_inline

from latentbench.bench.stages import scores

MATRIX = """\
name: breakdown
dataset: {use: shapes, size: 32, count: {train: 10000, val: 10000}}
budget: {tokenizer_steps: 2, generator_steps: 2, batch: 64}
features: {use: effnet_lite0, resolution: 64}
reference: {use: teacher}
samples: 10000
tokenizers: {vit: {width: 32, depth: 1, heads: 2, patch: 8, channels: 16}}
regularizers: {kl: {}}
generators: {lightningdit: {width: 32, depth: 1, heads: 2, sampler: {steps: 2}}}
evaluators: [reconstruction, generation, class_accuracy, density, latents, linear_probe, robustness, cost,
  frechet_ratio, mind, edges, throughput, equivariance, encoder_equivariance, prefixes, interpolation,
  velocity_variance, spatial, label_neighbours, normality, sampling_paths]
"""


@pytest.mark.nightly
def test_every_evaluator_scores_10_000_images_and_says_its_seconds(tmp_path, monkeypatch):
    seconds, measured = {}, scores.measured

    def timed(evaluator, subject, judges, config):
        start = time.perf_counter()
        found = measured(evaluator, subject, judges, config)
        name = type(evaluator).__name__
        if not subject.real:
            seconds[subject.scope, name] = time.perf_counter() - start, len(found[0]) + len(found[1])
        return found

    monkeypatch.setattr(scores, "measured", timed)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    done = bench_inline("run", "--matrix", "matrix.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for (scope, name), (taken, count) in sorted(seconds.items(), key=lambda item: -item[1][0]):
        print(f"{scope:10} {name:22} {taken:7.1f} s  {count:3} numbers")
    print(f"{'':10} {'all':22} {sum(taken for taken, _ in seconds.values()):7.1f} s")
    assert len(seconds) >= 21 and sum(count for _, count in seconds.values()) > 80
