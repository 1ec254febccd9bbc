"""Rows and their ranking: shared columns, one guidance each, logarithms of distances, and one seed."""

import math
import random

import numpy as np
import pytest
from helpers import fabricated_records

from latentbench.bench.leaderboard.guidance import choose
from latentbench.bench.leaderboard.ranking import comparable
from latentbench.bench.leaderboard.results import Leaderboard
from latentbench.bench.leaderboard.rows import Column, Value, rows_of
from latentbench.bench.records.record import Record
from latentbench.bench.statistics.observations import Observation
from latentbench.bench.statistics.power import detectable
from latentbench.bench.statistics.significance import ranks

GFD = Column("gFD[net]", "aaaaaa", "generator", {"better": "lower"})


def row(values):
    return tuple(Observation(float(v), str(i)) for i, v in enumerate(values))


def judge(truths, rng, seeds=3, spread=0.05, column=GFD):
    """Ranks of rows whose seeds deviate by a share of their value."""
    rows = [row(truth * np.exp(rng.normal(0, spread, seeds))) for truth in truths]
    return ranks(comparable(rows, column)[0], higher=False, shared=False)


def records(values, names=("gFD[net]",), better="lower", replicates=False):
    """A leaderboard of {(regularizer, guidance): values over seeds}, the same for all metrics."""
    drawn, found = random.Random(0), {}
    for (regularizer, w), mine in values.items():
        for seed, value in enumerate(mine):
            cell = {"dataset": "d", "tokenizer": "vit", "regularizer": regularizer, "generator": "mar"}
            one = found.setdefault((regularizer, seed), Record({**cell, "seed": str(seed)}, "k", "done"))
            for name in names:
                entry = {"value": value, "n": 9, "protocol": {}, "scope": "generator", "better": better}
                if replicates:
                    entry["replicates"] = [value + drawn.gauss(0, 1) for _ in range(100)]
                one.metrics[f"{name}@{w:g}"] = entry
    return Leaderboard.of(rows_of(list(found.values())), "generator")


def decided(board):
    return board.standings(board.deciding)


def test_ranks_go_by_the_matrix_s_first_extractor_whatever_its_name():
    found = []
    for seed in range(2):
        for regularizer, mine, other in (("a", 1.0, 9.0), ("b", 2.0, 8.0)):
            cell = {"dataset": "d", "tokenizer": "vit", "regularizer": regularizer, "generator": "mar"}
            entry = {"n": 9, "protocol": {}, "scope": "generator", "better": "lower"}
            metrics = {
                "gFD[alpha]@1": {**entry, "value": other + seed, "place": 1},
                "gFD[zeta]@1": {**entry, "value": mine + seed},
            }
            found.append(Record({**cell, "seed": str(seed)}, "k", "done", metrics=metrics))
    board = Leaderboard.of(rows_of(found), "generator")
    assert [column.name for column in board.deciding] == ["gFD[zeta]"]
    assert [row.regularizer for row in board.rows] == ["a", "b"]


def test_a_bad_row_hides_no_difference_of_good_ones():
    truths = (100, 150, 150, 150, 150, 150, 1000)
    rng = np.random.default_rng(0)
    logs = np.mean([judge(truths, rng)[0].high == 1 for _ in range(300)])
    plain = np.mean(
        [judge(truths, rng, column=Column("KD", "", "generator", {}))[0].high == 1 for _ in range(300)]
    )
    assert logs > 0.9 and plain < logs - 0.3


@pytest.mark.parametrize(("seeds", "far"), [(3, 10), (2, 10), (3, 1)])
def test_equal_distances_are_seldom_separated_beside_a_far_one(seeds, far):
    rng = np.random.default_rng(seeds)
    wrong = []
    for _ in range(1000):
        found = judge((100, 100, 100, 100 * far), rng, seeds)
        equal = found[: 3 if far > 1 else 4]
        wrong.append(any(r.low > 1 or r.high < len(equal) for r in equal))
    assert np.mean(wrong) < 0.065  # 0.05, and twice a simulation's standard error


def test_what_is_detectable_of_distances_is_relative():
    board = records(
        {(r, 1.0): v for r, v in (("a", (100, 105, 98)), ("b", (150, 160, 149)), ("c", (900, 931, 950)))}
    )
    (ranking,) = decided(board).rankings
    assert ranking.logs and ranking.detectable.endswith(" %")
    expected = detectable(
        [row(map(math.log, v)) for v in ((100, 105, 98), (150, 160, 149), (900, 931, 950))], False
    )
    assert float(ranking.detectable[:-2]) == pytest.approx(100 * math.expm1(expected), rel=0.05)


@pytest.mark.parametrize(
    "name", ["gFD[net]", "gFID", "rFD@9[net]", "rFD_noise_0.1[net]", "FDr", "MIND@9[net]"]
)
def test_only_positive_distances_have_logarithms(name):
    column = Column(name, "", "generator", {})
    rows = [row((2.0, 3.0)), row((4.0, 5.0))]
    found, logs = comparable(rows, column)
    assert logs and found[0][1].value == math.log(3)
    assert comparable([*rows, row((0.0, 1.0))], column) == ([*rows, row((0.0, 1.0))], False)
    bootstrapped = (Observation(1.0, "0", (0.5, -0.1)),)
    assert not comparable([*rows, bootstrapped], column)[1]
    assert not comparable(rows, Column("KD[net]", "", "generator", {}))[1]


def test_each_row_competes_at_one_guidance_in_all_metrics():
    values = {
        ("a", 1.0): (50, 52, 51),
        ("a", 1.5): (10, 11, 10.5),
        ("b", 1.0): (30, 31, 29),
        ("b", 1.5): (40, 42, 41),
    }
    board = records(values, ("gFD[net]", "gFD@360[net]", "sFD[net]"))
    standings = board.standings(board.columns)
    assert len(standings.rankings) == 3
    for ranking in standings.rankings:
        assert [(row.regularizer, row.guidance) for row in ranking.rows] == [("a", 1.5), ("b", 1.0)]
        assert [board.rows[i] for i in ranking.places] == ranking.rows
    texts = {
        (r.regularizer, r.guidance): text for r, text in zip(board.rows, standings.rank_texts, strict=True)
    }
    assert texts == {("a", 1.0): "", ("a", 1.5): "1", ("b", 1.0): "2", ("b", 1.5): ""}


def test_guidance_is_the_one_that_the_other_seeds_choose_most_often():
    values = {
        1.0: Value(None, None, 3, observations=row((10, 20, 14))),
        1.5: Value(None, None, 3, observations=row((12, 11, 12))),
    }
    choice = choose(values, higher=False)
    # The others' means: seed 0 (17, 11.5), seed 1 (12, 12), seed 2 (15, 11.5).
    assert choice.by_seed == {"0": 1.5, "1": 1.0, "2": 1.5}
    assert (choice.guidance, choice.votes) == (1.5, 2)


def test_where_guidance_was_chosen_is_said():
    split = {
        ("kl", 1.0): (10, 20, 14),
        ("kl", 1.5): (12, 11, 12),
        ("repa", 1.0): (9, 9, 8),
        ("repa", 1.5): (5, 4, 5),
    }
    note = records(split).guidance_note
    assert "by the other seeds' samples" in note and "kl with mar (w 1.5, 2 of 3 seeds)" in note
    assert "repa" not in note
    single = records({key: values[:1] for key, values in split.items()})
    assert "chosen on these samples" in single.guidance_note
    assert records({("kl", 1.0): (10, 20)}).guidance_note == ""


def test_ranks_of_one_seed_are_of_this_run():
    standings = decided(records({("a", 1.0): (100,), ("b", 1.0): (150,)}, replicates=True))
    assert standings.rank_header == "rank in this run"
    assert "sampling noise only" in standings.note and "bold" not in standings.note
    standings = decided(records({("a", 1.0): (100, 101, 99), ("b", 1.0): (150, 155, 149)}))
    assert standings.rank_header == "rank" and "training variance" in standings.note
    assert standings.rankings[0].marks == ["best", ""]


def test_a_row_that_any_other_beats_is_not_among_those_that_may_be_first():
    rng = np.random.default_rng(0)
    for _ in range(50):
        found = judge(100 + 20 * rng.random(6), rng, spread=0.02)
        assert [rank.tied for rank in found] == [rank.low == 1 for rank in found]
        assert any(rank.tied for rank in found)


def columns(found, real):
    return {column.name for row in rows_of(found) if row.real is real for column in row.values}


def test_held_out_images_stand_in_the_column_of_samples_that_are_as_many():
    found = fabricated_records.records(guidances=(1.0,))
    held_out = next(record for record in found if record.real)
    assert columns(found, real=True) == {"gFD@360[net]"}  # samples are 1,437
    sampled = next(record for record in found if "gFD[net]@1" in record.metrics)
    entry = sampled.metrics["gFD[net]@1"]
    held_out.metrics["gFD@360[net]"] |= {"protocol": entry["protocol"], "n": entry["n"]}
    assert columns(found, real=True) == {"gFD[net]"} <= columns(found, real=False)
