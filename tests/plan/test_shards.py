"""Shards and other runs at once: cells dealt, a folder shared, and nobody waits while there is work."""

import errno
import json
import time
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers.run import TINY, bench_inline, ran, results, start

from latentbench.bench.engine import results_folder, run_options
from latentbench.bench.engine.open_plan import OpenPlan
from latentbench.bench.engine.schedule import BUSY_SECONDS, Schedule
from latentbench.bench.plan import shards
from latentbench.bench.plan.plan import Cell, Plan
from latentbench.bench.records.files import write_record
from latentbench.bench.records.record import Record
from latentbench.bench.store import artifacts
from latentbench.bench.store.artifacts import NoLocks, Store, locked
from latentbench.bench.store.stage import Stage

SMALL = TINY.replace(", guidance: [1.0, 1.5]", "")


def plan_of(tokenizers, generators):
    """A plan with a chain tokenizer → generator → scores for each pair, all on one stage of features."""
    found = Plan()

    def add(kind, label, parents):
        found.stages[label] = Stage(kind, label, {}, parents, label, True)
        return label

    features = add("features", "features", {})
    for t in range(tokenizers):
        trained = add("tokenizer", f"t{t}", {"features": features})
        for g in range(generators):
            made = add("generator", f"t{t}g{g}", {"tokenizer": trained})
            end = add("scores", f"s{t}{g}", {"tokenizer": trained, "generator": made})
            found.cells.append(Cell("d", f"t{t}", "r", f"g{g}", "0", {"1": end}))
    return found


def names(dealt):
    return [[f"{cell.tokenizer}{cell.generator}" for cell in shard] for shard in dealt]


def test_every_cell_is_in_one_shard_and_a_tokenizers_cells_are_together():
    plan = plan_of(5, 3)
    for count in (1, 2, 3, 5):
        dealt = shards.deal(plan, plan.cells, count, {})
        assert sorted(c.key for shard in dealt for c in shard) == sorted(c.key for c in plan.cells)
        homes = [{cell.tokenizer for cell in shard} for shard in dealt]
        assert sum(map(len, homes)) == 5
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 3


def test_shards_are_balanced_by_the_work_that_is_known():
    plan = plan_of(4, 2)
    flops = {"t0": 90.0, "t1": 30.0, "t2": 30.0, "t3": 30.0, "features": None}
    assert names(shards.deal(plan, plan.cells, 2, flops)) == [
        ["t0g0", "t0g1"],
        ["t1g0", "t1g1", "t2g0", "t2g1", "t3g0", "t3g1"],
    ]


def test_a_tokenizers_cells_are_parted_only_if_there_are_more_shards_than_tokenizers():
    plan = plan_of(1, 4)
    real = Cell("d", "real", "real", "real", "", {"": "features"})
    dealt = shards.deal(plan, [*plan.cells, real], 3, {"t0": 1.0})
    assert sorted(map(len, dealt)) == [1, 2, 2]
    assert sum(map(len, shards.deal(plan, plan.cells, 9, {}))) == 4


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_shard_that_cannot_be_is_a_usage_error(text):
    with pytest.raises(ValueError, match="--shard takes I/N"):
        shards.parse(text)
    assert shards.parse("2/8") == (2, 8)


def test_a_stage_that_another_run_makes_is_left_for_others_and_looked_at_again(tmp_path, monkeypatch):
    plan, heard, now = plan_of(2, 1), [], [100.0]
    monkeypatch.setattr("latentbench.bench.engine.schedule.time.monotonic", lambda: now[0])
    schedule = Schedule(plan, Store(tmp_path))
    schedule.done.add("features")
    schedule.waiting = [plan.stages["t0"], plan.stages["t1"]]

    def says(stage, *message):
        schedule.take(stage)
        schedule.receive(stage, message, heard.append)

    says(plan.stages["t0"], "busy", "t0")
    assert [stage.id for stage in schedule.ready(None)] == ["t1"]
    now[0] += BUSY_SECONDS
    assert [stage.id for stage in schedule.ready(1)] == ["t0"]
    says(plan.stages["t0"], "busy", "t0")
    Store(tmp_path).put(plan.stages["t0"], artifacts.Result())
    says(plan.stages["t0"], "found", "t0")
    assert [(event.what, event.text) for event in heard] == [
        ("busy", "another run makes it"),
        ("done", "made by another run"),
    ]
    assert "t0" in schedule.done and schedule.ready(None) == [plan.stages["t1"]]


def test_a_file_system_without_locks_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(artifacts.fcntl, "flock", refuse)
    with pytest.raises(NoLocks, match="without locks; .*--store file://"), locked(tmp_path / "lock"):
        pass


def record(generator):
    cell = {"dataset": "d", "tokenizer": "t", "regularizer": "r", "generator": generator, "seed": "0"}
    value = {"value": 1.0, "n": 10, "protocol": {}, "scope": "generator"}
    value |= {"better": "lower", "unit": "", "about": "Of nothing."}
    return Record(cell, generator, "done", metrics={"loss@1": value})


def test_tables_have_what_other_runs_have_written_meanwhile(tmp_path):
    matrix = SimpleNamespace(name="m", datasets=[])
    book = results_folder.ResultsWriter(
        OpenPlan(matrix, Plan(), [], Store(tmp_path / "cache")), run_options.RunOptions(tmp_path / "out", 1)
    )
    for name in ("mine", "theirs"):
        write_record(tmp_path / "out/records", record(name))
    assert {one.key for one in book.publish()} == {"mine", "theirs"}
    assert set(pd.read_csv(tmp_path / "out/leaderboard.csv").generator) == {"mine", "theirs"}
    write_record(tmp_path / "out/records", record("late"))
    assert len(book.publish("More is to come.")) == 3
    left = [f.suffix for f in (tmp_path / "out/records").rglob("*") if f.is_file()]
    assert left == [".json"] * 4  # three records, and the file that says what their metrics are


def test_the_last_of_two_that_publish_at_once_has_everything(tmp_path, monkeypatch):
    """A run that reads, is overtaken by another, and writes what it has read would lose a record."""
    matrix, order = SimpleNamespace(name="m", datasets=[]), []
    books = [
        results_folder.ResultsWriter(
            OpenPlan(matrix, Plan(), [], Store(tmp_path / "cache")), run_options.RunOptions(tmp_path, 1)
        )
        for _ in range(2)
    ]
    write_record(tmp_path / "records", record("first"))

    def slow(folder, found, *_):
        if not order:
            order.append("begun")
            write_record(tmp_path / "records", record("second"))
            other.start()
            time.sleep(0.5)
        order.append(len(found))

    monkeypatch.setattr(results_folder, "write_report", slow)
    other = Thread(target=books[1].publish, args=["More is to come."])
    books[0].publish("More is to come.")
    other.join()
    assert order == ["begun", 1, 2]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """One run of the small matrix."""
    return ran(tmp_path_factory.mktemp("straight"), SMALL) / "results/tiny"


def test_two_shards_at_once_leave_the_folder_that_one_run_leaves(straight, tmp_path):
    (tmp_path / "matrix.yaml").write_text(SMALL)
    both = [start("run", "-j", 1, "--shard", f"{i}/2", cwd=tmp_path) for i in (1, 2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    out = tmp_path / "results/tiny"
    assert results(out) == results(straight)
    mine, truth = (pd.read_csv(folder / "leaderboard.csv") for folder in (out, straight))
    costs = [name for name in truth if "cost_" in name or "seconds" in name]
    pd.testing.assert_frame_equal(mine.drop(columns=costs), truth.drop(columns=costs))
    assert (out / "matrix.lock.yaml").read_text() == (straight / "matrix.lock.yaml").read_text()
    drawn = [sorted(file.name for file in (f / "samples").iterdir()) for f in (out, straight)]
    assert drawn[0] == drawn[1]
    made = [line for text in said for line in text.splitlines() if line.startswith("done")]
    by_others = [line for line in made if "made by another run" in line]
    assert len(made) - len(by_others) == len(list((tmp_path / ".bench/artifacts").glob("*/*")))  # none twice
    assert not list(Path(out).rglob("*.tmp")) and not (out / "records/.publishing").exists()


def test_a_run_makes_what_it_can_while_another_holds_a_stage(straight, tmp_path):
    (tmp_path / "matrix.yaml").write_text(SMALL)
    plan = json.loads(bench_inline("plan", "--json", cwd=tmp_path).stdout)
    held = next(one for one in plan["stages"] if one["kind"] == "tokenizer")
    others = [one for one in plan["stages"] if one["kind"] == "tokenizer" and one is not held]
    cache = Store(tmp_path / ".bench")
    with cache.lock(SimpleNamespace(key=held["key"])):
        process = start("run", "-j", 1, cwd=tmp_path)
        end = time.monotonic() + 120
        while not all((cache.root / "artifacts/tokenizer" / one["key"]).is_dir() for one in others):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.1)
        assert not (cache.root / "artifacts/tokenizer" / held["key"]).exists()
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert said.count(f"busy   tokenizer {held['label']}  another run makes it") == 1
    assert said.count(f"start  tokenizer {held['label']}") == 1
    assert results(tmp_path / "results/tiny") == results(straight)


def test_a_shard_without_cells_and_one_that_would_remove_what_others_made(tmp_path):
    (tmp_path / "matrix.yaml").write_text(SMALL)
    empty = bench_inline("run", "--shard", "9/9", "--filter", "generator=gaussian", cwd=tmp_path)
    assert empty.returncode == 0 and "shard 9/9 has no cells" in empty.stdout, empty.stderr
    again = bench_inline("run", "--shard", "1/2", "--rerun", cwd=tmp_path)
    assert again.returncode == 2 and "other shards" in again.stderr
    assert not (tmp_path / "results").exists()
