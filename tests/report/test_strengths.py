"""The strengths of each family: which is taken, by which mean, and whether more should have been tried."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.fabricated_records import records

from latentbench.bench.report.analysis import strengths

KL = ("kl[weight=0.001]", "kl[weight=0.003]", "kl[weight=0.01]")
MADE_UP = {
    "regularizers": ("none", *KL, "repa"),
    "generators": ("lightningdit", "mar"),
    "noise": 0,
    "guidances": (1.0,),
}


def with_metric(found, name, value, regularizer):
    """The records, in which a metric of one regularizer has a value."""
    entry = {
        "value": value,
        "n": 9,
        "protocol": {"k": 1},
        "scope": "tokenizer",
        "better": None,
        "unit": "",
        "about": "",
    }
    return [
        replace(r, metrics=r.metrics | {name: entry}) if r.cell["regularizer"] == regularizer else r
        for r in found
    ]


def test_the_least_geometric_mean_over_generators_is_taken_and_an_end_is_said():
    finding = strengths.finding(records(**MADE_UP))
    table = finding.table.set_index("regularizer")
    means = np.sqrt(table["lightningdit"] * table["mar"])
    np.testing.assert_allclose(table["mean"], means)
    best = means[list(KL)].idxmin()
    assert table["taken"].eq("yes").to_dict() == {label: label == best for label in ("none", *KL, "repa")}
    assert best in (KL[0], KL[-1]) and table.loc[best, "note"] == "at the end"
    assert "kl is best at the end" in finding.answer


def test_a_row_without_an_active_channel_is_not_taken():
    found = records(**MADE_UP)
    best = strengths.finding(found).table.set_index("regularizer")["taken"].eq("yes").idxmax()
    table = strengths.finding(with_metric(found, "active_channels", 0.0, best)).table.set_index("regularizer")
    assert table.loc[best, "taken"] == "" and table.loc[best, "note"] == "no active channel"
    assert table["taken"].eq("yes").sum() == 1


@pytest.mark.parametrize("tried, end", [((0.001, 0.003, 0.01), True), ((0.001, 0.01), False)])
def test_two_values_have_no_end(tried, end):
    labels = tuple(f"kl[weight={weight:g}]" for weight in tried)
    finding = strengths.finding(records(**MADE_UP | {"regularizers": ("none", *labels)}))
    assert finding.table["note"].eq("at the end").any() == end


def test_without_a_family_of_several_rows_there_is_nothing_to_say():
    assert (
        strengths.finding(records(**MADE_UP | {"regularizers": ("none", "kl[weight=0.01]", "repa")})) is None
    )
