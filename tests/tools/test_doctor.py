"""`bench doctor`: batches, workers and processes change no number; a broken cache is found."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.run import bench, bench_inline
from typer.testing import CliRunner

from latentbench.bench.cli import app
from latentbench.bench.tools import cleaning, doctor, small_cell
from latentbench.bench.tools.doctor import Check


@pytest.mark.nightly
def test_nothing_that_must_not_changes_a_number(tmp_path):
    done = bench("doctor", "--json", cwd=tmp_path)
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    for name in (
        "FD[effnet_lite0:32] by batch size",
        "FD[effnet_lite0:32] by process count",
        "reconstruction error by chunk size",
        "noise by process count",
        "records by worker count",
        "exact count",
    ):
        assert found[name]["ok"] is True, found[name]


def test_a_distance_that_depends_on_the_batch_is_shown_and_fails(monkeypatch):
    class Normalised:
        """Features centred by their batch: what an evaluation in training mode would do."""

        name = "careless"

        def describe(self, images, outputs):
            features = images.flatten(1)
            return {"pooled": features - features.mean(0)}

    monkeypatch.setattr(small_cell, "extractor", Normalised)
    _, check = doctor.features_ignore_batches("cpu")
    assert check.ok is False and "largest difference" in check.found


def test_artifacts_that_were_tampered_with_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check = partial(CliRunner().invoke, app, ["doctor", "--cache", "-m", "m.yaml"])
    Path("m.yaml").write_text(doctor.MATRIX)
    assert bench_inline("run", "-m", "m.yaml", cwd=tmp_path).returncode == 0
    assert check().exit_code == 0
    artifacts = tmp_path / ".bench/artifacts"
    samples = sorted(artifacts.glob("samples/*/stage.json"))[0]
    (samples.parent / "tensors.safetensors").write_bytes(b"broken")
    trained = sorted(artifacts.glob("tokenizer/*/stage.json"))[0]
    meta = json.loads(trained.read_text())
    meta["config"]["steps"] = 400
    trained.write_text(json.dumps(meta))
    done = check()
    assert done.exit_code == 1
    assert "has 6 of" in done.stdout and "another hash" in done.stdout
    for name in ("sha256", "files"):  # as artifacts were before hashes were kept
        del meta[name]
    trained.write_text(json.dumps(meta))
    assert "was made by another config" in check().stdout


def test_values_that_agree_to_rounding_pass():
    assert doctor._alike("x", {1: 100.0, 2: 100.001}) == Check(
        "x", True, "1: 100, 2: 100.001; largest difference 1.0e-05"
    )
    assert doctor._alike("x", {1: 100.0, 2: 101.0}).ok is False
    assert not cleaning.finite(torch.tensor([0.0, float("nan")]))
