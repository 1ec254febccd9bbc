"""The committed results: few enough bytes for everybody to clone, and nothing that was left over."""

import re
import subprocess
from pathlib import Path

import pytest

from latentbench.bench.records.files import read_records
from latentbench.bench.records.packed_folder import has_records, record_folder
from latentbench.bench.report.write import rebuild_report

ROOT = Path(__file__).resolve().parents[2]
ALL, ONE = 25, 4  # MB, at the most, of all committed results and of one file
PLAN = "PLAN.md"
STUDIES = sorted((ROOT / "results/studies").iterdir())
PLANNED = [s for s in STUDIES if (s / PLAN).exists() and not has_records(s)]  # and not run yet
TABLES = {"leaderboard.csv", "leaderboard.md", "matrix.lock.yaml"}
TEXTS = [*ROOT.glob("*.md"), ROOT / "results/README.md", *ROOT.glob("docs/**/*.md")]


def tracked():
    """The committed files under results/; without git, all that are there."""
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    files = [ROOT / name for name in names] or [*(ROOT / "results").rglob("*")]
    return [file for file in files if file.is_file()]


def test_the_committed_results_are_small():
    sizes = {str(file.relative_to(ROOT)): file.stat().st_size / 1e6 for file in tracked()}
    assert sizes and sum(sizes.values()) <= ALL
    assert {name: size for name, size in sizes.items() if size > ONE} == {}


def test_nothing_is_committed_that_was_left_over():
    left = re.compile(r"(\.(stale|tmp|orig|rej|bak|lock)|~)$|/\.|/(set-aside|track)/")
    assert [str(file) for file in tracked() if left.search(f"/{file.relative_to(ROOT)}")] == []


@pytest.mark.parametrize("study", [s for s in STUDIES if s not in PLANNED], ids=lambda study: study.name)
def test_a_study_has_its_tables_and_whole_records_in_the_compact_form(study):
    assert TABLES <= {file.name for file in study.iterdir()}
    assert read_records(study / "records")
    with record_folder(study / "records") as folder:
        for file in folder.glob("*.json"):
            assert file.read_text(encoding="utf-8").startswith('{\n "format": '), f"bench compact {study}"


def test_every_picture_that_a_text_or_a_committed_table_shows_is_committed():
    committed = {file.resolve() for file in tracked()}
    tables = [file for file in committed if file.suffix == ".md"]
    shown = []
    for text in {*TEXTS, *tables}:
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+\.(?:png|webp|svg))\)", text.read_text(encoding="utf-8")):
            file = (text.parent / link).resolve()
            if not link.startswith("http") and file.is_relative_to(ROOT / "results"):
                shown.append(file)
    assert len(shown) > 20 and [str(file) for file in shown if file not in committed] == []


def test_the_page_of_84_cells_is_small(tmp_path):
    study = ROOT / "results/studies/fashion-mnist"
    done = [r for r in read_records(study / "records") if r.status == "done" and not r.real]
    assert len(done) >= 84
    rebuild_report([study], tmp_path)
    assert (tmp_path / "leaderboard.html").stat().st_size <= 3e6
