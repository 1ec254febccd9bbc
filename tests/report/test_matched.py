"""Rows of like reconstruction: the best of each decibel, tested within it by the error of all rows."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from helpers.fabricated_records import records
from statsmodels.stats.multitest import multipletests

from latentbench.bench.report.analysis import matched
from latentbench.bench.statistics.observations import Observation
from latentbench.bench.statistics.significance import ranks

DECIBELS = {"a": 30.2, "b": 30.9, "c": 30.5, "d": 27.1, "e": 27.8, "f": 27.4, "g": 27.9, "h": 25.0}
EFFECTS = {"a": 0.0, "b": 0.3, "c": 0.01, "d": 0.5, "e": 0.9, "f": 0.2, "g": 0.6, "h": -0.5}


@pytest.fixture(scope="module")
def made():
    """Eight rows, of which h has the lowest distance and a reconstruction of its own."""
    rng, found = np.random.default_rng(1), []
    for record in records(regularizers=tuple(DECIBELS), generators=("mar",), guidances=(1.0,)):
        row = record.cell["regularizer"]
        if not record.real:
            gfd = float(np.exp(5 + EFFECTS[row] + 0.02 * rng.standard_normal()))
            values = {"PSNR": DECIBELS[row], "gFD[net]@1": gfd}
            metrics = {name: {**record.metrics[name], "value": value} for name, value in values.items()}
            record = replace(record, metrics=record.metrics | metrics)
        found.append(record)
    return found


def test_the_best_of_each_decibel_leads_it_and_a_row_alone_is_in_none(made):
    found = matched.finding(made)
    bands = found.table.groupby("PSNR band", sort=False)["regularizer"].apply(list).to_dict()
    assert bands == {"30 to 31 dB": ["a", "c", "b"], "27 to 28 dB": ["f", "d", "g", "e"]}
    assert "at 30 to 31 dB a, tied with c (of 3), at 27 to 28 dB f (of 4)" in found.answer
    [ax] = found.figure.axes
    assert {text.get_text() for text in ax.texts} == {"a", "f"}


def test_ranks_within_a_band_have_the_error_of_all_rows_and_holm_s_correction_over_its_pairs(made):
    table = matched.finding(made).table.set_index("regularizer")
    logs = {row: [] for row in DECIBELS}
    for record in made:
        if not record.real:
            logs[record.cell["regularizer"]].append(np.log(record.metrics["gFD[net]@1"]["value"]))
    values = np.array(list(logs.values()))
    about = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    error, df = np.sqrt((about**2).sum() / 14 * 2 / 3), 14
    band = ["f", "d", "g", "e"]
    pairs = list(combinations(band, 2))
    t = [(np.mean(logs[b]) - np.mean(logs[a])) / error for a, b in pairs]
    p = multipletests(2 * scipy.stats.t.sf(np.abs(t), df), method="holm")[1]
    for row in band:
        own = [
            (value if row == pair[0] else -value, q)
            for value, q, pair in zip(t, p, pairs, strict=True)
            if row in pair
        ]
        low = 1 + sum(value < 0 and q < 0.05 for value, q in own)
        high = len(band) - sum(value > 0 and q < 0.05 for value, q in own)
        expected = str(low) if low == high else f"{low}–{high}"
        assert table.loc[row, "rank in the band"] == expected


def test_without_two_decibels_of_three_rows_there_is_nothing_to_say(made):
    few = [r for r in made if r.real or r.cell["regularizer"] in "abcde"]
    assert matched.finding(few) is None


def test_ranks_among_the_same_rows_are_those_of_the_rows_alone():
    rng = np.random.default_rng(0)
    rows = [tuple(Observation(float(v), str(s)) for s, v in enumerate(rng.normal(i, 1, 3))) for i in range(6)]
    assert ranks(rows, False, False, among=rows) == ranks(rows, False, False)
