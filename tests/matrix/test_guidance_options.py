"""A row's `guidance`: numbers, or a sweep with its samples, and what is said about bad ones."""

import re

import pytest
import yaml
from helpers.matrices import problems, tiny_with

from latentbench.bench.matrix.load import load_matrix, resolved
from latentbench.bench.matrix.matrix import Sweep


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(guidance):
        (tmp_path / "m.yaml").write_text(tiny_with("[1.0, 1.5]", guidance))
        return "m.yaml"

    return write


def sweep_of(path, **options):
    return load_matrix(path, **options).generators[1].sweep


def test_a_sweep_has_a_quarter_of_the_samples_unless_it_says_how_many(write):
    assert sweep_of(write("{sweep: [4, 1, 1.5]}")) == Sweep((1.0, 1.5, 4.0), 16)  # of 64
    assert sweep_of(write("{sweep: [1, 2], samples: 64}")) == Sweep((1.0, 2.0), 64)
    assert sweep_of(write("[1.0, 1.5]")) is None


def test_a_profile_with_fewer_samples_has_smaller_sweeps(write, tmp_path):
    path = write("{sweep: [1, 2]}")
    with (tmp_path / path).open("a") as file:
        file.write("profiles: {smoke: {samples: 32}, least: {samples: 4}}\n")
    assert sweep_of(path, profile="smoke").samples == 8 and sweep_of(path, profile="least").samples == 4


def test_the_lock_writes_the_sweep_out_and_is_read_back(write, tmp_path):
    matrix = load_matrix(write("{sweep: [1, 2]}"))
    lock = resolved(matrix)
    assert lock["generators"]["lightningdit"]["guidance"] == {"sweep": [1.0, 2.0], "samples": 16}
    (tmp_path / "lock.yaml").write_text(yaml.safe_dump(lock))
    assert load_matrix("lock.yaml").generators == matrix.generators


@pytest.mark.parametrize(
    ("guidance", "place", "said"),
    [
        ("{sweep: [2.0]}", "[2.0]", "a sweep is a list of two guidances or more, such as `guidance: {sweep"),
        ("{sweep: 2.0}", "2.0", "two guidances or more, .* not 2.0"),
        ("{}", "{", "two guidances or more"),
        ("{samples: 16}", "{", "two guidances or more"),
        ("{sweep: [1, -1]}", "-1", "guidance must be a number >= 0, or a list of them, not -1"),
        ("{sweep: [1, x]}", "x", "not 'x'"),
        ("{sweep: [1, 2, 2.0]}", "2.0", "guidance has 2 twice"),
        ("{sweep: [1, 2], samples: 65}", "65", "65 samples are more than the matrix's 64; .* quarter"),
        ("{sweep: [1, 2], samples: 3}", "3", "samples must be a number of them >= 4, not 3"),
        ("{sweep: [1, 2], samples: many}", "many", "not 'many'; without `samples` it has a quarter"),
        ("{sweep: [1, 2], sample: 16}", "sample:", "guidance 'sample'; did you mean 'samples'"),
    ],
)
def test_a_bad_sweep_is_refused_at_its_place(write, guidance, place, said):
    path = write(guidance)
    [problem] = problems(path)
    line, column, message = re.fullmatch(r"m\.yaml:(\d+):(\d+): (.*)", problem).groups()
    text = open(path).read().splitlines()[int(line) - 1]
    at = text[int(column) - 1 :]
    assert at.startswith(
        "[" if place == "sweep" and guidance != "{sweep: 2.0}" else place.replace("sweep", "2.0")
    )
    assert re.search(said, message), message
