"""Labels in CSV files and lock files: what looks like something else to a reader stays text."""

import csv as standard
import io

import pandas as pd
import pytest
import yaml
from helpers import fabricated_records
from helpers.run import TINY, bench_inline
from pandas._libs.parsers import STR_NA_VALUES

from latentbench.bench.matrix.load import load_matrix, resolved
from latentbench.bench.matrix.yaml_text import dump, parse
from latentbench.bench.records.files import write_record
from latentbench.bench.report.csv import csv
from latentbench.bench.report.dataframe import frame

ODD = (
    "NA",
    "null",
    "nan",
    "None",
    "NaN",
    "NULL",
    "<NA>",
    "#N/A",
    "true",
    "FALSE",
    "1e3",
    "007",
    "inf",
    "Nan",
    "=1+1",
)
PLAIN = ("kl[weight=0.001]", "none", "trueish", "1e3x", "na")


@pytest.mark.parametrize("label", [*ODD, *PLAIN])
def test_a_label_survives_a_reader_that_guesses(label):
    """pandas with its defaults, with other labels in the column and alone."""
    for labels in ((label, "kl"), (label,)):
        text = csv(frame(fabricated_records.records(labels, generators=("mar",), seeds=("0",))[1:]))
        read = pd.read_csv(io.StringIO(text))["regularizer"].tolist()
        assert (f"'{label}" if label in ODD else label) in read and len(read) == 3 * len(labels)
        assert [row["regularizer"] for row in standard.DictReader(io.StringIO(text))] == read


def test_no_text_is_a_gap_to_pandas():
    texts = sorted(STR_NA_VALUES - {""})
    read = pd.read_csv(io.StringIO(csv(pd.DataFrame({"text": texts}))))["text"]
    assert read.notna().all() and [text.lstrip("'") for text in read] == texts


def test_numbers_and_gaps_stay_what_they_are():
    table = pd.DataFrame({"guidance": [1.0, None], "seeds": [3, 4], "regularizer": ["kl", "none"]})
    assert csv(table) == "guidance,seeds,regularizer\n1.0,3,kl\n,4,none\n"


def test_reports_comparisons_and_merges_keep_odd_labels(tmp_path):
    labels = ("NA", "null", "1e3", "true")
    for record in fabricated_records.records(labels, generators=("mar", "nan"), guidances=(1.0,)):
        write_record(tmp_path / "a/records", record)
    assert bench_inline("merge", "a", "-o", "b", cwd=tmp_path).returncode == 0
    for folder in ("a", "b"):
        assert bench_inline("report", folder, cwd=tmp_path).returncode == 0
        read = pd.read_csv(tmp_path / folder / "leaderboard.csv")
        assert set(read.regularizer) == {*(f"'{label}" for label in labels), "real"}
        assert set(read.generator) == {"mar", "'nan", "real"}
        for name in ("leaderboard.md", "leaderboard.html", "leaderboard.tex"):
            text = (tmp_path / folder / name).read_text(encoding="utf-8")
            assert all(label in text for label in labels)
    done = bench_inline("compare", "a:regularizer=NA", "b:regularizer=null", cwd=tmp_path)
    assert done.returncode == 0 and "gFD" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "text", [*ODD, *PLAIN, "1e-3", "1.5e3", ".5", "1_0", "on", "no", "~", "0x1f", "012", "é: x"]
)
def test_text_survives_the_lock_file(text):
    data = {"name": text, text: [text, {"use": text}]}
    assert parse(dump(data), "lock").data == data
    assert yaml.safe_load(dump({"name": "x", "weight": 1e-05})) == {"name": "x", "weight": 1e-05}


def test_a_matrix_of_odd_labels_is_resolved_to_itself(tmp_path):
    text = TINY.replace(
        "  none: {}", "  null: {use: none}\n  1e3: {use: none}\n  NA: {use: none}\n  true: {use: none}"
    )
    text = text.replace("name: tiny", "name: '1e3'").replace("{use: digits}", "{use: digits, label: 'nan'}")
    text += "skip: [{regularizer: '1e3', generator: gaussian, why: '2e5'}]\n"
    (tmp_path / "m.yaml").write_text(text)
    first = resolved(load_matrix(tmp_path / "m.yaml"))
    (tmp_path / "lock.yaml").write_text(dump(first))
    again = resolved(load_matrix(tmp_path / "lock.yaml"))
    assert again == first and [*first["regularizers"]] == ["null", "1e3", "NA", "true", "kl"]
