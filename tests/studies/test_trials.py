"""The trials that strengths were chosen by: alike for all families, on a seed of their own, and heeded."""

import math
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.records.files import read_records

ROOT = Path(__file__).resolve().parents[2]
# (matrix, profile that uses the strengths, folder of the trials' records)
STUDIES = {
    "digits": (ROOT / "matrix.yaml", None, "digits-tuning"),
    "fashion-mnist": ("fashion-mnist", "evening", "fashion-mnist-tuning"),
}
NEW = {"fashion-mnist": {"fixed_variance"}}  # rows that came after the trials


def matrices(name):
    file, profile, _ = STUDIES[name]
    return load_matrix(file, profile="tuning"), load_matrix(file, profile=profile)


def scores(name):
    """The gFD of every row of the trials, one for each generator."""
    found = defaultdict(list)
    for record in read_records(ROOT / "results/studies" / STUDIES[name][2] / "records"):
        if record.real:
            continue
        values = [e["value"] for key, e in record.metrics.items() if key.startswith("gFD[")]
        assert record.status == "done" and len(values) == 1
        found[record.cell["regularizer"]].append(values[0])
    return found


@pytest.mark.parametrize("name", STUDIES)
def test_every_family_had_the_same_trials_on_a_seed_of_its_own(name):
    tuning, study = matrices(name)
    trials = Counter(row.part for row in tuning.regularizers)
    assert trials.pop("none") == 1 and len(set(trials.values())) == 1
    assert set(trials) == {row.part for row in study.regularizers} - {"none"} - NEW.get(name, set())
    seeds = [{seed.label for seed in matrix.seeds} for matrix in (tuning, study)]
    assert not seeds[0] & seeds[1]


@pytest.mark.parametrize("name", STUDIES)
def test_trials_show_whether_latents_collapsed(name):
    tuning, _ = matrices(name)
    assert {"density", "latents"} <= {evaluator.part for evaluator in tuning.evaluators}


@pytest.mark.parametrize("name", STUDIES)
def test_strengths_are_the_ones_that_generated_best_in_the_committed_trials(name):
    (tuning, study), found = matrices(name), scores(name)
    tried = {row.label: row for row in tuning.regularizers}
    assert set(found) == set(tried) and {len(values) for values in found.values()} == {2}
    mean = {label: math.fsum(map(math.log, values)) / len(values) for label, values in found.items()}
    for row in study.regularizers:
        if row.part in NEW.get(name, set()):
            continue
        own = [label for label, other in tried.items() if other.part == row.part]
        assert row.options == tried[min(own, key=mean.__getitem__)].options, row.label


@pytest.mark.parametrize("name", STUDIES)
def test_the_table_of_trials_has_the_means_of_the_committed_records_and_the_least_in_bold(name):
    folder = STUDIES[name][2]
    text = (ROOT / "results/studies" / folder / "README.md").read_text(encoding="utf-8")
    tuning, found = matrices(name)[0], scores(name)
    parts = {row.label: row.part for row in tuning.regularizers}
    for line in text[text.index("| family |") :].split("\n\n")[0].splitlines()[2:]:
        label, tried, _ = (cell.strip() for cell in line.strip("|").split("|"))
        family, written = label.split("`")[1], [part.strip() for part in tried.split("·")]
        means = [math.exp(math.fsum(map(math.log, found[row])) / 2) for row in found if parts[row] == family]
        bold = ["" if len(means) == 1 or mean > min(means) else "**" for mean in means]
        right = sorted(f"{mark}{mean:.0f}" for mark, mean in zip(bold, means, strict=True))
        assert sorted(map(shown, written)) == right, family


def shown(trial):
    """The mean of `0.1: 22.4 dB; 1430, 1786; 1598`, with the mark of a bold one."""
    return ("**" if trial.startswith("**") else "") + trial.strip("*").rsplit("; ")[-1]
