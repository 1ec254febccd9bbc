"""Verdicts on numbers that were made again: by rounding, by the spread of seeds, and how often by chance."""

import math
from dataclasses import replace
from statistics import stdev

import numpy as np
import pytest
from helpers import fabricated_records
from scipy import stats

from latentbench.bench.tools.reproduction.spread import OF_RESAMPLES, OF_VALUE, of_seeds, rounding
from latentbench.bench.tools.reproduction.text import text, to_json
from latentbench.bench.tools.reproduction.verdicts import compare, summary

SCORE = "gFD[net]@1"


def study(seeds=("0", "1", "2"), rows=("kl", "none", "repa")):
    return fabricated_records.records(rows, ("mar",), seeds, (1.0,))


def changed(record, curves=None, **values):
    metrics = {name: dict(entry) for name, entry in record.metrics.items()}
    for name, value in values.items():
        metrics[name.replace("gFD", SCORE)]["value"] = value
    return replace(record, metrics=metrics, curves=record.curves if curves is None else curves)


def otherwise_trained(record, **values):
    """The record as another CPU may make it: its losses differ, and with them all numbers."""
    curves = {kind: {**curve} for kind, curve in record.curves.items()}
    for kind, loss in (("tokenizer", "l1"), ("generator", "velocity")):
        curves[kind] = curves[kind] | {loss: [value + 1e-6 for value in curves[kind][loss]]}
    return changed(record, curves, **values)


def verdicts(records, recorded, made):
    return {one.metric: one for one in compare(records, [(recorded, made)]).numbers}


def test_the_same_record_is_equal_and_reproduced():
    records = study()
    found = compare(records, [(records[1], records[1])])
    assert found.passed and {one.verdict for one in found.numbers} == {"equal"}
    assert summary(found) == [f"{len(found.numbers)} numbers: {len(found.numbers)} equal", "reproduced"]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_after_the_same_training_only_rounding_may_differ(factor):
    records = study()
    entry = records[1].metrics[SCORE]
    most = OF_RESAMPLES * stdev(entry["replicates"]) + OF_VALUE * entry["value"]
    records[1] = changed(records[1], gFD=entry["value"] - factor * most)
    made = study()[1]
    found = verdicts(records, records[1], made)[SCORE]
    assert found.spread.kind == "rounding" and found.units == pytest.approx(factor, rel=0.02)
    assert found.verdict == ("outside" if factor > 1 else "within rounding")


def test_after_another_training_the_unit_is_the_spread_of_seeds_of_all_rows_without_the_record():
    records = study()
    recorded = changed(records[1], gFD=1e-3)  # an edit, which must not widen the spread that it is judged by
    records[1] = recorded
    made = otherwise_trained(study()[1])
    values = {}
    for record in [*records[2:], made]:
        values.setdefault(record.cell["regularizer"], []).append(math.log(record.metrics[SCORE]["value"]))
    squares = sum(np.var(row) * len(row) for row in values.values())
    spread = of_seeds(records, recorded, made, SCORE)
    assert spread.df == 6 and spread.logs and spread.size == pytest.approx(math.sqrt(2 * squares / 6))
    found = verdicts(records, recorded, made)
    gap = math.log(made.metrics[SCORE]["value"] / 1e-3)
    assert found[SCORE].units == pytest.approx(gap / spread.size) and found[SCORE].verdict == "outside"
    alone = 2 * stats.t.sf(gap / spread.size, 6)
    differing = sum(one.p is not None for one in found.values())
    assert differing == 1 and found[SCORE].p == pytest.approx(alone)


def test_one_seed_tells_nothing_about_another_training():
    records = study(("0",))
    value = records[1].metrics[SCORE]["value"]
    found = compare(records, [(records[1], otherwise_trained(records[1], gFD=value * 1.2))])
    assert {one.metric: one.verdict for one in found.numbers}[SCORE] == "not told"
    assert found.passed and any("neither confirmed nor refuted" in line for line in summary(found))


def test_a_missing_number_another_protocol_and_a_failed_cell_are_not_reproduced():
    records = study()
    without = replace(records[1], metrics={k: v for k, v in records[1].metrics.items() if k != "PSNR"})
    found = compare(records, [(records[1], without)])
    assert not found.passed and found.outside[0].why == "it has no number now"
    other = changed(records[1])
    other.metrics["PSNR"]["n"] = 100
    found = compare(records, [(records[1], other)])
    assert found.outside[0].why == "another protocol: n 360 in the record, 100 now"
    newer = replace(other, provenance=other.provenance | {"parts": {"evaluators.reconstruction": "9"}})
    found = compare(
        records, [(records[1], newer)]
    )  # another version of an evaluator may have another protocol
    assert found.passed and any("the versions of its parts differ" in note for note in found.notes)
    failed = replace(records[1], status="failed", reason="killed")
    found = compare(records, [(records[1], failed)])
    assert not found.passed and "failed: killed" in text(found)


def test_edited_resamples_and_classes_are_found():
    records = study()
    made = changed(records[1])
    made.metrics["PSNR"]["replicates"] = [value + 5 for value in made.metrics["PSNR"]["replicates"]]
    assert "its replicates differ" in verdicts(records, records[1], made)["PSNR"].why
    made = changed(records[1])
    made.metrics["PSNR"]["classes"] = {"0": 1.0}
    assert "its classes differ" in verdicts(records, records[1], made)["PSNR"].why


def test_values_that_are_not_finite_are_equal_or_told():
    records = study()
    blank = changed(records[1], gFD=None)
    blank.metrics[SCORE] |= {"note": "nan"}
    assert verdicts(records, blank, blank)[SCORE].verdict == "equal"
    assert verdicts(records, records[1], blank)[SCORE].verdict == "outside"
    assert verdicts(records, records[1], otherwise_trained(blank))[SCORE].verdict == "not told"


def test_other_versions_and_machines_are_named():
    records = study()
    facts = records[1].provenance | {"machine": "a server", "packages": {"torch": "2.99"}}
    notes = compare(records, [(records[1], replace(records[1], provenance=facts, key="x"))]).notes
    assert any(
        "packages.torch 2.14.1, now 2.99" in note and "machine a laptop, now a server" in note
        for note in notes
    )
    assert any("key isn't that of the cell" in note for note in notes)
    losses = compare(records, [(records[1], otherwise_trained(records[1]))]).notes
    assert any("losses of the generator: equal up to step 0, then different ones by 7" in n for n in losses)


def test_a_table_lists_what_lies_outside_first_and_json_holds_the_same():
    records = study()
    found = compare(records, [(records[1], changed(records[1], gFD=1.0))])
    lines = text(found).splitlines()
    assert SCORE in lines[3] and "outside" in lines[3] and lines[-1] == "NOT reproduced"
    data = to_json(found)
    assert not data["reproduced"] and len(data["numbers"]) == len(records[1].metrics)
    assert rounding(changed(records[1], gFD=1.0).metrics[SCORE]).size == next(
        one["spread"] for one in data["numbers"] if one["metric"] == SCORE
    )


def test_honest_cells_of_another_machine_are_rarely_called_edited():
    """Each of 300 honest records, whose training another CPU repeats like a further seed, is compared."""
    rng, rows, wrong = np.random.default_rng(0), ("kl", "none", "repa"), 0
    base = study()
    names = ["PSNR", "SSIM", "kNN_NLL", "probe_accuracy", "effective_rank", SCORE]
    for _ in range(300):
        records = []
        for record in base:
            drawn = {} if record.real else {n: float(50 * math.exp(rng.normal(0, 0.1))) for n in names}
            records.append(
                replace(record, metrics={n: record.metrics[n] | {"value": v} for n, v in drawn.items()})
            )
        made = otherwise_trained(records[1])
        for name in names:
            made.metrics[name]["value"] = float(50 * math.exp(rng.normal(0, 0.1)))
        wrong += not compare(records, [(records[1], made)]).passed
    assert len(rows) == 3 and wrong <= stats.binom.ppf(0.999, 300, 0.05)
    assert wrong >= stats.binom.ppf(0.001, 300, 0.02)  # and the limits are no wider than they say
