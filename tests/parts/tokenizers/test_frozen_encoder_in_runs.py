"""Frozen encoders from a matrix to a leaderboard, an exported folder and files of latents."""

import json

import pytest
import torch
from helpers.matrices import planned
from helpers.run import bench_inline, ran

from latentbench.bench.records.files import read_record
from latentbench.bench.registry import create
from latentbench.bench.tools.find_tokenizer import find_trained

GAN = ", gan: {start: 1, discriminator_start: 0}"
MATRIX = """\
name: tiny
dataset: {use: shapes, size: 32, count: {train: 96, val: 32}}
seeds: [0]
budget: {tokenizer_steps: 4, generator_steps: 2, refine_steps: 2, batch: 8}
features: {use: effnet_lite0, resolution: 32}
reconstruction: {l1: 1.0, gan: {start: 1, discriminator_start: 0}}
normalise: position
samples: 32
tokenizers:
  frozen: {use: frozen_encoder, width: 32, depth: 1, heads: 2, mlp: 64}
regularizers:
  none: {}
  noise: {use: denoising, interpolate: false, gamma: 0.8}
  kl: {}
  lcr: {}
  sigreg: {}
generators:
  gaussian: {}
evaluators: [reconstruction, generation, cost]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return ran(tmp_path_factory.mktemp("made"), MATRIX)


@pytest.fixture
def cell(made):
    accept = {"tokenizer": ["frozen"], "regularizer": ["noise"]}
    return find_trained(made / "results/tiny", accept).cell


def test_methods_that_need_the_encoders_gradient_are_skipped_with_the_reason(tmp_path):
    made = planned(tmp_path, MATRIX)
    skipped = {cell.regularizer: cell.skipped for cell in made.cells if cell.skipped}
    assert skipped["kl"] == "a frozen encoder gives latents and no posterior (2 values a channel)"
    for name in ("lcr", "sigreg"):
        assert skipped[name].startswith(f"{name} shapes latents by a loss, and the encoder of FrozenEncoder")
    assert set(skipped) == {"kl", "lcr", "sigreg"}


def test_a_corruption_of_such_a_method_is_skipped_too_and_others_fit(tmp_path):
    rows = "  a: {use: masked, on: sigreg}\n  b: {use: masked}\n  c: {use: eq}\n  d: {use: nested, on: rms}\n"
    text = MATRIX.replace(MATRIX[MATRIX.index("  none: {}") : MATRIX.index("generators")], rows)
    made = planned(tmp_path, text.replace(GAN, ""))
    assert {cell.regularizer for cell in made.cells if cell.skipped} == {"a"}


def test_plans_need_no_weights_and_say_what_a_key_depends_on(tmp_path):
    missing = "{use: frozen_encoder, encoder: {use: timm, model: test_vit, resolution: 64, weights: nowhere}}"
    row = MATRIX[MATRIX.index("{use: frozen_encoder") : MATRIX.index("\nregularizers")]
    made = planned(tmp_path, MATRIX.replace(row, missing))
    (stage, _) = (stage for stage in made.stages.values() if stage.kind == "tokenizer")
    assert not stage.known and stage.config["tokenizer"]["fingerprint"] is None
    here = planned(tmp_path, MATRIX)
    (stage, _) = (stage for stage in here.stages.values() if stage.kind == "tokenizer")
    assert stage.config["tokenizer"]["fingerprint"] == create("features", "effnet_lite0").fingerprint()
    assert stage.config["tokenizer"]["uses"]["encoder"]["name"] == "effnet_lite0"


def test_a_run_trains_the_decoder_alone_and_marks_judges_that_encoded(made, cell):
    records = map(read_record, (made / "results/tiny/records").glob("*.json"))
    records = [one for one in records if one.cell["regularizer"] != "real" and one.metrics]
    assert {one.cell["regularizer"] for one in records} == {"none", "noise"}
    digest = create("features", "effnet_lite0").fingerprint()
    assert all(one.provenance["taught_by"]["effnet_lite0"] == [digest] for one in records)
    stored = cell.inputs["tokenizer"].group("tokenizer")
    assert stored and all(name.startswith("decoder.") for name in stored)
    assert cell.normalisation.mean.shape == cell.normalisation.std.shape == (16, 112)


def test_latents_are_normalised_by_position(cell):
    z = cell.latents("train", None)
    torch.testing.assert_close(cell.normalisation.mean, z.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(cell.normalisation.std, z.std(0), atol=1e-4, rtol=1e-4)


def test_the_exported_folder_encodes_and_decodes_alike_and_knows_the_statistics(made, cell, tmp_path):
    pytest.importorskip("diffusers")
    words = ("results/tiny", "-k", "tokenizer=frozen,regularizer=noise", "-o", tmp_path / "out")
    done = bench_inline("export", *words, cwd=made)
    assert done.returncode == 0, done.stdout + done.stderr
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    mean = torch.tensor(config["latents_mean"])
    assert mean.shape == (112, 4, 4)
    torch.testing.assert_close(mean.flatten(1).T, cell.normalisation.mean)
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "(torch.tensor(v) for v in" in card and "frozen encoder are not in this folder" in card


def test_files_of_latents_have_the_statistics_of_each_position(made, cell, tmp_path):
    words = ("results/tiny", "-k", "tokenizer=frozen,regularizer=noise", "-o", tmp_path / "out")
    done = bench_inline("export", *words, "--latents", "lightningdit", cwd=made)
    assert done.returncode == 0, done.stdout + done.stderr
    stats = torch.load(tmp_path / "out/train/latents_stats.pt")
    assert stats["std"].shape == (1, 112, 4, 4)
    assert torch.equal(stats["std"][0].flatten(1).T, cell.normalisation.std)
