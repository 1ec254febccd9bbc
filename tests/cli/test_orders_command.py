"""`bench orders` on folders of made-up records, against scipy's tau of their numbers."""

import json
from itertools import combinations, product

import numpy as np
import pytest
from helpers.fabricated_records import records
from scipy import stats
from typer.testing import CliRunner

from latentbench.bench.cli import app
from latentbench.bench.records.files import write_record

LABELS = ("none", "kl[weight=0.001]", "kl[weight=0.01]", "repa", "simflow")
OTHERWISE = {"none": 1.0, "kl": 0.2, "repa": 0.1, "simflow": 0.8}  # an order that is nearly the reverse


def orders(*arguments):
    done = CliRunner().invoke(app, ["orders", *map(str, arguments)])
    return done.exit_code, done.output


def table(*arguments):
    code, text = orders(*arguments, "--json")
    assert code == 0, text
    return json.loads(text)["table"]


def folder(path, **given):
    for record in records(LABELS, guidances=(1.5,), **given):
        write_record(path / "records", record)
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Three seeds and two of other noise, and two of another dataset and another order."""
    home = tmp_path_factory.mktemp("orders")
    names = {"generators": ("mar", "tarflow"), "noise": 12.0}
    return (
        folder(home / "mine", **names),
        folder(home / "more", **names, seeds=("3", "4")),
        folder(home / "other", dataset="others", quality=OTHERWISE, seeds=("0", "1"), noise=1.0),
    )


def distances(path, generator):
    """{regularizer: its gFD by seed} from the files."""
    found = {}
    for file in sorted((path / "records").glob("*.json")):
        record = json.loads(file.read_text())
        if record["cell"]["generator"] == generator:
            (gfd,) = (e["value"] for name, e in record["metrics"].items() if name.startswith("gFD[net]"))
            found.setdefault(record["cell"]["regularizer"], {})[record["cell"]["seed"]] = gfd
    return found


def tau(x, y):
    return stats.kendalltau(x, y).statistic


@pytest.mark.parametrize("generator", ["mar", "tarflow"])
def test_tau_of_means_and_of_single_seeds_is_scipys(sets, generator):
    lines = [line for line in table(*sets) if line["generator"] == generator]
    assert [(line["A"], line["B"]) for line in lines] == [("mine", "more"), ("mine", "other")]
    mine = distances(sets[0], generator)
    for line, path in zip(lines, sets[1:], strict=True):
        theirs = distances(path, generator)
        x, y = (np.array([list(rows[name].values()) for name in LABELS]) for rows in (mine, theirs))
        assert line["τ"] == pytest.approx(tau(x.mean(1), y.mean(1)))
        seeds = [list(rows[LABELS[0]]) for rows in (mine, theirs)]
        across = [tau(x[:, i], y[:, j]) for i, j in product(range(3), range(2)) if seeds[0][i] != seeds[1][j]]
        assert line["τ, a seed of each"] == pytest.approx(np.mean(across))
        for name, values in (("A", x), ("B", y)):
            within = [tau(a, b) for a, b in combinations(values.T, 2)]
            assert line[f"τ, two seeds of {name}"] == pytest.approx(np.mean(within))


def test_another_seed_changes_less_than_another_order(sets):
    seed, order = (line for line in table(*sets) if line["generator"] == "tarflow")
    assert seed["τ"] > 0.5 > order["τ"] and order["from"] <= order["τ"] <= order["to"]
    assert order["τ, a seed of each"] < order["τ, two seeds of B"]


def test_two_generators_of_one_folder_are_compared(sets):
    first, second = (f"{sets[0]}:generator={name}" for name in ("mar", "tarflow"))
    (line,) = table(first, second)
    means = [
        [np.mean(list(distances(sets[0], generator)[name].values())) for name in LABELS]
        for generator in ("mar", "tarflow")
    ]
    assert line["generator"] == "mar and tarflow" and line["τ"] == pytest.approx(tau(*means))


def test_the_text_says_rows_and_interval_and_files_are_written(sets, tmp_path):
    code, text = orders(*sets, "-o", tmp_path / "out")
    assert code == 0 and "Kendall's τ with the order of mine:" in text
    assert "(more with mar, 5 rows, 95 % " in text.replace("\n", " ")
    assert {"orders.csv", "orders.png"} <= {file.name for file in (tmp_path / "out").rglob("*.*")}


def test_sets_without_an_order_in_common_are_refused(sets, tmp_path):
    mine, _, other = sets
    assert orders(mine) == (2, "error: orders are of two sets of rows or more, such as results/a results/b\n")
    for given, said in (
        ((mine, tmp_path / "none"), "no results folder"),
        ((mine, f"{other}:regularizer=kl*"), "fewer than 3 regularizers in common"),
        ((f"{mine}:generator=mar", f"{other}:generator=tarflow|lightningdit"), "no generator in common"),
        ((mine, other, "--measure", "gFID"), "no gFID; there is gFD@360[net]"),
    ):
        code, text = orders(*given)
        assert code == 2 and said in text and "Traceback" not in text


def test_a_set_of_several_datasets_is_asked_for_one(sets, tmp_path):
    both = folder(tmp_path / "both", seeds=("0",))
    folder(both, dataset="others", seeds=("0",))
    code, text = orders(sets[0], both)
    assert code == 2 and f"name one, as in {both}:dataset=digits" in text
    code, text = orders(sets[0], f"{both}:dataset=digits|others,generator=tarflow")
    assert code == 2 and f"as in {both}:dataset=digits,generator=tarflow\n" in text
    code, text = orders(sets[0], f"{both}:dataset=others")
    assert code == 0 and "One seed leaves the training variance unknown" in text.replace("\n", " ")
