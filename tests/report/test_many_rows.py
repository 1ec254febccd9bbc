"""Pictures of matrices with many rows: what they leave out, and that what they name can be read."""

from itertools import pairwise

import pytest
from helpers.fabricated_records import records

from latentbench.bench.report.analysis import gaps, interaction, pareto
from latentbench.bench.report.analysis.board import MOST_IN_A_PICTURE, Board
from latentbench.bench.report.analysis.style import family

TRIALS = ("none", *(f"{name}[weight={w}e-3]" for name in ("kl", "mmd", "repa") for w in range(1, 15)))
FAMILIES = ("none", *(f"family_{letter}[weight={i}e-3]" for i, letter in enumerate("abcdefghijklm")))
ALONE = {"generators": ("mar",), "seeds": ("0",), "guidances": (1.0,)}


def test_pictures_of_too_many_rows_show_the_best_of_each_family_and_say_so():
    board = Board(records(regularizers=TRIALS, generators=("mar", "tarflow"), seeds=("0",), guidances=(1.0,)))
    assert len(TRIALS) > MOST_IN_A_PICTURE
    best = {}
    for entry in board.entries:
        key = entry.generator, family(entry.regularizer)
        best[key] = min(best.get(key, entry), entry, key=lambda e: e.mean)
    assert {(e.generator, e.label) for e in board.pictured} == {(e.generator, e.label) for e in best.values()}
    for analysis in (gaps, interaction):
        found = analysis.finding(board)
        assert "best row of each family" in found.method
        assert set(found.table["regularizer"]) == set(TRIALS)
    shown = [label.get_text() for label in gaps.finding(board).figure.axes[0].get_yticklabels()]
    assert len(shown) == 4 and {family(label) for label in shown} == {"none", "kl", "mmd", "repa"}


def test_pictures_of_few_rows_show_all():
    board = Board(records(**ALONE))
    assert board.pictured == board.entries and "best row of each" not in gaps.finding(board).method


def test_of_more_families_than_colours_the_front_and_none_have_names_that_do_not_overlap():
    found = pareto.finding(records(regularizers=FAMILIES, **ALONE))
    [ax] = found.figure.axes
    on_front = found.table.loc[found.table["on the front"] == "yes", "regularizer"]
    assert {text.get_text() for text in ax.texts} == {*on_front, "none"}
    found.figure.canvas.draw()
    heights = sorted(text.xyann[1] * ax.bbox.height for text in ax.texts)
    high = ax.texts[0].get_fontsize() * found.figure.dpi / 72
    assert len(heights) > 2 and min(b - a for a, b in pairwise(heights)) > high


@pytest.mark.parametrize("count", [12, 13])
def test_up_to_a_dozen_families_have_colours_of_their_own(count):
    found = pareto.finding(records(regularizers=FAMILIES[:count], **ALONE))
    [legend] = found.figure.legends
    assert (len(legend.get_texts()) > count) == (count <= 12)
