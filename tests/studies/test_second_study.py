"""The second study: planned before its records, with strengths that its trials chose by another judge."""

import csv
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.records.files import read_records
from latentbench.bench.records.packed_folder import has_records

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "results/studies"
PLAN = "results/studies/study/PLAN.md"
FOLDERS = [name for name in ("study-tuning", "study") if has_records(STUDIES / name)]
NOT_TUNED = {"none", "rms", "lzn-whole"}


def git(*words):
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_plan_was_committed_before_the_records_were_made(folder):
    made = {
        (r.provenance["git_commit"], r.provenance["git_dirty"])
        for r in read_records(STUDIES / folder / "records")
    }
    assert made and not any(dirty for _, dirty in made)
    planned = git("log", "--format=%H", "--diff-filter=A", "--", PLAN)
    if not planned or any(git("cat-file", "-e", commit) is None for commit, _ in made):
        pytest.skip("this is no clone with the whole history")
    for commit, _ in made:
        assert git("merge-base", "--is-ancestor", planned, commit) is not None


def test_three_networks_teach_choose_strengths_and_rank():
    ranking, trials = load_matrix("study"), load_matrix("study", profile="tuning")
    judges = [[row.part for row in matrix.features] for matrix in (ranking, trials)]
    assert ranking.teacher.part == "effnet_lite0" and judges == [
        ["effnet_lite2", "effnet_lite0"],
        ["effnet_lite1"],
    ]
    assert not {seed.label for seed in ranking.seeds} & {seed.label for seed in trials.seeds}


def test_every_family_had_four_trials_and_the_ranking_has_the_taken_ones():
    ranking, trials = load_matrix("study"), load_matrix("study", profile="tuning")
    tried = {row.label: row for row in trials.regularizers}
    families = Counter(label.partition("[")[0] for label in tried)
    assert {families.pop(name) for name in ("none", "rms")} == {1} and set(families.values()) == {4}
    with (STUDIES / "study-tuning/analysis/strengths.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    taken = {line["family"]: line["regularizer"].removesuffix(" ‡") for line in lines if line["taken"]}
    assert {line["regularizer"].removesuffix(" ‡") for line in lines} == set(tried)
    ranked = {row.label: row for row in ranking.regularizers}
    assert set(ranked) == set(taken) | NOT_TUNED
    for family, label in taken.items():
        assert (ranked[family].part, ranked[family].options) == (tried[label].part, tried[label].options)
