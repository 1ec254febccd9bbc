"""Rows of seeds that have chosen their guidance by sweeps, and marks of choices at the end of a grid."""

import io

import pandas as pd
import pytest
from helpers.fabricated_records import records, swept

from latentbench.bench.leaderboard.results import Leaderboard, Results
from latentbench.bench.leaderboard.rows import rows_of
from latentbench.bench.report.csv import csv
from latentbench.bench.report.dataframe import frame
from latentbench.bench.report.latex import latex
from latentbench.bench.report.markdown import markdown
from latentbench.bench.report.page.page import html
from latentbench.bench.report.page.tables import classes
from latentbench.bench.report.summary import terminal_summary

KL, NONE = "kl[weight=0.01]", "none"
CHOICES = {"none": {"0": 1.0, "1": 1.5, "2": 1.5}, KL: {"0": 2.0, "1": 2.0, "2": 1.5}}
ONE = {"regularizers": tuple(CHOICES), "generators": ("mar",)}


@pytest.fixture
def made():
    """`none` inside its sweep, `kl` at the edge of it in two seeds."""
    return [r if r.real else swept(r, CHOICES[r.cell["regularizer"]][r.cell["seed"]]) for r in records(**ONE)]


def of(rows, regularizer):
    return [row for row in rows if row.regularizer == regularizer]


def test_seeds_that_choose_differently_make_one_row_of_their_own_values(made):
    [none], [kl] = of(rows_of(made), NONE), of(rows_of(made), KL)
    assert (none.guidance, none.guidance_text) == (1.5, "1–1.5")
    assert (kl.guidance, kl.guidance_text) == (2.0, "1.5–2+")
    column = next(column for column in kl.values if column.name == "gFD[net]")
    by_hand = {
        r.cell["seed"]: r.metrics[f"gFD[net]@{CHOICES[KL][r.cell['seed']]:g}"]["value"]
        for r in made
        if r.cell["regularizer"] == KL
    }
    assert {o.seed: o.value for o in kl.values[column].observations} == by_hand
    assert kl.values[column].n == kl.seeds == 3


def test_costs_of_a_row_are_those_at_each_seed_s_guidance(made):
    [none] = of(rows_of(made), NONE)
    assert none.cost["samples_seconds"] == pytest.approx((4.0 + 8.0 + 8.0) / 3)


def test_swept_rows_are_ranked_and_records_of_lists_stay_as_they_were(made):
    lists = [r for r in records(**ONE) if r.cell["regularizer"] == NONE]
    mixed = [r for r in made if r.cell["regularizer"] == KL] + lists
    board = Leaderboard.of(rows_of(mixed), "generator")
    assert sorted(row.guidance_text for row in of(board.rows, NONE)) == ["1", "1.5", "2"]
    [ranking] = board.standings(board.deciding).rankings
    assert {row.regularizer for row in ranking.rows} == {KL, NONE}


def test_a_row_that_was_run_both_ways_is_ranked_at_its_sweep_s_choice(made):
    both = [r for r in records(**ONE) if r.cell["seed"] == "0"] + [r for r in made if r.cell["seed"] != "0"]
    board = Leaderboard.of(rows_of([r for r in both if not r.real]), "generator")
    [ranking] = board.standings(board.deciding).rankings
    assert all(row.sweeps for row in ranking.rows)


def test_how_guidance_was_chosen_and_what_the_sign_says_is_in_every_report(made):
    said = "the best of 1, 1.5, 2 by gFD[net] of 359 other samples"
    meaning = "marks a w that is the largest tried: a larger one may be better."
    for text in (markdown(made, "t"), latex(made, "t"), html(made, [], "t")):
        assert said in text and meaning in text
    assert "| 1.5–2+ |" in markdown(made, "t") and "& 1.5--2+ &" in latex(made, "t")
    assert ">1.5–2+<" in html(made, [], "t") and " 1.5–2+ " in terminal_summary(made)
    table = pd.read_csv(io.StringIO(csv(frame(made)))).set_index("regularizer")
    columns = ["guidance", "guidance_low", "guidance_high", "guidance_edge"]
    assert table.loc[KL, columns].tolist() == [2.0, 1.5, 2.0, 1]
    assert table.loc[NONE, columns].tolist() == [1.5, 1.0, 1.5, 0]


def test_seeds_that_choose_differently_share_a_line_of_a_table_by_class(made):
    for record in made:
        for name in [name for name in record.metrics if name.startswith("recall")]:
            record.metrics[name]["classes"] = {"a": 0.25 if record.cell["seed"] == "0" else 0.5}
    [(name, table)] = classes(made).items()
    assert name == "recall[net]@chosen"
    assert [[cell.key for cell in line.cells[2:]] for line in table.lines] == [[pytest.approx(1.25 / 3)]] * 2


def test_no_sign_is_explained_where_there_is_none(made):
    inside = [r for r in made if r.cell["regularizer"] != KL]
    assert "lie beyond" not in markdown(inside, "t") and "359 other samples" in markdown(inside, "t")


def test_of_a_list_the_chosen_row_alone_is_marked_and_only_at_the_end():
    """Made-up distances are least at w = 1.5."""
    for guidances, expected in (
        ((1.0, 1.5), ["1", "1.5+"]),
        ((1.0, 1.5, 2.0), ["1", "1.5", "2"]),
        ((1.5, 2.0), ["1.5-", "2"]),
        ((1.5,), ["1.5"]),
    ):
        found = records(regularizers=("kl",), generators=("mar",), guidances=guidances, noise=0.0)
        board = Results.of([r for r in found if not r.real]).generation
        texts = {row.guidance: text for row, text in zip(board.rows, board.guidance_texts, strict=True)}
        assert [texts[w] for w in guidances] == expected
