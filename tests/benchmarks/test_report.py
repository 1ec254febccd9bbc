"""How long the tables, the analyses and the page of 500 records take to make from records alone."""

import time

import pytest
from helpers.fabricated_records import records

from latentbench.bench.records.files import write_record
from latentbench.bench.report.write import rebuild_report

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Regularizers along five strengths, three generators, three guidances, five seeds; held-out images."""
    names = ("kl", "repa", "simflow", "kl0", "kl1", "kl2")
    rows = [f"{name}[weight={w}]" for name in names for w in STRENGTHS] + ["none", "repa", "kl", "simflow"]
    folder = tmp_path_factory.mktemp("many")
    for record in records(rows, seeds=tuple("01234"), guidances=(1.0, 1.5, 2.0))[:501]:
        write_record(folder / "records", record)
    return folder


@pytest.mark.measured
@pytest.mark.benchmark(timer=time.process_time)  # seconds of CPU: the same beside other work
def test_a_report_of_500_records(benchmark, folder):
    benchmark.pedantic(rebuild_report, ([folder], folder), rounds=1, iterations=1)
    names = {file.name for file in folder.iterdir()}
    assert {"leaderboard.html", "leaderboard.md", "leaderboard.csv", "leaderboard.tex"} <= names
