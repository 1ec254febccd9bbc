"""The time that a run will still take."""

import pytest

from latentbench.bench.engine.schedule import Event
from latentbench.bench.engine.time_to_go import TimeToGo
from latentbench.bench.plan.cost import Cost
from latentbench.bench.store.stage import Stage


def stage(kind, name, **config):
    return Stage(kind, name, config, {}, f"{kind}-{name}", True)


TOKENIZERS = [stage("tokenizer", "a"), stage("tokenizer", "b")]
GENERATOR = stage("generator", "a")
SCORES = [stage("scores", name, scope="generator") for name in "abc"]
COSTS = {"tokenizer-a": 100, "tokenizer-b": 300, "generator-a": 50}  # operations


@pytest.fixture
def run():
    """A run of two workers on a clock that stands still unless it is set."""
    stages = [*TOKENIZERS, GENERATOR, *SCORES]
    costs = {one.id: Cost(flops_per_image=COSTS.get(one.id), images=1) for one in stages}
    now = [0.0]
    told = TimeToGo(stages, costs, 2, lambda: now[0])

    def make(one, seconds):
        told.hear(Event("started", one))
        now[0] += seconds
        told.hear(Event("done", one))

    return told, make


def test_nothing_is_said_before_a_stage_has_told_the_speed(run):
    told, _ = run
    assert told.remaining() is None and told.remaining([]) == 0


def test_stages_that_train_take_as_long_as_their_operations_at_the_measured_speed(run):
    told, make = run
    make(TOKENIZERS[0], 10)  # 10 operations a second
    assert told.remaining(["tokenizer-b"]) == pytest.approx(300 / 10 / 2)
    assert told.remaining(["generator-a"]) == pytest.approx(50 / 10 / 2)  # its kind hasn't been seen
    make(GENERATOR, 1)
    assert told.remaining(["tokenizer-b"]) == pytest.approx(300 / 10 / 2)  # each kind has its own speed


def test_scores_take_as_long_as_other_scores(run):
    told, make = run
    make(SCORES[0], 8)
    assert told.remaining([one.id for one in SCORES]) == pytest.approx(2 * 8 / 2)


def test_half_a_stage_takes_half_the_time_and_a_failed_one_none(run):
    told, make = run
    make(TOKENIZERS[0], 10)
    told.hear(Event("started", TOKENIZERS[1]))
    told.hear(Event("progress", TOKENIZERS[1], step=30, total=40))
    assert told.remaining(["tokenizer-b"]) == pytest.approx(0.25 * 300 / 10 / 2)
    told.hear(Event("failed", TOKENIZERS[1]))
    assert told.remaining(["tokenizer-b"]) == 0


def test_the_sum_of_all_stages_is_the_sum_of_each(run):
    told, make = run
    make(TOKENIZERS[0], 10)
    make(SCORES[0], 8)
    told.hear(Event("progress", TOKENIZERS[1], step=10, total=40))
    each = [told.remaining([one.id]) for one in (*TOKENIZERS, GENERATOR, *SCORES)]
    assert told.remaining() == pytest.approx(sum(each)) == pytest.approx((22.5 + 5 + 16) / 2)
