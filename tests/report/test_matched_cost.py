"""Rows whose tokenizer trains about as long as `none`'s: the best of them, tested among each other."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.fabricated_records import records

from latentbench.bench.report.analysis import matched_cost
from latentbench.bench.statistics.observations import Observation
from latentbench.bench.statistics.significance import ranks

SECONDS = {"none": 20.0, "kl": 21.0, "eq": 23.9, "prior": 20.0, "long": 61.0}
PRIOR = {"prior": 9.0}
EFFECTS = {"none": 0.5, "kl": 0.0, "eq": 0.01, "prior": -0.3, "long": -0.5}


def made(rows=tuple(SECONDS)):
    rng, found = np.random.default_rng(1), []
    for record in records(regularizers=rows, generators=("mar",), guidances=(1.0,)):
        row = record.cell["regularizer"]
        if not record.real:
            gfd = float(np.exp(5 + EFFECTS[row] + 0.02 * rng.standard_normal()))
            entry = {"gFD[net]@1": {**record.metrics["gFD[net]@1"], "value": gfd}}
            cost = {"tokenizer_seconds": SECONDS[row]}
            if row in PRIOR:
                cost["prior_seconds"] = PRIOR[row]
            record = replace(record, metrics=record.metrics | entry, cost=cost)
        found.append(record)
    return found


def test_rows_within_the_limit_are_ranked_among_each_other_and_a_prior_s_seconds_count():
    own = made()
    found = matched_cost.finding(own)
    assert "with mar kl, tied with eq (3 of 5 rows)" in found.answer
    table = found.table.set_index("regularizer")
    assert table["seconds over the control's"].to_dict() == pytest.approx(
        {"long": 3.05, "prior": 1.45, "kl": 1.05, "eq": 1.195, "none": 1.0}
    )
    logs = {
        row: [
            Observation(float(np.log(r.metrics["gFD[net]@1"]["value"])), r.cell["seed"])
            for r in own
            if r.cell["regularizer"] == row
        ]
        for row in SECONDS
    }
    cheap = ["kl", "eq", "none"]
    expected = ranks([logs[row] for row in cheap], False, False, among=list(logs.values()))
    assert table["rank"].to_dict() == {"long": "", "prior": ""} | {
        row: rank.text for row, rank in zip(cheap, expected, strict=True)
    }
    [ax] = found.figure.axes
    assert {text.get_text() for text in ax.texts} == {"kl", "eq", "none"}


@pytest.mark.parametrize(
    "rows",
    [("kl", "eq", "long"), ("none", "kl", "eq"), ("none", "kl", "long", "prior")],
    ids=["no control", "all alike", "two rows"],
)
def test_without_a_control_or_a_difference_there_is_nothing_to_say(rows):
    assert matched_cost.finding(made(rows)) is None
