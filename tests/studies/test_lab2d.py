"""What the laboratory shows, over three seeds (nightly: it runs the packaged matrix), and that it runs."""

import math

import pandas as pd
import pytest
from helpers.run import bench

STARTS = (0.9, 0.75, 0.5, 0.35, 0.25)


@pytest.mark.nightly
def test_the_packaged_matrix_runs_by_its_name_and_draws_what_it_measures(tmp_path):
    done = bench(
        *("run", "--matrix", "lab2d", "--profile", "smoke"),
        *("--filter", "dataset=ring|grid,regularizer=flow_prior|matching|lzn,seed=0"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "results/lab2d-smoke"
    drawn = {file.stem for file in (folder / "figures").glob("*.png")}
    assert {"ring--points--flow_prior--likelihood", "grid--points--matching--trajectory"} <= drawn
    assert "grid--points--lzn--zones" in drawn and not list(folder.glob("samples/*"))
    table = pd.read_csv(folder / "leaderboard.csv").set_index(["dataset", "regularizer"])
    assert table.loc[("ring", "lzn"), "status"] == "skipped"
    assert math.isfinite(table.loc[("grid", "matching"), "SWD"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab2d")
    done = bench("run", "--matrix", "lab2d", cwd=folder, timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    table = pd.read_csv(folder / "results/lab2d/leaderboard.csv")
    table = table[table.status == "done"].set_index(["dataset", "regularizer"])
    columns = [name for name in table if not name.startswith(("cost", "tokenizer", "generator"))]
    print(table[columns].T.to_string())
    return table


@pytest.mark.nightly
@pytest.mark.parametrize("over", ["plane", "training"])
def test_the_alignment_loss_follows_the_true_nll(made, over):
    row = made.loc[("ring", "flow_prior")]
    assert row[f"NLL_correlation_{over}_n"] == 3
    assert row[f"NLL_correlation_{over}"] >= 0.9


@pytest.mark.nightly
@pytest.mark.parametrize("dataset", ["grid", "s_curve"])
def test_matching_covers_what_real_score_maximisation_leaves_out(made, dataset):
    matching, real = (made.loc[(dataset, method)] for method in ("matching", "real_score"))
    assert matching.latent_recall >= 1.5 * real.latent_recall
    assert matching.SWD <= 0.5 * real.SWD


@pytest.mark.nightly
@pytest.mark.parametrize("dataset", ["grid", "s_curve"])
def test_fake_score_maximisation_collapses(made, dataset):
    fake = made.loc[(dataset, "fake_score")]
    assert fake.latent_recall < 0.05 and fake.SWD > 5 * fake.SWD_real


@pytest.mark.nightly
@pytest.mark.parametrize("dataset", ["grid", "s_curve"])
def test_zones_fill_the_gaussian_and_overlap_as_proven(made, dataset):
    row = made.loc[(dataset, "lzn")]
    assert row.zone_KS <= 0.06 and row.misassignment_error < 0.025  # 4,096 draws: 0.008 is one sigma
    for g in STARTS:
        theorem = 0.5 * math.erfc((1 - g) / g / math.sqrt(2))
        assert row[f"misassigned[{g:g}]"] == pytest.approx(theorem, abs=0.025)
