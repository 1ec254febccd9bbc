"""Generators that nothing trains come last in every table, whatever their name."""

import dataclasses

import pytest
from helpers.fabricated_records import records

from latentbench.bench.leaderboard.baselines import baselines
from latentbench.bench.leaderboard.results import Results
from latentbench.bench.report.dataframe import frame


def fitted(found, *generators, **uses):
    """The records, with generators that have no curve of their own."""
    return [
        dataclasses.replace(
            one,
            curves={kind: curve for kind, curve in one.curves.items() if kind == "tokenizer"},
            provenance=one.provenance | ({"uses": uses} if uses else {}),
        )
        if one.cell["generator"] in generators
        else one
        for one in found
    ]


def made(*generators):
    return records(("none", "repa"), generators, ("0", "1"), (1.0,))


def order(found):
    rows = Results.of(found).generation.rows
    return list(dict.fromkeys(row.generator for row in rows if not row.real))


@pytest.mark.parametrize("name", ["gaussian", "a_mixture", "zzz"])
def test_a_fitted_generator_comes_after_trained_ones(name):
    found = fitted(made(name, "mar", "tarflow"), name)
    assert baselines(Results.of(found).rows) == {name}
    assert order(found) == ["mar", "tarflow", name]


def test_the_regularizers_own_generator_learned_with_its_tokenizer():
    assert order(fitted(made("gaussian", "joint", "mar"), "gaussian", "joint")) == [
        "joint",
        "mar",
        "gaussian",
    ]
    named = fitted(made("gaussian", "mar", "own"), "own", generator="joint")
    assert order(named) == ["gaussian", "mar", "own"]


def test_where_no_generator_was_trained_none_is_a_baseline():
    found = fitted(made("mar", "gaussian"), "mar", "gaussian")
    assert baselines(Results.of(found).rows) == set() and order(found) == ["gaussian", "mar"]


def test_a_generator_whose_cells_were_all_skipped_is_no_baseline():
    found = [
        dataclasses.replace(one, status="skipped", reason="no", metrics={}, curves={})
        if one.cell["generator"] == "flow"
        else one
        for one in made("flow", "mar")
    ]
    assert baselines(Results.of(found).rows) == set()


def test_the_csv_keeps_the_order_of_cells():
    found = made("gaussian", "mar")
    assert list(frame(fitted(found, "gaussian")).generator) == list(frame(found).generator)
