"""Claims that were written before a run: tested together, with the error of ranks, and read with lines."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from latentbench.bench.cli import app
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.records.files import read_records, write_record
from latentbench.bench.records.record import Record
from latentbench.bench.tools.planned.claims import finding, outcomes_of, read_planned

ROWS = {
    ("none", "mar"): (30.0, 33.0, 31.5),
    ("kl", "mar"): (10.0, 14.0, 12.0),  # far below
    ("vf", "mar"): (29.5, 33.5, 31.6),  # as `none`
    ("eq", "mar"): (35.0, 37.5, 36.5),  # above
    ("kl", "gaussian"): (60.0, 66.0, 63.0),
}


@pytest.fixture
def results(tmp_path):
    for (regularizer, generator), values in ROWS.items():
        for seed, value in enumerate(values):
            cell = {"dataset": "digits", "tokenizer": "vit", "regularizer": regularizer}
            cell |= {"generator": generator, "seed": str(seed)}
            entry = {"value": value, "n": 9, "protocol": {"k": 5}, "scope": "generator", "better": "lower"}
            write_record(
                tmp_path / "run/records", Record(cell, str(cell), "done", None, {"gFD[net]@1": entry})
            )
    return tmp_path


def outcomes(file):
    return outcomes_of(file, read_planned(file)[0])


def claims(folder, *sides):
    """A file of claims that (regularizer, generator) is better than another."""
    lines = ["claims:"]
    for number, rows in enumerate(sides):
        lines.append(f"  - {{paper: P{number}, claim: C{number},")
        for name, (regularizer, generator) in zip(("better", "than"), rows, strict=True):
            lines.append(
                f"     {name}: {{results: run, regularizer: {regularizer}, generator: {generator}}},"
            )
        lines[-1] = lines[-1].removesuffix(",") + "}"
    file = folder / "claims.yaml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_claims_hold_fail_or_stay_open_and_are_corrected_together(results):
    rows = (
        [("kl", "mar"), ("none", "mar")],
        [("vf", "mar"), ("none", "mar")],
        [("eq", "mar"), ("none", "mar")],
    )
    found = outcomes(claims(results, *rows, [("lzn", "mar"), ("none", "mar")]))
    assert [outcome.verdict for outcome in found] == ["holds", "can't be told", "fails", "not run"]
    alone = [outcome.alone for outcome in found[:3]]
    with_the_missing = multipletests([*alone, 1.0], method="holm")[1]
    np.testing.assert_allclose([o.p for o in found], [*with_the_missing[:3], np.nan])
    # The error is pooled over the four rows of the generator: a two-way layout of logarithms.
    table = np.log([ROWS[key] for key in ROWS if key[1] == "mar"])
    residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    error, df = np.sqrt((residuals**2).sum() / 6 * 2 / 3), 6
    effect = np.mean(np.log(ROWS["vf", "mar"])) - np.mean(np.log(ROWS["none", "mar"]))
    half = scipy.stats.t.ppf(0.975, df) * error
    expected = [1 - np.exp(effect + shift) for shift in (0, half, -half)]
    np.testing.assert_allclose([found[1].gain, found[1].low, found[1].high], expected)


def test_rows_of_two_generators_are_compared_by_their_own_seeds(results):
    [outcome] = outcomes(claims(results, [("kl", "mar"), ("kl", "gaussian")]))
    expected = scipy.stats.ttest_rel(np.log(ROWS["kl", "mar"]), np.log(ROWS["kl", "gaussian"]))
    low, high = expected.confidence_interval()
    np.testing.assert_allclose(outcome.alone, expected.pvalue)
    np.testing.assert_allclose([outcome.low, outcome.high], [1 - np.exp(high), 1 - np.exp(low)])


def test_one_seed_tells_nothing_of_a_claim(results):
    for file in (results / "run/records").glob("*--[12].json"):
        file.unlink()
    [outcome] = outcomes(claims(results, [("kl", "mar"), ("none", "mar")]))
    assert outcome.verdict == "can't be told" and outcome.why.startswith("one tokenizer seed")
    assert np.isnan(outcome.p)  # that of images alone is no p of a claim


def test_the_command_prints_the_verdicts_and_writes_a_table_and_a_figure(results):
    file = claims(results, [("kl", "mar"), ("none", "mar")], [("eq", "mar"), ("none", "mar")])
    done = CliRunner().invoke(app, ["claims", str(file), "-o", str(results / "out")])
    assert done.exit_code == 0, done.output
    assert "Of 2 claims 1 holds, 1 fails." in done.output
    assert {path.name for path in (results / "out").iterdir()} == {"claims.csv", "claims.png"}
    [shown] = json.loads(CliRunner().invoke(app, ["claims", str(file), "--json"]).stdout)
    assert [line["here"] for line in shown["table"]] == ["holds", "fails"]
    assert shown["table"][0]["seeds, than"] == 3


def test_a_claim_that_was_not_run_says_what_is_not_there(results):
    [outcome] = outcomes(claims(results, [("k1", "mar"), ("none", "mar")]))
    assert outcome.why == "run has no row k1 · mar with a distance of samples"
    (results / "run").rename(results / "elsewhere")
    [outcome] = outcomes(results / "claims.yaml")
    assert outcome.why == "no records in run"
    assert finding([outcome]).table["here"].tolist() == ["not run: no records in run"]


def test_a_side_that_fits_several_rows_names_them(results):
    with pytest.raises(
        MatrixError, match=r"claim 1: better: \* · mar fits 4 rows: vit · eq · mar; vit · kl · mar"
    ):
        outcomes(claims(results, [("'*'", "mar"), ("none", "mar")]))


def made_again(folder, to, change):
    """Writes records again with changed labels or entries of their distance."""
    for record in read_records(folder):
        labels, entry = change(record)
        if labels is not None:
            metric = {"gFD[net]@1": record.metrics["gFD[net]@1"] | entry}
            again = replace(record, cell=record.cell | labels, metrics=metric)
            write_record(to, replace(again, key=f"{again.cell}"))


def test_two_rows_of_equal_values_are_no_better_told_than_others(results):
    folder = results / "run/records"

    def same(record):
        row = record.cell["regularizer"], record.cell["generator"]
        return ({"regularizer": "same"} if row == ("none", "mar") else None), {}

    made_again(folder, folder, same)
    sides = [("same", "mar"), ("none", "mar")], [("vf", "mar"), ("none", "mar")]
    same, other = outcomes(claims(results, *sides))
    assert same.gain == 0 and same.low < -0.01 < 0.01 < same.high and same.verdict != "holds"
    assert same.high == pytest.approx(other.high - other.gain, rel=0.3)


def test_of_several_datasets_a_claim_must_name_one(results):
    folder = results / "run/records"

    def emoji(record):  # in the other order
        return {"dataset": "emoji"}, {"value": 100 - record.metrics["gFD[net]@1"]["value"]}

    made_again(folder, folder, emoji)
    file = claims(results, [("kl", "mar"), ("none", "mar")])
    with pytest.raises(MatrixError, match=r"run has the datasets digits, emoji: name one, `dataset: digits`"):
        outcomes(file)
    text = file.read_text(encoding="utf-8")
    for dataset, verdict in (("digits", "holds"), ("emoji", "fails")):
        file.write_text(text.replace("results: run", f"results: run, dataset: {dataset}"), encoding="utf-8")
        assert [outcome.verdict for outcome in outcomes(file)] == [verdict]


def test_rows_of_unlike_protocols_leave_the_other_claims_as_they_are(results):
    made_again(
        results / "run/records", results / "other/records", lambda record: ({}, {"protocol": {"k": 6}})
    )
    file = claims(results, [("kl", "mar"), ("none", "mar")], [("kl", "mar"), ("none", "mar")])
    first, second = file.read_text(encoding="utf-8").rsplit("results: run", 1)
    file.write_text(f"{first}results: other{second}", encoding="utf-8")
    alone, unlike = outcomes(file)
    assert alone.verdict == "holds" and unlike.verdict == "not run"
    assert unlike.why == "the two rows have no distance of one protocol in common"


@pytest.mark.parametrize(
    "text, problem",
    [
        ("- {paper: P}\n", "c.yaml:1:1: claims are a mapping such as `claims: .*; this file is a list"),
        ("claim: []\n", "c.yaml:1:1: unknown key 'claim'; did you mean 'claims'"),
        (
            "claims:\n  - {paper: P, claim: C, beter: {}, than: {}}\n",
            "c.yaml:2:26: unknown key of a claim 'beter'; did",
        ),
        ("claims:\n  - {paper: P, claim: C, than: {}}\n", "c.yaml:2:5: a claim needs 'better'"),
        ("claims:\n  - {paper: P, claim: C, better: kl, than: {}}\n", "c.yaml:2:34: better names a row"),
        (
            "claims:\n  - {paper: P, claim: C, better: {regulariser: kl}, than: {}}\n",
            "unknown label 'regulariser'; did",
        ),
        (
            "claims:\n  - {paper: 5, claim: C, better: {}, than: {}}\n",
            "c.yaml:2:13: paper must be text, not 5",
        ),
        ("claims:\n  - {paper: P, claim: C, better: {results: a}, than: {}}\n", "better names a row: {reg"),
        (
            "claims:\n  - {paper: P, claim: C, better: {generator: mar}, than: {generator: mar}}\n",
            "both sides of this claim name the same row",
        ),
    ],
    ids=["list", "key", "name", "missing", "text", "axis", "number", "folder", "same"],
)
def test_a_file_that_is_wrong_is_refused_with_its_line(tmp_path, text, problem):
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(MatrixError, match=problem):
        read_planned(file)
