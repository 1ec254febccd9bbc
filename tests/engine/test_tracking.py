"""What trackers are told: losses along training, scores and settings, each once, whatever happens."""

import os
import subprocess
import sys

import pytest
import yaml
from helpers import fabricated_records
from helpers.run import TINY, bench_inline, results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from latentbench.bench.engine import tracking
from latentbench.bench.engine.schedule import Event
from latentbench.bench.plan.plan import Cell, Plan
from latentbench.bench.store.artifacts import Result, Store
from latentbench.bench.store.stage import Stage
from latentbench.bench.training import checkpoint
from latentbench.bench.training.checkpoint import State

CONFIG = {"tokenizer": {"name": "vit", "options": {"width": 16}}, "steps": 4, "optimizer": [{}, {"lr": 0.1}]}
STAGE = Stage("tokenizer", "vit · kl[weight=0.01] · seed 0", CONFIG, {}, "ab" * 32, True)
SCORES = Stage("scores", "vit · kl · seed 0", {}, {"tokenizer": STAGE.id}, "cd" * 32, True)
CELL = Cell("digits", "vit", "kl", "mar", "0", {"": SCORES.id})
PLAN = Plan({STAGE.id: STAGE, SCORES.id: SCORES}, [CELL])
RUN = "tokenizer--vit--kl_weight=0.01--seed_0--ababab"
CURVES = {"step": [1, 2, 3, 4], "l1": [0.5, 0.25, 0.125, None], "kl": [4.0, 3.0, 2.0, 1.0]}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


@pytest.fixture
def begun(tmp_path, store, monkeypatch):
    """Starts tracking as a new process would."""
    monkeypatch.setattr(tracking, "CHECKPOINT_SECONDS", -1.0)
    warnings = []

    def begin(*names):
        return tracking.Tracking(names or ["tensorboard"], tmp_path, "made_up", PLAN, store, warnings.append)

    begin.warnings = warnings
    return begin


def logged(folder, run=RUN):
    """{tag: [(step, value)]} from the event files of a run."""
    events = EventAccumulator(str(folder / "tensorboard" / run)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def first(count):
    return {name: values[:count] for name, values in CURVES.items()}


def until(store, step):
    checkpoint.save(store.work(STAGE), State({}, {}, {}, step=step, curves=first(step)))


def test_losses_of_a_finished_stage_are_told_once(tmp_path, store, begun):
    store.put(STAGE, Result({"curves": CURVES}))
    for _ in range(2):
        with begun() as told:
            told.hear(Event("started", STAGE))
            told.hear(Event("done", STAGE))
            told.hear(Event("done", STAGE))
    found = logged(tmp_path)
    assert found["tokenizer/kl"] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    assert found["tokenizer/l1"] == [(1, 0.5), (2, 0.25), (3, 0.125)]
    said = [yaml.safe_load(file.read_text()) for file in tmp_path.rglob("hparams.yml")]
    assert len(said) == 1 and said[0]["tokenizer.options.width"] == 16 and said[0]["steps"] == 4
    assert begun.warnings == []


def test_a_run_that_goes_on_continues_where_the_killed_one_was(tmp_path, store, begun):
    killed = begun()
    killed.hear(Event("progress", STAGE))  # no checkpoint yet
    assert not (tmp_path / "tensorboard").exists()
    until(store, 1)
    killed.hear(Event("progress", STAGE))
    until(store, 2)
    killed.hear(Event("progress", STAGE))
    assert [step for step, _ in logged(tmp_path)["tokenizer/l1"]] == [1, 2]
    with begun() as again:  # the other never ended
        again.hear(Event("progress", STAGE))
        until(store, 3)
        again.hear(Event("progress", STAGE))
        store.put(STAGE, Result({"curves": CURVES}))
        again.hear(Event("done", STAGE))
    assert [step for step, _ in logged(tmp_path)["tokenizer/kl"]] == [1, 2, 3, 4]


def test_a_cell_has_its_scores_and_settings_and_the_curves_of_cached_stages(tmp_path, store, begun):
    record = fabricated_records.records(("kl",), ("mar",), ("0",))[1]
    store.put(STAGE, Result({"curves": CURVES}))
    with begun() as told:
        told.cell(CELL, record)
        told.cell(CELL, record)
    assert set(logged(tmp_path)) == {"tokenizer/l1", "tokenizer/kl"}
    found = logged(tmp_path, f"digits--vit--kl--mar--seed_0--{record.key[:6]}")
    for name, tag in (("gFD[net]@1.5", "gFD_net_1.5"), ("PSNR", "PSNR")):
        assert found[tag] == [(701, pytest.approx(record.metrics[name]["value"], rel=1e-6))]
    assert found["cost/generator_seconds"] == [(701, 25.0)]
    assert [step for step, _ in found["quality/gFD_net"]] == [100, 300, 700]
    said = [
        yaml.safe_load(file.read_text()) for file in (tmp_path / "tensorboard").glob("digits*/*/hparams.yml")
    ]
    assert len(said) == 1 and said[0]["cell.regularizer"] == "kl" and said[0]["budget.batch"] == 64


def test_a_tracker_that_fails_is_told_once_and_left(store, begun, monkeypatch):
    def log(*_, **__):
        raise ConnectionError("no server")

    store.put(STAGE, Result({"curves": CURVES}))
    monkeypatch.setattr(tracking.Accelerator, "log", log)
    with begun() as told:
        told.hear(Event("done", STAGE))
        told.cell(CELL, fabricated_records.records(("kl",), ("mar",), ("0",))[1])
    assert begun.warnings == ["tracking ends here: ConnectionError: no server"]


def test_trackers_with_one_run_at_a_time_get_a_stage_when_it_is_done(store, begun, monkeypatch):
    calls = []

    class Fake:
        def __init__(self, cpu, log_with, project_dir):
            calls.append(("open", log_with))

        def init_trackers(self, project, config, options):
            calls.append((project, options["mlflow"]["run_name"], bool(config)))

        def log(self, values, step):
            calls.append(step)

        def end_training(self):
            calls.append("end")

    monkeypatch.setattr(tracking, "Accelerator", Fake)
    with begun("mlflow") as told:
        until(store, 2)
        told.hear(Event("progress", STAGE))
        assert calls == []
        store.put(STAGE, Result({"curves": CURVES}))
        told.hear(Event("done", STAGE))
    assert calls == [("open", "mlflow"), ("made_up", RUN, True), 1, 2, 3, 4, "end"]


def test_tracking_leaves_the_environment_of_workers_as_it_is(store, begun):
    store.put(STAGE, Result({"curves": CURVES}))
    before = dict(os.environ)
    with begun() as told:
        told.hear(Event("done", STAGE))
    assert dict(os.environ) == before


def test_an_unknown_or_missing_tracker_is_named_with_those_that_are_there(monkeypatch):
    tracking.check(["tensorboard"])
    with pytest.raises(tracking.TrackerError, match="did you mean 'comet_ml'.*installed:.*tensorboard"):
        tracking.check(["comet"])
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(tracking.TrackerError, match=r"wandb is not installed \(installed: tensorboard\)"):
        tracking.check(["tensorboard", "wandb"])


def test_nothing_of_trackers_is_imported_where_none_is_asked_for():
    names = "{'latentbench.bench.engine.tracking', 'tensorboard', 'torch.utils.tensorboard'}"
    rooms = ("engine.run", "engine.worker", "stages.table", "cli")
    imports = ", ".join(f"latentbench.bench.{room}" for room in rooms)
    code = f"import sys, {imports}; assert not {names} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_line_tracks_a_run(tmp_path):
    short = TINY.replace("  gaussian: {}\n", "").replace("  kl: {weight: 1.0e-3}\n", "")
    short = short.replace("[reconstruction, generation, density, cost]", "[reconstruction]")
    (tmp_path / "matrix.yaml").write_text(short)
    refused = bench_inline("run", "--track", "tensorbord", cwd=tmp_path)
    assert refused.returncode == 2 and "did you mean 'tensorboard'" in refused.stderr
    assert not (tmp_path / "results").exists()
    told = bench_inline("run", "-o", "told", "--track", "tensorboard", cwd=tmp_path)
    assert told.returncode == 0 and "tracking" not in told.stderr, told.stderr
    (record,) = results(tmp_path / "told").values()
    runs = {path.name.split("--")[0]: path.name for path in (tmp_path / "told/track/tensorboard").iterdir()}
    assert set(runs) == {"tokenizer", "digits"}
    curve = record["curves"]["tokenizer"]
    found = logged(tmp_path / "told" / "track", runs["tokenizer"])["tokenizer/l1"]
    assert found == [(s, pytest.approx(v, rel=1e-6)) for s, v in zip(curve["step"], curve["l1"], strict=True)]
    scores = logged(tmp_path / "told" / "track", runs["digits"])
    assert scores["PSNR"][0][1] == pytest.approx(record["metrics"]["PSNR"]["value"], rel=1e-6)
