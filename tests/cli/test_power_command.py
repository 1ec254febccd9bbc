"""`bench power`: the difference that seeds show, from a spread that was measured or is expected."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from helpers.fabricated_records import records
from typer.testing import CliRunner

from latentbench.bench.cli import app
from latentbench.bench.leaderboard.power_table import spreads
from latentbench.bench.records.files import write_record
from latentbench.bench.statistics.power import smallest_difference

PLAN = Path(__file__).parents[2] / "results/studies/study/PLAN.md"


def power(*arguments):
    done = CliRunner().invoke(app, ["power", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.mark.parametrize("comparisons, rows, seeds", [(1, 2, 3), (28, 8, 3), (7, 8, 5)])
def test_a_difference_of_this_size_is_found_in_four_tables_of_five(comparisons, rows, seeds):
    """Tables are drawn: one row lies apart, and the error is pooled over all rows about rows and seeds."""
    rng, deviation = np.random.default_rng(0), 0.03
    shift = smallest_difference(deviation, rows, seeds, comparisons)
    tables = deviation * rng.standard_normal((20_000, rows, seeds))
    tables[:, 0] -= shift
    means = tables.mean(2)
    about = tables - means[:, :, None] - tables.mean(1, keepdims=True) + tables.mean((1, 2))[:, None, None]
    df = (rows - 1) * (seeds - 1)
    t = (means[:, 1] - means[:, 0]) / np.sqrt((about**2).sum((1, 2)) / df * 2 / seeds)
    found = np.mean(t > scipy.stats.t.ppf(1 - 0.025 / comparisons, df))
    assert found == pytest.approx(0.8, abs=0.01)


def test_the_spread_of_records_is_the_residual_deviation_of_logarithms():
    made = records(seeds=("0", "1", "2", "3"), guidances=(1.0,), generators=("mar",))
    [spread] = spreads(made)
    own = [r for r in made if not r.real]
    rows = list(dict.fromkeys(r.cell["regularizer"] for r in own))
    table = np.log(
        [[r.metrics["gFD[net]@1"]["value"] for r in own if r.cell["regularizer"] == row] for row in rows]
    )
    about = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    assert (spread.generator, spread.rows) == ("mar", len(rows))
    assert spread.deviation == pytest.approx(np.sqrt((about**2).sum() / ((len(rows) - 1) * 3)))


def test_a_third_seed_that_is_half_made_hardly_changes_the_spread():
    made = [r for r in records(seeds=("0", "1", "2"), guidances=(1.0,), generators=("mar",)) if not r.real]
    two = [r for r in made if r.cell["seed"] != "2"]
    [before], [after] = spreads(two), spreads([*two, next(r for r in made if r.cell["seed"] == "2")])
    assert after.deviation == pytest.approx(before.deviation, rel=0.05)


def test_a_folder_s_table_has_whole_seeds_and_names_datasets_where_there_are_several(tmp_path):
    for record in records(seeds=("0", "1"), guidances=(1.0,), generators=("mar",)):
        write_record(tmp_path / "run/records", record)
    code, shown = power(tmp_path / "run", "--seeds", "2,1000", "--rows", "40")
    assert code == 0 and shown.startswith("mar: 40 rows") and "\n1000 " in shown
    for record in records(seeds=("0", "1"), guidances=(1.0,), generators=("mar",)):
        write_record(tmp_path / "run/records", replace(record, cell=record.cell | {"dataset": "other"}))
    code, shown = power(tmp_path / "run")
    assert code == 0 and "other · mar: " in shown


def test_the_plan_of_the_second_study_has_its_numbers():
    text = PLAN.read_text(encoding="utf-8")
    for deviation in (2, 3, 4):
        code, shown = power("--deviation", deviation, "--rows", 29, "--seeds", "2,3,5,8", "--json")
        [plan] = json.loads(shown)
        cells = [
            f"{line['any two rows, %']:.0f} % ({line['a row and one control, %']:.0f} %)"
            for line in plan["table"]
        ]
        assert code == 0 and f"| {deviation} % | {' | '.join(cells)} |" in text


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "needs a results folder, or --deviation"),
        (("--deviation", "3"), "--deviation needs --rows"),
        (("--deviation", "3", "--rows", "5", "--seeds", "1,2"), "whole numbers from 2 on"),
        (("nowhere",), "no records in nowhere"),
        (("nowhere", "--deviation", "3"), "takes a results folder or --deviation, not both"),
    ],
)
def test_what_is_missing_is_said(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, shown = power(*arguments)
    assert code == 2 and said in shown.replace("\\", "/")
