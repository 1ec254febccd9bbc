"""Predictors that were named before a run: tested together, over the rows and generators that were named."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from helpers.fabricated_records import records
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from latentbench.bench.cli import app
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.records.files import write_record
from latentbench.bench.tools.planned.claims import read_planned
from latentbench.bench.tools.planned.proxies import Proxy, finding, outcomes_of

ROWS = tuple(f"kl[weight={i}e-3]" for i in range(14))
PROXIES = {"kNN_NLL": "lower", "PSNR": "higher", "effective_rank": "higher", "CDS": "higher"}
CLAIM = """claims:
  - {paper: P, claim: C, better: {regularizer: "kl[weight=1e-3]", generator: mar},
     than: {regularizer: "kl[weight=0e-3]", generator: mar}}
"""


def loosened(record):
    """The record with an effective rank that goes with its weight, and as much with chance."""
    if record.real:
        return record
    step = ROWS.index(record.cell["regularizer"])
    value = step / len(ROWS) + 2.6 * np.random.default_rng(step).random()
    rank = {**record.metrics["effective_rank"], "value": value}
    return replace(record, metrics=record.metrics | {"effective_rank": rank})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for record in records(regularizers=ROWS, generators=("gaussian", "mar", "tarflow")):
        write_record(folder / "run/records", loosened(record))
    return folder


def proxies(rows="mar|tarflow"):
    labels = {"results": "run", "generator": rows}
    return [Proxy("P", number, better, labels) for number, better in PROXIES.items()]


def said_of(asked, study):
    return outcomes_of(asked, study / "claims.yaml")


def test_numbers_are_tested_together_by_the_mean_rank_over_the_generators_that_were_named(study):
    found = said_of(proxies(), study)
    by_number = {outcome.proxy.number: outcome for outcome in found}
    assert [by_number[n].verdict for n in PROXIES] == ["holds", "fails", "can't be told", "not measured"]
    assert by_number["CDS"].why == "no CDS in these rows, or the same in all"
    alone = [outcome.tau.p for outcome in found[:3]]
    with_the_missing = multipletests([*alone, 1.0], method="holm")[1]
    np.testing.assert_allclose([o.p for o in found], [*with_the_missing[:3], np.nan])
    made = [r for r in records(regularizers=ROWS, generators=("mar", "tarflow")) if not r.real]
    quality = []
    for generator in ("mar", "tarflow"):
        best = []
        for row in ROWS:
            own = [r for r in made if (r.cell["regularizer"], r.cell["generator"]) == (row, generator)]
            best.append(min(np.mean([r.metrics[f"gFD[net]@{w}"]["value"] for r in own]) for w in (1, 1.5, 2)))
        quality.append(scipy.stats.rankdata(-np.array(best)))
    likelihood = [
        np.mean([r.metrics["kNN_NLL"]["value"] for r in made if r.cell["regularizer"] == row]) for row in ROWS
    ]
    expected = scipy.stats.kendalltau(-np.array(likelihood), np.mean(quality, axis=0))
    assert by_number["kNN_NLL"].tau.value == pytest.approx(expected.statistic)


def test_other_generators_of_the_folder_do_not_count(study):
    [one] = said_of(proxies("mar")[:1], study)
    assert one.target == "mar" and one.rows == len(ROWS)


def test_rows_that_were_not_run_say_so(study):
    [one] = said_of(proxies("mra")[:1], study)
    assert one.verdict == "not measured" and one.why == "no such rows in run"
    assert finding([one]).figure is None and "seed" not in finding([one]).answer


def test_a_number_that_orders_all_rows_the_wrong_way_fails(study):
    [before] = said_of(proxies("mar")[1:2], study)
    [one] = said_of([replace(proxies("mar")[1], number="kNN_NLL", better="higher")], study)
    assert before.tau.value < 0 and one.tau.value < -0.7 and one.verdict == "fails"
    perfect = replace(one, tau=replace(one.tau, value=-1.0, interval=None))  # all resamples agree
    assert perfect.verdict == "fails"


def test_generators_that_have_too_few_rows_are_not_named_as_if_they_counted(study, tmp_path):
    for record in records(regularizers=ROWS, generators=("mar", "tarflow")):
        if record.real or record.cell["generator"] == "mar" or record.cell["regularizer"] in ROWS[:3]:
            write_record(tmp_path / "run/records", loosened(record))
    [one] = said_of(proxies()[:1], tmp_path)
    assert one.target == "mar" and one.rows == len(ROWS)


def test_the_command_tells_claims_and_predictors_and_writes_both(study, tmp_path):
    rows = "{results: run, generator: mar|tarflow}"
    lines = "".join(
        f"  - {{paper: P, number: {number}, better: {better}, rows: {rows}}}\n"
        for number, better in PROXIES.items()
    )
    file = study / "claims.yaml"
    file.write_text(
        CLAIM.replace("generator", "results: run, generator") + "proxies:\n" + lines, encoding="utf-8"
    )
    done = CliRunner().invoke(app, ["claims", str(file), "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "Of 4 numbers 1 holds, 1 fails, 1 can't be told, 1 not measured." in done.output
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{name}.{end}" for name in ("claims", "planned_proxies") for end in ("csv", "png")}
    shown = json.loads(CliRunner().invoke(app, ["claims", str(file), "--json"]).stdout)
    assert [one["analysis"] for one in shown] == ["claims", "planned_proxies"]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("proxies: {a: 1}\n", "c.yaml:4:10: proxies must be a list"),
        ("proxies: [iFD]\n", "c.yaml:4:11: a proxy is a mapping"),
        (
            "proxies: [{paper: P, number: N, beter: lower, rows: {}}]\n",
            "4:33: unknown key of a proxy 'beter'; did",
        ),
        ("proxies: [{paper: P, number: N, better: less, rows: {}}]\n", "unknown end 'less'"),
        ("proxies: [{paper: P, number: N, better: lower, rows: {a: 1}}]\n", "rows are patterns of labels"),
        (
            "proxies: [{paper: P, number: N, better: lower, rows: {generater: a}}]\n",
            "unknown label 'generater'; did",
        ),
        ("proxies: [{paper: P, number: 5, better: lower, rows: {}}]\n", "4:30: number must be text, not 5"),
        ("proxies: [{paper: P, number: N, better: 1, rows: {}}]\n", "unknown end '1'"),
        ("proxies: [{paper: P, number: 'rFD[net]', better: lower, rows: {}}]\n", "without its network: rFD"),
        ("proxy: []\n", "c.yaml:4:1: unknown key 'proxy'; did you mean 'proxies'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_line(tmp_path, text, problem):
    file = tmp_path / "c.yaml"
    file.write_text(CLAIM + text, encoding="utf-8")
    with pytest.raises(MatrixError, match=problem):
        read_planned(file)
