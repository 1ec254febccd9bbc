"""Values that weren't reached or are missing: bounds, old records, and rows with fewer seeds than others."""

import io
import math

import pandas as pd
import pytest

from latentbench.bench.api import Bound, Metric
from latentbench.bench.leaderboard.columns import cells
from latentbench.bench.leaderboard.results import Results
from latentbench.bench.records.record import Record
from latentbench.bench.report.dataframe import frame
from latentbench.bench.report.latex import latex
from latentbench.bench.report.markdown import markdown
from latentbench.bench.report.page import page
from latentbench.bench.report.summary import terminal_summary
from latentbench.bench.report.verdict import verdicts
from latentbench.bench.stages.scores import entry

NOISE = {"noise": [0.0, 0.1, 0.5], "fall_dB": 3.0}
CONFIG = {"dataset": {"name": "d", "fingerprint": "f"}, "env": {"precision": "fp32"}}


def stored(value, better="higher", scope="tokenizer", **protocol):
    """An entry as the stage of scores writes it."""
    metric = Metric(scope, better == "higher", "", "A metric.")
    return entry(value, metric, {"n": 9, **protocol}, CONFIG)


def records(metrics, failed=()):
    """Records of {regularizer: metrics of each seed}; `failed` are (regularizer, seed) pairs more."""
    cell = {"dataset": "d", "tokenizer": "vit", "generator": "none"}
    done = [
        Record({**cell, "regularizer": name, "seed": str(seed)}, "k", "done", metrics=found)
        for name, seeds in metrics.items()
        for seed, found in enumerate(seeds)
    ]
    lost = [
        Record({**cell, "regularizer": name, "seed": seed}, "k", "failed", "nan") for name, seed in failed
    ]
    return done + lost


def tolerances(**values):
    return records({n: [{"noise_tolerance": stored(v)} for v in seeds] for n, seeds in values.items()})


def ranking(found):
    board = Results.of(found).reconstruction
    (one,) = board.standings(board.deciding).rankings
    return {
        r.regularizer: (k.low, k.high, mark)
        for r, k, mark in zip(one.rows, one.ranks, one.marks, strict=True)
    }


def texts(found):
    board = Results.of(found).reconstruction
    return {row.regularizer: cells(row, board.columns) for row in board.rows}


def test_a_bound_is_stored_as_a_limit_with_its_side_and_those_of_classes():
    found = stored(Bound(0.5, "above", {"0": 0.4, "1": Bound(0.5, "above")}))
    assert (found["value"], found["bound"]) == (0.5, "above") and "replicates" not in found
    assert found["classes"] == {"0": 0.4, "1": 0.5} and found["class_bounds"] == {"1": "above"}
    (again,) = [Record.from_json(one.to_json()) for one in records({"kl": [{"noise_tolerance": found}]})]
    assert again.metrics["noise_tolerance"]["bound"] == "above"
    with pytest.raises(ValueError, match="bound 'over'; known, beside a value: above, below"):
        records({"kl": [{"noise_tolerance": found | {"bound": "over"}}]})


def test_a_bound_is_ranked_beyond_values_and_ties_with_bounds():
    over = Bound(0.5, "above")
    found = tolerances(a=(0.2, 0.21, 0.2), b=(over, over, over), c=(0.49, over, over), d=(0.25, 0.26, 0.25))
    assert ranking(found) == {"b": (1, 2, "tied"), "c": (1, 2, "tied"), "d": (3, 3, ""), "a": (4, 4, "")}
    assert list(texts(found)) == ["b", "c", "d", "a"]
    assert [texts(found)[name][0] for name in "bc"] == ["> 0.5", "> 0.4967"]


def test_every_report_shows_bounds_and_means_over_fewer_seeds():
    over = Bound(0.5, "above")
    found = tolerances(a=(0.2, 0.21, 0.2), b=(over, over, over), c=(0.25, 0.26))
    found += records({}, failed=[("c", "2")])
    for text in (markdown(found, "t"), page.html(found, [], "t"), terminal_summary(found)):
        assert "&gt; 0.5" in text or "> 0.5" in text
        assert "0.2550 ± 0.0071 (2 of 3)" in text
    text = latex(found, "t")
    assert r"\ensuremath{>} 0.5" in text and "(2 of 3)" in text
    table = pd.read_csv(io.StringIO(frame(found).to_csv())).set_index("regularizer")
    assert table["noise_tolerance_bound"].fillna("").to_dict() == {"a": "", "b": "above", "c": ""}
    assert table["noise_tolerance"]["b"] == 0.5 and math.isnan(table["noise_tolerance_std"]["b"])


def test_limits_on_both_sides_have_no_mean():
    found = tolerances(a=(Bound(0.5, "above"), Bound(0.1, "below")), b=(0.2, 0.3))
    assert texts(found)["a"] == ["limits on both sides"]


def curve(psnr, *noisy, tolerance, classes=None):
    """The metrics of an old record: a tolerance that isn't reached has no value."""
    found = {"PSNR": stored(psnr), "PSNR_noise_0.1": stored(noisy[0]), "PSNR_noise_0.5": stored(noisy[1])}
    for one, of_class in zip(found.values(), classes or (), strict=False):
        one["classes"] = of_class
    return found | {"noise_tolerance": stored(tolerance, **NOISE, not_reached="no value")}


def test_old_records_without_a_tolerance_have_the_bound_that_their_curve_shows():
    nan, by_class = math.nan, ({"0": 30.0, "1": 30.0}, {"0": 29.0, "1": 29.0}, {"0": 28.0, "1": 20.0})
    metrics = curve(30.0, 29.0, 28.0, tolerance=nan, classes=by_class)
    found = records({"a": [metrics] * 2, "diverged": [curve(nan, nan, nan, tolerance=nan)] * 2})
    found += records({"unknown": [{"noise_tolerance": metrics["noise_tolerance"]}] * 2})
    column = [c.name for c in Results.of(found).reconstruction.columns].index("noise_tolerance")
    assert {name: row[column] for name, row in texts(found).items()} == {
        "a": "> 0.5",
        "diverged": "nan",
        "unknown": "nan",
    }
    (by_class,) = [t for name, t in page.tables.classes(found[:2]).items() if name == "noise_tolerance"]
    assert [cell.text for cell in by_class.lines[0].cells] == ["a", "> 0.5"]
    assert [head.text for head in by_class.heads] == ["regularizer", "0"]
    assert found[0].metrics["noise_tolerance"]["value"] is None  # records are never changed


@pytest.mark.parametrize("name", ["kNN_NLL", "kNN_NLL_reverse", "kNN_NLL_own", "NLL", "latent_recall"])
def test_nearness_to_a_reference_has_no_direction_in_old_records_either(name):
    found = records({r: [{name: stored(v, "lower")}] * 2 for r, v in (("a", 1.0), ("b", -1.0))})
    board = Results.of(found).reconstruction
    assert not board.deciding and not board.columns[0].better
    assert board.standings(board.columns).rankings == []


def test_a_row_with_one_seed_is_neither_marked_nor_told_from_others():
    found = tolerances(a=(0.2, 0.21, 0.2), b=(0.3, 0.31, 0.3), alone=(0.9,))
    assert ranking(found) == {"alone": (1, 3, ""), "b": (1, 2, "tied"), "a": (2, 3, "")}
    text = markdown(found, "t")
    assert "The error of a row with one seed, where others have more, is unknown" in text
    (verdict,) = verdicts(Results.of(found))
    assert (verdict.name, verdict.rank) == ("b", "1–2 of 3")
    assert verdict.sure == "3 seeds separate it from all but alone, of which there is one seed only."
    tied = tolerances(a=(0.2, 0.21, 0.2), b=(0.2, 0.21, 0.21), alone=(0.9,))
    assert verdicts(Results.of(tied))[0].sure.startswith("A tie: 3 seeds cannot separate 2 of the 3 rows.")
    assert "Rows of one seed have an unknown error: alone." in verdicts(Results.of(tied))[0].sure
