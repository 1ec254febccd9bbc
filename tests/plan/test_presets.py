"""Packaged matrices of papers: they plan without data, weights or network, and run small from end to end."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml
from helpers.run import bench, bench_inline, command, environment, fields_of

from latentbench.bench.api import Tokenizer
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.matrix.yaml_text import find, packaged
from latentbench.bench.plan.make import make_plan
from latentbench.bench.registry import get, names
from latentbench.bench.store.stage import UNKNOWN

ROOT = Path(__file__).parents[2]
SMALL = sorted(name for name in packaged() if name.startswith("digits-"))
PRESETS = sorted(set(packaged()) - {"digits", "lab2d", "strength", "fashion-mnist", "study", *SMALL})
OFTEN = {"cifar10-lzn"}  # the others nightly
SOME = [pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.nightly]) for name in PRESETS]


def profiles(name):
    return sorted(set(yaml.safe_load(find(name).read_text())["profiles"]) - {"smoke"})


PROFILES = [(name, profile) for name in PRESETS for profile in profiles(name)]


@pytest.mark.parametrize("name", SOME)
def test_a_preset_plans_without_data_weights_or_network(name, tmp_path):
    env = environment(tmp_path / "home") | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "TORCH_HOME": str(tmp_path),
    }
    asked = command("plan", "-m", name, "--accelerator", "h100", "--json")
    done = subprocess.run(asked, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert "warning" not in done.stderr and plan["totals"]["shared"]["accelerator_hours"] > 1
    assert all(
        stage["key"] == UNKNOWN for stage in plan["stages"] if stage["kind"] in ("tokenizer", "scores")
    )
    assert any(not cell["skipped"] for cell in plan["cells"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_without_the_data_says_what_is_missing(name, tmp_path):
    done = bench_inline("run", "-m", name, cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode in (2, 4)
    assert "there is no " in done.stderr or "is not in" in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("name, profile", PROFILES, ids=lambda text: text)
def test_every_profile_of_a_preset_has_cells_of_its_own(name, profile):
    whole, part = (make_plan(load_matrix(name, profile=p)) for p in (None, profile))
    assert any(not cell.skipped for cell in part.cells if cell.tokenizer != "real")
    assert {cell.key for cell in part.cells} != {cell.key for cell in whole.cells}


@pytest.mark.parametrize("name, profile", [*((name, None) for name in PRESETS), *PROFILES], ids=str)
def test_a_preset_leaves_nothing_of_an_optimizer_to_defaults(name, profile):
    matrix = load_matrix(name, profile=profile)
    said = {"lr", "betas", "weight_decay", "warmup", "schedule", "clip", "ema"}
    tokenizers = [row for row in matrix.tokenizers if matrix.budget_of(row).tokenizer_steps]
    generators = [row for row in matrix.generators if row.part not in ("none", "joint", "gaussian")]
    for row in (*tokenizers, *generators):
        assert said <= set(row.optimizer), row.label


@pytest.mark.parametrize(
    "name", ["fashion-mnist", "strength", ROOT / "matrix.yaml"], ids=["fashion-mnist", "strength", "digits"]
)
def test_small_matrices_sweep_guidance_and_draw_one_full_set_of_samples_for_each_cell(name):
    matrix = load_matrix(name, profile="smoke")
    plan = make_plan(matrix)
    for cell in plan.cells:
        behind = [plan.stages[id] for id in plan.ancestors(list(cell.scores.values()))]
        full = [s for s in behind if s.kind == "samples" and s.config["samples"] == matrix.samples]
        assert len(full) == (cell.skipped is None and cell.generator != "real")
        swept = sum(stage.kind == "guidance" for stage in behind)
        assert swept == (cell.scores.keys() >= {"chosen"})
        if cell.generator in ("lightningdit", "mar", "tarflow"):
            assert swept == 1
            [sweep] = (stage for stage in behind if stage.kind == "guidance")
            assert max(sweep.config["sweep"]) == 4 and sweep.config["samples"] == matrix.samples // 4


@pytest.mark.parametrize("profile, iterations", [(None, 250_000), ("table-1", 300_000), ("table-2", 250_000)])
def test_dmvae_s_third_stage_counts_the_papers_iterations_of_which_one_in_five_is_the_tokenizer_s(
    profile, iterations
):
    matrix = load_matrix("imagenet256-dmvae", profile=profile)
    (tokenizer,) = [row for row in matrix.tokenizers if row.label == "dmvae"]
    methods = [row for row in matrix.regularizers if row.part == "dmvae"]
    steps = matrix.budget_of(tokenizer).tokenizer_steps
    assert {steps * row.options["critic_steps"] for row in methods} == {iterations}
    assert {row.options["anneal"] for row in methods} <= {0, steps}
    assert 5 * matrix.reconstruction["gan"]["start"] == 5000
    assert {row.optimizer["priors"]["teacher"]["ema"] for row in methods} == {0}
    if profile is None:
        assert [row.options["guidance"] for row in methods] == [1.0, 5.0]


@pytest.mark.nightly
@pytest.mark.parametrize("name", SMALL)
def test_a_small_matrix_runs_end_to_end_with_its_smoke_profile(name, tmp_path):
    done = bench("run", "-m", name, "--profile", "smoke", "-j", "2", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "results" / f"{name}-smoke"
    assert (folder / "leaderboard.html").exists()
    assert "failed" not in {fields_of(file)["status"] for file in folder.glob("records/*.json")}


@pytest.mark.parametrize("name", sorted({*SMALL} - {"digits-all", "digits-generators"}))
def test_a_small_matrix_takes_minutes_and_is_in_the_docs(name, tmp_path):
    done = bench_inline("plan", "-m", name, "--json", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    assert json.loads(done.stdout)["totals"]["shared"]["accelerator_hours"] < 0.25
    assert f"| `{name}` |" in (Path(__file__).resolve().parents[2] / "docs/presets.md").read_text()


def test_families_of_the_study_have_four_trials_each_on_another_seed_by_another_judge():
    def family(row):
        return "denoising-rms" if row.label.startswith("denoising-rms") else row.part

    study, tuning = load_matrix("study"), load_matrix("study", profile="tuning")
    trials = Counter(map(family, tuning.regularizers))
    assert {name for name, count in trials.items() if count == 1} == {"none", "rms"}  # have no strength
    assert set(trials.values()) == {1, 4}
    unfit = {"lzn_views", "softvq_align"}
    all_that_fit = set(names("regularizers")) - unfit | {"denoising-rms"}
    assert set(trials) == set(map(family, study.regularizers)) == all_that_fit
    assert not {seed.tokenizer for seed in tuning.seeds} & {seed.tokenizer for seed in study.seeds}
    judges = {study.features[0].part, study.teacher.part, *(judge.part for judge in tuning.features)}
    assert len(judges) == 3


def test_every_regularizer_has_a_row_in_digits_all_but_the_one_that_needs_two_views():
    rows = yaml.safe_load(find("digits-all").read_text())["regularizers"]
    used = {options.get("use", label) for label, options in rows.items()}
    assert set(names("regularizers")) - used == {"lzn_views"} and used <= set(names("regularizers"))
    assert "lzn_views" in find("imagenet-lzn").read_text()


@pytest.mark.parametrize("name", SOME)
def test_a_preset_runs_small_through_all_of_its_stages(name, tmp_path):
    done = bench("run", "-m", name, "--profile", "smoke", "-j", "2", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "results" / f"{name}-smoke"
    records = [fields_of(file) for file in sorted((folder / "records").glob("*.json"))]
    assert {record["status"] for record in records} <= {"done", "skipped"}
    assert all(record["reason"] for record in records if record["status"] == "skipped")
    assert (folder / "leaderboard.html").exists()
    smoke = load_matrix(name, profile="smoke")
    trained = [record["curves"]["tokenizer"] for record in records if "tokenizer" in record["curves"]]
    parts = [get("tokenizers", row.part) for row in smoke.tokenizers]
    reconstruct = any(part.decodes and part.loss is Tokenizer.loss for part in parts)
    for loss in smoke.reconstruction if reconstruct else ():  # all of them, from their start on
        assert any(any(curve.get(loss, ())) for curve in trained), loss
    if "gan" in smoke.reconstruction:
        assert any(any(curve.get("gan_discriminator", ())) for curve in trained)


def test_a_run_of_several_profiles_says_which(tmp_path):
    text = """\
name: two
dataset: {use: shapes, size: 8, count: {train: 16, val: 8}}
budget: {tokenizer_steps: 2, generator_steps: 2, batch: 4}
features: {use: timm, model: test_vit.r160_in1k, weights: random, resolution: 32}
reconstruction: {l1: 1.0}
samples: 8
tokenizers: {vit: {width: 8, depth: 1, heads: 2, patch: 4, channels: 2}}
regularizers: {none: {}, kl: {}}
generators: {gaussian: {}}
evaluators: [reconstruction]
profiles:
  table-2: {regularizers: {kl: {weight: 1.0e-2}}}
  smoke: {samples: 4}
"""
    (tmp_path / "matrix.yaml").write_text(text)
    done = bench_inline(
        "run", "--profile", "table-2", "--profile", "smoke", cwd=tmp_path, home=tmp_path / "home"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "results" / "two-table-2-smoke"
    assert (folder / "matrix.lock.yaml").read_text().startswith("# profile table-2-smoke\n")
    records = [json.loads(file.read_text()) for file in (folder / "records").glob("*.json")]
    assert {record["cell"]["regularizer"] for record in records} <= {"kl", "real"}
    assert {record["provenance"]["matrix"] for record in records} == {"two, profile table-2-smoke"}
    assert {record["provenance"]["samples"] for record in records} == {4}
