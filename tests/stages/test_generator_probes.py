"""What a run keeps beside scores: quality along training, several extractors, pictures of a seed."""

import json

import pytest
from helpers.run import bench_inline, fields_of
from typer.testing import CliRunner

from latentbench.bench.cli import app

MATRIX = """
name: small
dataset: {use: digits}
seeds: [0, 1]
budget: {tokenizer_steps: 3, generator_steps: 6, batch: 8}
features: [{use: effnet_lite0, resolution: 32}, {use: effnet_lite0, resolution: 64}]
samples: 24
tokenizers: {vit: {width: 16, depth: 1, channels: 4}}
regularizers: {none: {}}
generators:
  gaussian: {}
  lightningdit: {width: 16, depth: 1, heads: 2, sampler: {steps: 2}}
evaluators: [reconstruction, generation]
probes: {generator: [2, 4], samples: 16}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    (folder / "m.yaml").write_text(MATRIX)
    done = bench_inline("run", "-m", "m.yaml", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    files = (folder / "results/small/records").glob("*.json")
    return folder, {file.stem: fields_of(file) for file in files}


def test_samples_are_scored_along_a_generators_training(run):
    _, records = run
    quality = records["digits--vit--none--lightningdit--0"]["curves"]["quality"]
    assert quality["step"] == [2, 4, 6]
    assert len(quality["gFD[effnet_lite0:32]"]) == 3
    assert len(set(quality["gFD[effnet_lite0:32]"])) == 3, "the same weights were scored thrice"


def test_a_generator_without_steps_has_no_curve(run):
    _, records = run
    assert "quality" not in records["digits--vit--none--gaussian--0"]["curves"]


def test_metrics_over_features_are_made_for_each_extractor(run):
    _, records = run
    metrics = records["digits--vit--none--lightningdit--1"]["metrics"]
    assert {
        "gFD[effnet_lite0:32]@1",
        "gFD[effnet_lite0]@1",
        "rFD[effnet_lite0:32]",
        "rFD[effnet_lite0]",
    } <= set(metrics)
    assert metrics["gFD[effnet_lite0]@1"]["protocol"]["features"]["resolution"] == 64
    assert metrics["gFD[effnet_lite0]@1"]["place"] == 1 and "place" not in metrics["gFD[effnet_lite0:32]@1"]


def test_replicates_stand_beside_the_value_and_are_paired_over_rows(run):
    _, records = run
    one, two = (
        records[f"digits--vit--none--{g}--0"]["metrics"]["PSNR"] for g in ("gaussian", "lightningdit")
    )
    assert len(one["replicates"]) == 100 and one["replicates"] == two["replicates"]
    assert min(one["replicates"]) < one["value"] < max(one["replicates"])


def test_pictures_are_of_the_first_seed_and_named_like_cells(run):
    folder, _ = run
    names = {file.name for file in (folder / "results/small/samples").glob("*.png")}
    assert {
        "digits--vit--none--gaussian@1.png",
        "digits--vit--none--lightningdit@1.png",
        "digits--reconstructions.png",
    } <= names


def test_the_plan_counts_the_stages_of_probes(run, monkeypatch):
    folder, _ = run
    monkeypatch.chdir(folder)
    stages = json.loads(CliRunner().invoke(app, ["plan", "-m", "m.yaml", "--json"]).stdout)["stages"]
    assert all(stage["cached"] for stage in stages)
    assert sum("step 2" in stage["label"] for stage in stages) == 4  # samples and scores of two seeds
