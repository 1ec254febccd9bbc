"""The note on unequal numbers of updates of a regularizer's own and of other generators."""

from dataclasses import replace

import pytest
from helpers.fabricated_records import records

from latentbench.bench.leaderboard.results import Results
from latentbench.bench.report.markdown import markdown
from latentbench.bench.report.page.page import html

NOTE = "learns along with the tokenizer, for 400 updates, and the others afterwards, for 700."


def with_budget(found, **budget):
    return [replace(r, provenance={**r.provenance, "budget": r.provenance["budget"] | budget}) for r in found]


@pytest.fixture(scope="module")
def both():
    return records(regularizers=("simflow",), generators=("joint", "mar"))


def test_unequal_numbers_of_updates_are_in_the_tables_notes(both):
    assert NOTE in markdown(both, "t") and NOTE in html(both, [], "t")


def test_equal_numbers_and_generators_of_one_kind_have_no_note(both):
    assert Results.of(with_budget(both, generator_steps=400)).updates_note == ""
    for name in ("joint", "mar"):
        assert Results.of([r for r in both if r.cell["generator"] == name]).updates_note == ""
    untrained = [
        r if r.cell["generator"] == "joint" else replace(r, curves={})  # fitted in closed form
        for r in both
    ]
    assert Results.of(untrained).updates_note == ""


def test_another_label_of_the_own_generator_and_rows_of_several_budgets_count(both):
    renamed = [
        replace(
            r,
            cell=r.cell | {"generator": "own"},
            provenance=r.provenance | {"uses": {"generator": "joint"}},
        )
        if r.cell["generator"] == "joint"
        else r
        for r in both
    ]
    first = [r for r in renamed if r.cell["seed"] == "0"]
    more = with_budget([r for r in renamed if r.cell["seed"] == "1"], generator_steps=1500)
    assert (
        "for 400 updates, and the others afterwards, for 700 to 1,500."
        in Results.of(first + more).updates_note
    )
