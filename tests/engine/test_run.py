"""`bench run` from end to end: cached, killed, parallel, and with parts that fail."""

import json
import os
import random
import re
import signal

import pandas as pd
import pytest
from helpers.run import (
    TINY,
    bench,
    bench_inline,
    gone_within,
    killed_at_work,
    ran,
    results,
    stage_workers_of,
    start,
    until,
    workers_of,
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder with the tiny matrix, run once in this process: its results are the truth for the others."""
    return ran(tmp_path_factory.mktemp("undisturbed"), TINY)


def matrix(folder, text=TINY):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "matrix.yaml").write_text(text)
    return folder


def test_every_pair_is_a_row_of_the_leaderboard(undisturbed):
    table = pd.read_csv(undisturbed / "results/tiny/leaderboard.csv")
    rows = table[table.regularizer != "real"]
    pairs = set(zip(rows.regularizer, rows.generator, rows.guidance, strict=True))
    assert pairs == {
        (regularizer, generator, guidance)
        for regularizer in ("none", "kl")
        for generator, guidance in (("gaussian", 1.0), ("lightningdit", 1.0), ("lightningdit", 1.5))
    }
    assert (rows.status == "done").all()
    assert rows["gFD[effnet_lite0:32]"].notna().all() and rows["PSNR"].notna().all()
    text = (undisturbed / "results/tiny/leaderboard.md").read_text()
    assert "real" in text and "gFD" in text and "gFID" not in text


def test_as_many_held_out_images_stand_beside_the_samples(undisturbed):
    table = pd.read_csv(undisturbed / "results/tiny/leaderboard.csv")
    real = table[table.regularizer == "real"]["gFD[effnet_lite0:32]"]
    assert len(real) == 1 and real.item() < table["gFD[effnet_lite0:32]"].drop(real.index).min()
    record = json.loads(next((undisturbed / "results/tiny/records").glob("*--real--*.json")).read_text())
    assert {entry["n"] for entry in record["metrics"].values()} == {64}  # of 360, as samples are


def test_pictures_of_samples_and_reconstructions_are_written(undisturbed):
    pictures = {file.name for file in (undisturbed / "results/tiny/samples").glob("*.png")}
    assert "digits--reconstructions.png" in pictures
    assert any("lightningdit" in name and "@1.5" in name for name in pictures)


def test_a_second_run_makes_nothing_and_gives_the_same(undisturbed, tmp_path):
    truth = results(undisturbed / "results/tiny")
    again = bench_inline("run", "-o", tmp_path / "elsewhere", cwd=undisturbed)
    assert again.returncode == 0, again.stderr
    assert "start" not in again.stdout
    assert results(tmp_path / "elsewhere") == truth


def test_a_report_is_written_again_only_where_something_has_changed(undisturbed, tmp_path):
    folder = tmp_path / "out"
    table, page = folder / "leaderboard.csv", folder / "leaderboard.html"

    def rewritten():
        before = page.stat().st_mtime_ns
        assert bench_inline("run", "-o", folder, cwd=undisturbed).returncode == 0
        return page.stat().st_mtime_ns != before

    assert bench_inline("run", "-o", folder, cwd=undisturbed).returncode == 0
    assert not rewritten()
    text = table.read_text()
    table.write_text(text + "edited\n")
    assert rewritten() and table.read_text() == text
    next((folder / "samples").glob("*lightningdit*.png")).unlink()  # which a run draws again
    (folder / "analysis/mine.csv").write_text("")
    assert rewritten() and not (folder / "analysis/mine.csv").exists()
    page_before = page.stat().st_mtime_ns
    assert bench_inline("report", folder, cwd=undisturbed).returncode == 0
    assert page.stat().st_mtime_ns != page_before


def test_the_plan_lists_exactly_the_artifacts_that_a_run_leaves(undisturbed):
    plan = json.loads(bench_inline("plan", "--json", cwd=undisturbed).stdout)
    planned = {(stage["kind"], stage["key"]) for stage in plan["stages"]}
    made = {(path.parent.name, path.name) for path in (undisturbed / ".bench/artifacts").glob("*/*")}
    assert planned == made
    assert all(stage["cached"] for stage in plan["stages"])
    tokenizers = [stage for stage in plan["stages"] if stage["kind"] == "tokenizer"]
    assert len(tokenizers) == 2 and all(stage["cells"] == 2 for stage in tokenizers)


def test_artifacts_hold_no_pickle(undisturbed):
    suffixes = {path.suffix for path in (undisturbed / ".bench/artifacts").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}


def test_two_workers_give_the_numbers_of_this_process(undisturbed, tmp_path):
    folder = matrix(tmp_path)
    done = bench("run", "-j", 2, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(folder / "results/tiny") == results(undisturbed / "results/tiny")


def test_a_run_killed_at_any_moment_ends_with_the_same_numbers(tmp_path):
    text = re.sub(r"_steps: 12", "_steps: 400", TINY).replace("  kl: {weight: 1.0e-3}\n", "")
    text = text.replace("guidance: [1.0, 1.5], ", "").replace("generation, density, cost", "generation")
    straight, killed = matrix(tmp_path / "straight", text), matrix(tmp_path / "killed", text)
    assert bench_inline("run", cwd=straight).returncode == 0
    moments = random.Random(0)
    kills = sum(killed_at_work(moments.uniform(0.3, 3), "run", "-j", 2, cwd=killed) for _ in range(2))
    done = bench("run", "-j", 2, cwd=killed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert kills == 2
    assert results(killed / "results/tiny") == results(straight / "results/tiny")


def test_workers_die_with_a_killed_parent_and_ctrl_c_says_how_to_go_on(tmp_path):
    folder = matrix(tmp_path, re.sub(r"_steps: 12", "_steps: 100000", TINY))
    for sign in (signal.SIGKILL, signal.SIGINT):
        process = start("run", "-j", 2, cwd=folder)
        until(process, "tokenizer")
        workers = workers_of(process.pid)
        process.send_signal(sign)
        rest = process.communicate(timeout=120)[0]
        assert workers and gone_within(30, workers)
        if sign == signal.SIGINT:
            assert process.returncode == 130
            assert "bench run -j 2" in rest
    assert not list((folder / ".bench/artifacts").glob("tokenizer/*"))


BROKEN = '''
import torch
from latentbench.bench.api import Regularizer
from latentbench.bench.registry import register

@register("diverging")
class Diverging(Regularizer):
    """Is not a number from its third step on."""

    def loss(self, z, h, step):
        return {"penalty": z.square().mean() * (float("nan") if step.index >= 2 else 1.0)}
'''


def test_a_regularizer_that_diverges_is_a_failed_row_and_the_rest_is_done(undisturbed, tmp_path):
    text = TINY.replace("  kl: {weight: 1.0e-3}\n", "  diverging: {}\n") + "plugins: [broken.py]\n"
    folder = matrix(tmp_path, text)
    (folder / "broken.py").write_text(BROKEN)
    done = bench_inline("run", cwd=folder)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    table = pd.read_csv(folder / "results/tiny/leaderboard.csv")
    assert set(table[table.regularizer == "diverging"].status) == {"failed"}
    assert set(table[table.regularizer == "none"].status) == {"done"}
    assert "the loss 'penalty' is nan at step 3" in (folder / "results/tiny/leaderboard.md").read_text()
    again = bench_inline("run", cwd=folder)  # divergence is a result: it is not tried again
    assert again.returncode == 1 and "start" not in again.stdout
    mine, truth = results(folder / "results/tiny"), results(undisturbed / "results/tiny")
    shared = [name for name in mine if "none" in name]
    assert shared and all(mine[name] == truth[name] for name in shared)


def test_a_filter_runs_only_some_cells_and_later_ones_add_to_the_table(undisturbed, tmp_path):
    folder = tmp_path / "part"
    for name, rows in (("gaussian", 2), ("*", 6)):
        done = bench_inline("run", "--filter", f"generator={name}", "-o", folder, cwd=undisturbed)
        assert done.returncode == 0, done.stderr
        table = pd.read_csv(folder / "leaderboard.csv")
        assert len(table[table.regularizer != "real"]) == rows


def test_report_rebuilds_the_same_tables_from_records_alone(undisturbed, tmp_path):
    folder = undisturbed / "results/tiny"
    done = bench_inline("report", folder, "-o", tmp_path / "copy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("leaderboard.md", "leaderboard.csv"):
        assert (tmp_path / "copy" / name).read_text().split("\n", 1)[1:] == (
            (folder / name).read_text().split("\n", 1)[1:]
        )


def test_clean_says_what_it_would_free_before_it_does(tmp_path):
    folder = matrix(tmp_path)
    (folder / ".bench/artifacts/x").mkdir(parents=True)
    (folder / ".bench/artifacts/x/y").write_bytes(b"0" * 2**20)
    assert "would free 1.0 MiB" in bench_inline("clean", cwd=folder).stdout
    assert (folder / ".bench").is_dir()
    assert "freed 1.0 MiB" in bench_inline("clean", "--yes", cwd=folder).stdout
    assert not (folder / ".bench").exists()


CLASHING = BROKEN.replace("diverging", "clashing").replace('"penalty"', '"l1"')


def test_a_loss_that_would_hide_another_is_refused_and_fail_fast_says_so_with_exit_1(tmp_path):
    folder = matrix(tmp_path, TINY.replace("  none: {}\n", "  clashing: {}\n") + "plugins: [clashing.py]\n")
    (folder / "clashing.py").write_text(CLASHING)
    done = bench_inline("run", "--fail-fast", "--filter", "regularizer=clashing", cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "'l1', which is the name of a reconstruction loss" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_worker_that_dies_costs_its_stage_and_nothing_else(tmp_path):
    text = TINY.replace("tokenizer_steps: 12", "tokenizer_steps: 400")
    folder = matrix(tmp_path, re.sub(r"  lightningdit: .*\n", "", text))
    process = start("run", "-j", 2, cwd=folder)
    until(process, "start  tokenizer", times=2)  # one in each worker
    os.kill(stage_workers_of(process.pid)[-1], signal.SIGKILL)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert "killed by signal 9 (out of memory?)" in said and "Traceback" not in said
    statuses = {json.loads(f.read_text())["status"] for f in (folder / "results/tiny/records").glob("*.json")}
    assert "failed" in statuses
    assert bench_inline("run", cwd=folder).returncode == 0  # tried again


@pytest.mark.nightly  # two shards of one run do the same, in tests/plan/test_shards.py
def test_two_runs_on_one_cache_make_each_stage_once(undisturbed, tmp_path):
    folder = matrix(tmp_path)
    both = [start("run", "-j", 1, "-o", f"out{i}", cwd=folder) for i in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    truth = results(undisturbed / "results/tiny")
    assert results(folder / "out0") == results(folder / "out1") == truth


def test_pictures_are_drawn_again_for_other_latents_even_if_the_clock_went_back(undisturbed, tmp_path):
    picture = matrix(tmp_path, TINY) / "out/samples/digits--reconstructions.png"
    options = ("-o", "out", "--filter", "generator=gaussian")
    assert bench_inline("run", *options, cwd=tmp_path, home=undisturbed / ".bench").returncode == 0
    first, later = picture.read_bytes(), 2**31
    os.utime(picture, (later, later))
    matrix(tmp_path, TINY.replace("tokenizer_steps: 12", "tokenizer_steps: 13"))
    assert bench_inline("run", *options, cwd=tmp_path, home=undisturbed / ".bench").returncode == 0
    assert picture.read_bytes() != first
    drawn = picture.stat().st_mtime_ns
    assert bench_inline("run", *options, cwd=tmp_path, home=undisturbed / ".bench").returncode == 0
    assert picture.stat().st_mtime_ns == drawn
