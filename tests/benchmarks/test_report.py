"""The tables, the analyses and the page of 500 records over those of 50, from records alone.

pytest tests/benchmarks/test_report.py --benchmark-enable -n 0
"""

import time
from functools import partial

import pytest
from helpers.fabricated_records import records
from helpers.in_turns import in_turns

from latentbench.bench.records.files import write_record
from latentbench.bench.report.write import rebuild_report

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)
RECORDS = (500, 50)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Regularizers along five strengths, three generators, three guidances, five seeds; held-out images."""
    names = ("kl", "repa", "simflow", "kl0", "kl1", "kl2")
    rows = [f"{name}[weight={w}]" for name in names for w in STRENGTHS] + ["none", "repa", "kl", "simflow"]
    made = records(rows, seeds=tuple("01234"), guidances=(1.0, 1.5, 2.0))
    folders = {}
    for count in RECORDS:
        folders[f"{count} records"] = folder = tmp_path_factory.mktemp("many")
        for record in made[: count + 1]:
            write_record(folder / "records", record)
    return folders


@pytest.mark.measured
@pytest.mark.benchmark(timer=time.process_time)  # seconds of CPU: the same beside other work
def test_a_report_of_500_records(benchmark, folders):
    ways = {name: partial(rebuild_report, [folder], folder) for name, folder in folders.items()}
    in_turns(benchmark, ways, rounds=3, warmup_rounds=0)
    for folder in folders.values():
        names = {file.name for file in folder.iterdir()}
        assert {"leaderboard.html", "leaderboard.md", "leaderboard.csv", "leaderboard.tex"} <= names
