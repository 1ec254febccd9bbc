"""`bench proxies` on folders of fabricated records: what it prints, writes and refuses."""

import json
from dataclasses import replace

import pytest
from helpers.fabricated_records import records
from scipy import stats
from typer.testing import CliRunner

from latentbench.bench.cli import app
from latentbench.bench.records.files import write_record

LABELS = ("none", "kl[weight=0.001]", "kl[weight=0.01]", "repa", "simflow")


def proxies(*arguments):
    done = CliRunner().invoke(app, ["proxies", *map(str, arguments)])
    return done.exit_code, done.output


def folder(path, found):
    for record in found:
        write_record(path / "records", record)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two results folders, of two generators and of one, whose distances are of other sizes."""
    home = tmp_path_factory.mktemp("proxies")
    mine = folder(home / "mine", records(LABELS, generators=("mar", "tarflow"), seeds=("0",)))
    other = [
        replace(
            record,
            metrics={
                name: {**entry, "value": entry["value"] * 3 if name.startswith("gFD") else entry["value"]}
                for name, entry in record.metrics.items()
            },
        )
        for record in records(LABELS, generators=("mar",), seeds=("0",), dataset="others", noise=60)
    ]
    return mine, folder(home / "other", other)


def test_one_folder_is_described_with_a_table_and_the_papers_claims(folders):
    code, text = proxies(folders[0])
    assert code == 0 and text.startswith("mine: Cheap predictors of generation quality")
    assert "probe_accuracy" in text and "What papers say predicts generation quality" in text
    assert "all folders" not in text


def test_rows_of_several_folders_are_compared_within_each(folders):
    code, text = proxies(*folders, "--json", "--generator", "mar")
    found = {(one["results"], one["analysis"]): one for one in json.loads(text)}
    assert code == 0 and {results for results, _ in found} == {"all folders", "mine", "other"}
    together, mine, other = (
        {line["signal"]: line for line in one["table"]}
        for one in (
            found["all folders", "proxies"],
            found["mine", "mine--proxies"],
            found["other", "other--proxies"],
        )
    )
    # Both have five rows and no ties in gFD, so tau within folders is the mean of both.
    assert together["PSNR"]["τ"] == pytest.approx((mine["PSNR"]["τ"] + other["PSNR"]["τ"]) / 2, abs=1e-3)
    assert together["PSNR"]["rows"] == 10 and together["PSNR"]["folders"] == 2
    # Each folder's own network judges its generation, so its name is left out.
    assert "rFD" in together and "rFD[net]" in mine
    assert "Only pairs of rows of one folder count (2 folders)" in found["all folders", "proxies"]["method"]
    # The p of the better of two independent orders is smaller than either's alone if both agree.
    if mine["PSNR"]["τ"] * other["PSNR"]["τ"] > 0:
        assert together["PSNR"]["p"] < max(mine["PSNR"]["p"], other["PSNR"]["p"])
    assert mine["PSNR"]["p"] >= stats.kendalltau(range(5), range(5)).pvalue - 1e-4


def test_a_folder_with_one_generator_is_among_those_with_the_mean_of_all(folders):
    code, text = proxies(*folders)
    assert code == 0 and "all generators, 10 rows" in text and "other: Cheap" in text


def test_tables_and_figures_are_written_beside_other_files(folders, tmp_path):
    (tmp_path / "notes.csv").write_text("mine")
    code, text = proxies(folders[0], "-o", tmp_path)
    assert code == 0 and (tmp_path / "notes.csv").read_text() == "mine"
    written = {file.name for file in tmp_path.iterdir()} - {"notes.csv"}
    assert {"proxies.csv", "proxies.png", "claimed_proxies.csv", "claimed_proxies.png"} <= written
    assert "proxies--probe_accuracy.png" in written
    assert all(str(tmp_path / name) in text.replace("\n", "") for name in written)


def test_another_distance_may_be_the_measure(folders):
    code, text = proxies(folders[0], "--measure", "gFD@360[net]")
    assert code == 0 and "gFD@360[net]" in text
    code, text = proxies(folders[0], "--measure", "gFID")
    assert code == 2 and "unknown measure 'gFID'; known: gFD@360[net], gFD[net]" in text


def test_what_cannot_be_told_is_refused_with_what_to_do(folders, tmp_path):
    code, text = proxies(folders[0], "--generator", "marr")
    assert code == 2 and "unknown generator 'marr'; did you mean 'mar'?" in text
    code, text = proxies(tmp_path)
    assert code == 2 and f"no records in {tmp_path / 'records'}" in text.replace("\n", "")
    three = folder(tmp_path / "three", records(("none", "kl", "repa"), ("mar",), ("0",)))
    code, text = proxies(three)
    assert code == 2 and "3 rows of a generator have gFD[net]" in text and "at least 4" in text
    code, text = proxies(folders[0], "-o", folders[1])
    assert code == 2 and "is a results folder" in text


def test_folders_without_signals_or_without_generation_name_evaluators(tmp_path):
    found = records(LABELS, generators=("mar",), seeds=("0",))

    def only(keep):
        return [
            replace(r, curves={}, metrics={name: m for name, m in r.metrics.items() if keep(name)})
            for r in found
        ]

    code, text = proxies(folder(tmp_path / "bare", only(lambda name: name.startswith("gFD"))))
    assert code == 2 and "no signals" in text
    assert all(name in text for name in ("latents", "linear_probe", "reconstruction")) and "cost" not in text
    code, text = proxies(folder(tmp_path / "ungenerated", only(lambda name: not name.startswith("gFD"))))
    assert code == 2 and "add `generation` to the matrix's `evaluators:`" in text


def test_a_folder_that_says_nothing_is_left_out_with_a_note(folders, tmp_path):
    three = folder(tmp_path / "three", records(("none", "kl", "repa"), ("mar",), ("0",)))
    code, text = proxies(folders[0], three)
    assert code == 0 and "left out: three: 3 rows" in text and "all folders" not in text
