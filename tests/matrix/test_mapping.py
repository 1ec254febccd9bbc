"""Matrices from Python mappings: as from a file, with problems that name keys."""

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.run import TINY

from latentbench.bench.matrix.load import load_matrix, resolved
from latentbench.bench.matrix.mapping import key_path
from latentbench.bench.matrix.yaml_text import MatrixError

PLAIN = yaml.safe_load(TINY.replace("1.0e-3", "0.001"))


def changed(path, value):
    """The tiny matrix with one value replaced or added."""
    matrix = copy.deepcopy(PLAIN)
    place = matrix
    *above, last = path.split("/")
    for key in above:
        place = place[key]
    place[last] = value
    return matrix


def problems(matrix, **options):
    with pytest.raises(MatrixError) as caught:
        load_matrix(matrix, **options)
    return str(caught.value).split("\n")


def test_a_mapping_is_the_matrix_that_its_file_is(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert resolved(load_matrix(PLAIN)) == resolved(load_matrix(tmp_path / "tiny.yaml"))
    unnamed = {key: value for key, value in PLAIN.items() if key != "name"}
    assert load_matrix(unnamed).name == "matrix"


def test_what_python_has_in_place_of_plain_data_is_taken():
    matrix = changed("regularizers/kl/weight", (np.float64(0.5), np.int64(1)))
    labels = [row.label for row in load_matrix(matrix).regularizers]
    assert labels == ["none", "kl[weight=0.5]", "kl[weight=1]"]
    rooted = {"use": "imagefolder", "root": Path("pictures"), "size": 8}
    assert load_matrix(changed("dataset", rooted)).datasets[0].options["root"] == "pictures"


@pytest.mark.parametrize(
    "path, value, expected",
    [
        ("samples", -1, "samples: samples must be an integer >= 4, not -1"),
        ("samples", 10**30, "samples: an integer beyond 2**63 is too large"),
        ("budget/batch", "16", "budget.batch: batch must be an integer >= 1, not '16'"),
        ("regularizers/kl/weight", [1.0, -1.0], "regularizers.kl.weight[1]: weight must be a number >= 0"),
        ("regularizers/kl/wieght", 1.0, "regularizers.kl.wieght: unknown option 'wieght'; did you mean"),
        ("regularizers/a b", {"use": "kll"}, "regularizers['a b'].use: unknown regularizer 'kll'"),
        ("regularizers/kl/weight", {1, 2}, "regularizers.kl.weight: {1, 2} is no plain data, but a value of"),
        ("regularizers/kl", {3: 4}, "regularizers.kl: the key 3 is of type int; a key is text"),
        ("evaluators", ["reconstruction", {"cost": {"x": 1}}], "evaluators[1].cost.x: unknown option 'x'"),
        ("dataset", None, "dataset: 'dataset' is missing"),
        ("dataset", [{"use": "digits"}, "digits"], "dataset[1]: the dataset 'digits' is listed twice"),
        ("name", "a\0b", "name: the control character U+0000 does not belong in text"),
        ("plugins", ["nowhere.py"], "plugins[0]: no plugin file 'nowhere.py'"),
        (
            "regularizers/kl/weight",
            [0.1, 0.1],
            "regularizers.kl: duplicate label 'kl[weight=0.1]'; the first",
        ),
        ("smaples", 64, "smaples: unknown key 'smaples'; did you mean 'samples'?"),
    ],
)
def test_a_problem_names_its_keys(path, value, expected):
    said = problems(changed(path, value))
    assert [line for line in said if line.startswith(expected)], said
    assert not [line for line in said if ":0" in line]


def test_all_problems_are_said_at_once():
    matrix = changed("regularizers/kl/weight", -1.0) | {"samples": 0, "seeds": "two"}
    assert [line.partition(":")[0] for line in problems(matrix)] == [
        "regularizers.kl.weight",
        "samples",
        "seeds",
    ]


def test_problems_of_a_profile_point_into_it():
    matrix = PLAIN | {"profiles": {"smoke": {"budget": {"batch": -3}, "samples": 1}}}
    assert problems(matrix, profile="smoke") == [
        "profiles.smoke.budget.batch: batch must be an integer >= 1, not -3",
        "profiles.smoke.samples: samples must be an integer >= 4, not 1",
    ]


def test_a_mapping_that_contains_itself_ends_in_an_error():
    matrix = copy.deepcopy(PLAIN)
    matrix["regularizers"]["kl"]["again"] = matrix
    assert "nested deeper than 20 levels" in problems(matrix)[0]


def test_a_mapping_is_not_changed_by_reading_it():
    before = copy.deepcopy(PLAIN)
    load_matrix(PLAIN | {"profiles": {"p": {"samples": 8}}}, profile="p", seeds=3)
    assert before == PLAIN


def test_key_paths_are_short_and_unambiguous():
    assert key_path(("dataset", 0, "count", "train")) == "dataset[0].count.train"
    assert key_path(("regularizers", "kl[weight=1]", "x")) == "regularizers['kl[weight=1]'].x"
    assert key_path(()) == "matrix"
