"""The analysis of judges, against scipy and effects that were put in."""

import random
from dataclasses import replace

import pytest
from helpers.fabricated_records import DISTANCE, metric, records
from scipy import stats

from latentbench.bench.report.analysis import judges
from latentbench.bench.report.analysis.board import Board

OTHER = DISTANCE | {"extractor": "other", "weights_sha256": "cd" * 32}


def judged_twice(second, noise=1.0, **given):
    """Made-up records with the same distances by another network: second(regularizer, gFD by the first)."""
    found = []
    for record in records(guidances=(1.5,), **given):
        rng = random.Random(f"{record.cell}")
        metrics = dict(record.metrics)
        for name, scope in (("gFD[net]@1.5", "generator"), ("rFD[net]", "tokenizer")):
            if name in metrics:
                seed = record.cell["seed"] if scope == "tokenizer" else record.cell
                rng = random.Random(f"{seed}{record.cell['regularizer']}{scope}")
                value = second(record.cell["regularizer"], metrics[name]["value"]) + rng.gauss(0, noise)
                metrics[name.replace("net", "other")] = metric(
                    value, scope, "lower", metrics[name]["n"], noise / 2, rng, features=OTHER
                )
        found.append(replace(record, metrics=metrics))
    return found


def test_one_judge_is_no_finding():
    assert judges.finding(records()) is None and judges.finding([]) is None


def test_two_rows_have_no_order_to_speak_of():
    assert judges.finding(judged_twice(lambda _, d: d, regularizers=("none", "repa"))) is None


def test_tau_is_scipys_of_the_means_and_of_each_seed():
    found = judged_twice(lambda regularizer, d: d + 30 * len(regularizer) % 50, noise=3.0)
    table = judges.finding(found).table.set_index("of")
    board = Board(found)
    assert list(table.index) == ["lightningdit", "mar", "tarflow", "tokenizers"]
    for generator in ("lightningdit", "mar", "tarflow"):
        rows = [e.row for e in board.with_generator(generator)]
        values = {c.name: [row.values[c] for row in rows] for c in rows[0].values if c.base == "gFD"}
        pair = [values["gFD[net]"], values["gFD[other]"]]
        assert table.loc[generator, "τ"] == pytest.approx(
            stats.kendalltau(*([v.mean for v in one] for one in pair)).statistic
        )
        taus = [
            stats.kendalltau(*([v.observations[seed].value for v in one] for one in pair)).statistic
            for seed in range(3)
        ]
        assert table.loc[generator, "τ of seeds: lowest"] == pytest.approx(min(taus))
        assert table.loc[generator, "τ of seeds: highest"] == pytest.approx(max(taus))


def test_a_judge_that_agrees_separates_nothing_in_the_opposite_direction():
    finding = judges.finding(judged_twice(lambda _, d: 2 * d))
    assert (finding.table["τ"] > 0.7).all() and not finding.table["in opposite directions"].any()
    assert "No two rows are significantly separated in opposite directions." in finding.answer
    assert (finding.table["separated by both alike"] > 0).any()
    finding.figure.canvas.draw()


def test_pairs_that_a_judge_turns_around_are_named_better_by_the_first_judge_first():
    # The second judge prefers `none` to all, which the first finds worst.
    finding = judges.finding(judged_twice(lambda name, d: 20.0 if name == "none" else d, noise=0.5))
    table = finding.table.set_index("of")
    which = table.loc["lightningdit", "which (better by the first judge first)"]
    assert "repa and none" in which and "none and repa" not in which
    pairs = table.loc["lightningdit", "in opposite directions"]
    assert 1 <= pairs <= 4 and all(pair.endswith(" and none") for pair in which.split("; "))
    assert "repa and none (lightningdit)" in finding.answer


def test_counts_of_pairs_add_up():
    table = judges.finding(judged_twice(lambda name, d: d * (1 + len(name) % 3), noise=4.0)).table
    parts = ["separated by both alike", "by the first alone", "by the second alone", "in opposite directions"]
    assert (table[parts].sum(axis=1) <= table["pairs"]).all()
    assert (table["pairs"] == table["rows"] * (table["rows"] - 1) / 2).all()


def test_the_ranks_that_taught_rows_gain_by_their_teacher_are_a_mean_over_them():
    prefers = {"none": 10.0, "kl": 20.0, "repa": 30.0, "simflow": 40.0}  # the first judge finds repa best
    found = judged_twice(lambda name, _: prefers[name], regularizers=tuple(prefers), noise=0.1)
    taught = [
        replace(r, provenance=r.provenance | {"taught_by": {"other": [OTHER["weights_sha256"]] * learned}})
        for r in found
        for learned in [r.cell["regularizer"] in ("none", "kl")]
    ]
    finding = judges.finding(taught)
    table, board = finding.table.set_index("of"), Board(taught)
    for generator in ("lightningdit", "mar", "tarflow"):
        rows = {e.label: e.row for e in board.with_generator(generator)}
        (first,) = (column for column in rows["none"].values if column.name == "gFD[net]")
        order = sorted(rows, key=lambda name: rows[name].mean(first))
        gained = (order.index("none") + order.index("kl") - 0 - 1) / 2
        assert gained > 1 and table.loc[generator, "ranks gained"] == pytest.approx(gained)
        assert table.loc[generator, "taught by the second"] == 2
    assert f"{gained:+.1f} of 4 (tarflow; seeds" in finding.answer
    finding.figure.canvas.draw()
    assert "teacher" not in judges.finding(found).answer
