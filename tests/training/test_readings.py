"""Losses that are read some steps later, as from a GPU, make the same curves, errors and checkpoints."""

import json
from functools import partial

import pytest
import torch
from safetensors import safe_open

from latentbench.bench.api import Diverged
from latentbench.bench.runtime.processes import Group
from latentbench.bench.training import checkpoint, steps
from latentbench.bench.training.checkpoint import State
from latentbench.bench.training.context import Context, Stopped
from latentbench.bench.training.readings import LossReader
from latentbench.bench.training.steps import run_steps


@pytest.fixture(params=[0, 1, 3])
def behind(request, monkeypatch):
    monkeypatch.setattr(steps, "LossReader", partial(LossReader, behind=request.param))
    return request.param


def run(folder, losses, **context):
    """The state and the updates after a run whose losses are given by step; an exception is raised there."""
    state, made = State({}, {}, {}), []

    def update(step):
        made.append(step)
        value = losses[step]
        if isinstance(value, Exception):
            raise value
        return {"kl": torch.tensor(value)}

    try:
        run_steps(state, len(losses), update, Context(folder, **context), 0)
    except Exception as error:
        return state, made, error
    return state, made, None


def test_curves_and_reports_have_every_step_in_order(behind, tmp_path):
    losses, said = [0.5 * step for step in range(8)], []
    state, made, error = run(tmp_path, losses, report=lambda *told: said.append(told))
    assert error is None and made == [*range(8)]
    assert state.curves == {"step": [1, 2, 3, 4, 5, 6, 7, 8], "kl": losses}
    assert said == [(step + 1, 8, f"kl {loss:.3g}") for step, loss in enumerate(losses)]


def test_a_loss_that_is_not_finite_stops_at_its_step_a_little_later(behind, tmp_path):
    _, made, error = run(tmp_path, [1.0, 2.0, float("nan"), *[1.0] * 7])
    assert isinstance(error, Diverged) and str(error) == "the loss 'kl' is nan at step 3"
    assert made == [*range(3 + behind)]


def test_an_error_that_follows_a_loss_that_is_not_finite_is_said_to_be_that_loss(behind, tmp_path):
    _, _, error = run(tmp_path, [1.0, float("inf"), RuntimeError("an index is out of range"), 1.0])
    assert isinstance(error, Diverged) and str(error) == "the loss 'kl' is inf at step 2"
    assert behind == 0 or str(error.__context__) == "an index is out of range"


def test_another_error_stays_what_it_is(behind, tmp_path):
    state, _, error = run(tmp_path, [1.0, 2.0, RuntimeError("a bug"), 1.0])
    assert isinstance(error, RuntimeError) and str(error) == "a bug"
    assert state.curves["kl"] == [1.0, 2.0]


def test_a_run_that_is_asked_to_stop_has_its_checkpoint_first_with_all_points_of_its_curves(behind, tmp_path):
    losses, asked = [float(step) for step in range(9)], []

    def stopping():
        asked.append(len(asked) == 3)
        return any(asked)

    def report(*_):
        if any(asked):  # as the engine does
            raise Stopped

    _, made, error = run(tmp_path, losses, stopping=stopping, report=report)
    assert isinstance(error, Stopped) and made == [*range(4 + behind)]
    [file] = checkpoint.checkpoint_files(tmp_path)
    assert points(file) == (4 + behind, losses[: 4 + behind])
    state, made, error = run(tmp_path, losses)
    assert error is None and made == [*range(4 + behind, 9)]
    assert state.curves["kl"] == losses


def points(file):
    """The step of a checkpoint and the points of its curve."""
    with safe_open(file, framework="pt") as handle:
        plain = json.loads(handle.metadata()["state"])
    return plain["step"], plain["curves"]["kl"]


def test_a_checkpoint_in_between_has_the_losses_up_to_its_step(behind, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(steps, "CHECKPOINT_SHARE", 0)
    losses = [float(step) for step in range(6)]
    run(tmp_path, losses)
    for file in checkpoint.checkpoint_files(tmp_path):
        step, curve = points(file)
        assert curve == losses[:step]


def test_a_gpu_is_read_one_step_behind_and_a_cpu_at_once(tmp_path):
    readers = [LossReader(Context(tmp_path, device)) for device in ("cpu", "cuda", "cuda:1")]
    assert [reader.behind for reader in readers] == [0, 1, 1]
    assert LossReader(Context(tmp_path, "cuda", group=Group(0, 2))).behind == 0


def test_losses_of_any_type_and_shape_of_one_number_are_read_with_all_their_digits(tmp_path):
    reader = LossReader(Context(tmp_path))
    third = torch.tensor(1 / 3, requires_grad=True)
    reader.add(7, {"a": third, "b": third.bfloat16()[None], "c": third.double() / 3}, True)
    [reading] = reader.readings()
    assert reading.step == 7 and reading.stopping
    assert reading.losses == {
        "a": third.item(),
        "b": third.bfloat16().item(),
        "c": (third.double() / 3).item(),
    }
