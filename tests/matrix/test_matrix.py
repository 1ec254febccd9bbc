"""A matrix file becomes rows, or a list of everything that is wrong with it."""

from __future__ import annotations

import pickle
import re
import time
from pathlib import Path

import pytest
import yaml
from helpers.matrices import planned, problems

from latentbench.bench import registry
from latentbench.bench.matrix.load import load_matrix, problem_at_row, resolved
from latentbench.bench.matrix.matrix import MatrixRow, Seed, Skip
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.tools import merge, merge_rules

PLUGIN = '''
from __future__ import annotations
from typing import Annotated, Literal
from pydantic import Field
from latentbench.bench.api import Dataset, Evaluator, FeatureExtractor, Generator, ImageSpec, LatentSpec
from latentbench.bench.api import Regularizer, Tokenizer
from latentbench.bench.registry import register

Scale = Annotated[float, Field(ge=0)]

@register("mx_data")
class Data(Dataset):
    def __init__(self, size: Annotated[int, Field(ge=2)] = 8) -> None: ...

@register("mx_features")
class Features(FeatureExtractor):
    def __init__(self, resolution: int = 32) -> None: ...

@register("mx_tokens")
class Tokens(Tokenizer):
    def __init__(self, image: ImageSpec, expansion: int, width: int = 64) -> None: ...

@register("mx_none")
class Nothing(Regularizer):
    """Used as it is."""

@register("mx_pull")
class Pull(Regularizer):
    def __init__(
        self, spec: LatentSpec, classes: int, weight: Scale = 1e-4, widths: tuple[int, ...] = (8,),
        mode: Literal["soft", "hard"] = "soft",
    ) -> None: ...

@register("mx_flow")
class MyFlow(Generator):
    def __init__(self, spec: LatentSpec, classes: int, depth: Annotated[int, Field(ge=1)] = 2) -> None: ...
    def sample(self, labels, guidance, noise, *, steps: Annotated[int, Field(ge=1)] = 30): ...

@register("mx_scores")
class Scores(Evaluator):
    metrics = {}
    def __init__(self, k: int = 5) -> None: ...
'''
BASE = """\
name: small
dataset: {use: mx_data, size: 16}
seeds: [0]
budget: {tokenizer_steps: 6, generator_steps: 8, batch: 4}
features: mx_features
tokenizers: {tok: {use: mx_tokens, width: 32}}
regularizers:
  mx_none: {}
  mx_pull: {weight: [1.0e-4, 1e-2]}
generators: {mx_flow: {guidance: [1.0, 1.5]}}
evaluators: [mx_scores]
"""


@pytest.fixture(scope="module", autouse=True)
def parts(tmp_path_factory):
    """The parts that these tests use, known to the registry only while they run."""
    file = tmp_path_factory.mktemp("plugin") / "mx.py"
    file.write_text(PLUGIN)
    registry.load_plugin(file)
    yield file
    for table in (registry._plugins, registry._classes):
        for kind, name in [key for key in table if key[1].startswith("mx_")]:
            del table[kind, name]


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes) -> str:
        Path("m.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return "m.yaml"

    return write


def with_line(key: str, line: str) -> str:
    """The base matrix with one key's line (or, for a new key, the end) replaced."""
    lines = BASE.splitlines()
    if not any(old.startswith(f"{key}:") for old in lines):
        return BASE + line
    return "\n".join(line if old.startswith(f"{key}:") else old for old in lines) + "\n"


def test_a_matrix_becomes_rows(write):
    matrix = load_matrix(write(BASE))
    assert matrix.name == "small" and matrix.file == Path("m.yaml").resolve()
    assert matrix.datasets == (MatrixRow("mx_data", "mx_data", {"size": 16}),)
    assert matrix.features == (matrix.teacher,)
    assert matrix.teacher == MatrixRow("mx_features", "mx_features", {"resolution": 32})
    assert matrix.tokenizers == (MatrixRow("tok", "mx_tokens", {"width": 32}),)
    assert [row.label for row in matrix.regularizers] == [
        "mx_none",
        "mx_pull[weight=0.0001]",
        "mx_pull[weight=0.01]",
    ]
    assert matrix.regularizers[2].options == {"weight": 0.01, "widths": (8,), "mode": "soft"}
    assert matrix.regularizers[2].where == ("m.yaml", 9, 3)
    [flow] = matrix.generators
    assert flow.guidance == (1.0, 1.5) and flow.sampler == {"steps": 30} and flow.options == {"depth": 2}
    assert matrix.evaluators == (MatrixRow("mx_scores", "mx_scores", {"k": 5}),)
    assert matrix.seeds == (Seed(0, 0, 0, "0"),)
    assert (matrix.budget.tokenizer_steps, matrix.budget.batch, matrix.samples) == (6, 4, 1000)
    assert matrix.reference.part == "teacher" and matrix.reference.options == {"features": "tokens"}
    assert matrix.probes is None and matrix.reconstruction == {"l1": 1.0}
    assert (matrix.normalise, matrix.threads, matrix.precision) == ("channel", 1, "fp32")
    assert matrix.warnings == () and matrix.plugins == ()


def test_what_a_short_matrix_leaves_out_has_defaults(write):
    short = "\n".join(
        line for line in BASE.splitlines() if line.split(":")[0] not in ("name", "seeds", "budget")
    )
    matrix = load_matrix(write(short))
    assert matrix.name == "m" and matrix.seeds[0].label == "0"
    budget = matrix.budget
    assert (budget.tokenizer_steps, budget.generator_steps, budget.batch) == (600, 800, 64)


@pytest.mark.parametrize(
    ("seeds", "labels"),
    [
        ("[0, 7]", ["0", "7"]),
        ("3", ["0", "1", "2"]),
        ("{tokenizer: 2, sampling: 2}", ["0.0.0", "0.0.1", "1.0.0", "1.0.1"]),
        ("{generator: [5]}", ["0.5.0"]),
    ],
)
def test_seeds_are_a_list_a_number_or_a_number_for_each_step(write, seeds, labels):
    assert [seed.label for seed in load_matrix(write(with_line("seeds", f"seeds: {seeds}"))).seeds] == labels


def test_seeds_from_the_command_line_replace_the_matrixs(write):
    assert len(load_matrix(write(BASE), seeds=4).seeds) == 4
    assert [seed.tokenizer for seed in load_matrix("m.yaml", seeds=[3, 5]).seeds] == [3, 5]
    assert problems("m.yaml", seeds=0)[0].startswith("--seeds: seeds must be a number of seeds from 1")


def test_axes_multiply_within_their_own_part_in_a_stable_order(write):
    text = BASE.replace("{weight: [1.0e-4, 1e-2]}", "{mode: [soft, hard], widths: [[8], [8, 16]], weight: 2}")
    matrix = load_matrix(write(text))
    assert [row.label for row in matrix.regularizers][1:] == [
        "mx_pull[mode=soft,widths=8]",
        "mx_pull[mode=soft,widths=8x16]",
        "mx_pull[mode=hard,widths=8]",
        "mx_pull[mode=hard,widths=8x16]",
    ]
    assert matrix.regularizers[2].options == {"weight": 2.0, "widths": (8, 16), "mode": "soft"}
    assert len(matrix.tokenizers) == len(matrix.generators) == 1


def test_labels_that_look_like_booleans_or_numbers_stay_text(write):
    text = BASE.replace("  mx_none: {}", "  no: {use: mx_none}\n  on: {use: mx_none}\n  1: {use: mx_none}")
    assert [row.label for row in load_matrix(write(text)).regularizers][:3] == ["no", "on", "1"]


def test_optimizers_are_kept_as_given_with_their_groups(write):
    optimizer = (
        "{lr: 1e-3, betas: [0.9, 0.99], encoder: {lr: 1e-5}, critics: {fake: {clip: 1, schedule: cosine}}}"
    )
    matrix = load_matrix(write(BASE.replace("mx_none: {}", f"mx_none: {{optimizer: {optimizer}}}")))
    assert matrix.regularizers[0].optimizer == {
        "lr": 1e-3,
        "betas": (0.9, 0.99),
        "encoder": {"lr": 1e-5},
        "critics": {"fake": {"clip": 1.0, "schedule": "cosine"}},
    }


def test_a_profile_is_laid_over_the_matrix(write):
    profile = """\
profiles:
  smoke:
    budget: {batch: 2}
    samples: 5
    regularizers: {mx_none: {}}
  other: {threads: 2}
"""
    smoke = load_matrix(write(BASE + profile), profile="smoke")
    assert (smoke.budget.tokenizer_steps, smoke.budget.batch, smoke.samples) == (6, 2, 5)
    assert [row.label for row in smoke.regularizers] == ["mx_none"]
    assert smoke.threads == 1 and load_matrix("m.yaml", profile="other").threads == 2
    assert load_matrix("m.yaml") == load_matrix(write(BASE))


def test_several_profiles_are_laid_over_each_other_in_order(write):
    text = """\
profiles:
  small: {budget: {batch: 2, tokenizer_steps: 3}, samples: 5}
  short: {budget: {tokenizer_steps: 1}, samples: 4, threads: 2}
"""
    both, turned = (
        load_matrix(write(BASE + text), profile=p) for p in (["small", "short"], ["short", "small"])
    )
    assert (both.budget.batch, both.budget.tokenizer_steps, both.samples, both.threads) == (2, 1, 4, 2)
    assert (turned.budget.tokenizer_steps, turned.samples, turned.threads) == (3, 5, 2)
    wrong = problems(write(BASE + text.replace("samples: 4", "samples: x")), profile=["small", "short"])
    assert wrong[0].startswith("m.yaml:14:50: samples must be")
    found = problems("m.yaml", profile=["small", "shrt"])
    assert any("did you mean 'short'?" in problem for problem in found)


def test_problems_in_a_profile_point_into_it(write):
    profile = "profiles:\n  smoke:\n    budget: {batch: x}\n    regularizers: {mx_pul: {}}\n    sampels: 3\n"
    expected = [
        "m.yaml:14:21: batch must be an integer >= 1, not 'x'",
        "m.yaml:15:20: unknown regularizer 'mx_pul'; did you mean 'mx_pull'? (bench list regularizers)",
        "m.yaml:16:5: unknown key of a profile 'sampels'; did you mean 'samples'?",
    ]
    found = problems(write(BASE + profile), profile="smoke")
    assert found == expected
    # Parts of a profile that isn't chosen may be missing here; its keys are checked all the same.
    assert problems("m.yaml") == [expected[0], expected[2]]
    assert problems("m.yaml", profile="smok")[0] == "--profile: unknown profile 'smok'; did you mean 'smoke'?"


def test_skips_match_labels_labels_without_axes_and_parts(write):
    text = with_line("skip", "skip: [{regularizer: mx_pull, generator: 'mx_*', why: slow}]\n")
    matrix = load_matrix(write(text))
    [skip] = matrix.skip
    rows = (matrix.datasets[0], matrix.tokenizers[0])
    matched = [skip.matches(*rows, row, matrix.generators[0]) for row in matrix.regularizers]
    assert matched == [False, True, True] and skip.why == "slow" and matrix.warnings == ()
    either = Skip(why="", dataset="none|mx_data", regularizer="mx_none|mx_pull")
    assert all(either.matches(*rows, row, matrix.generators[0]) for row in matrix.regularizers)
    exact = Skip(why="", regularizer="mx_pull[weight=0.01]")
    assert [exact.matches(*rows, row, matrix.generators[0]) for row in matrix.regularizers] == [
        False,
        False,
        True,
    ]
    wild = Skip(why="", tokenizer="mx_tok*", regularizer="mx_pull[weight=0.0*]")
    assert wild.matches(*rows, matrix.regularizers[1], matrix.generators[0])


def test_a_skip_that_matches_nothing_is_a_warning(write):
    text = with_line("skip", "skip:\n  - {generator: mx_flwo, why: slow}\n")
    [warning] = load_matrix(write(text)).warnings
    assert str(warning) == "m.yaml:13:17: this skip matches nothing: no generator is called 'mx_flwo'"


def test_a_matrix_is_immutable_and_can_be_sent_to_workers(write):
    matrix = load_matrix(write(BASE))
    with pytest.raises(AttributeError):
        matrix.samples = 3
    assert pickle.loads(pickle.dumps(matrix)) == matrix


def test_the_resolved_matrix_is_a_matrix_with_the_same_rows(write):
    text = BASE.replace("mx_none: {}", "mx_none: {optimizer: {lr: 0.1, betas: [0.5, 0.9]}}")
    text = text.replace("seeds: [0]", "seeds: {tokenizer: 2, generator: [4, 3]}")
    text += "skip: [{generator: mx_flow, why: slow}]\nprofiles: {a: {samples: 3}}\n"
    matrix = load_matrix(write(text))
    plain = resolved(matrix)
    again = load_matrix(write(yaml.safe_dump(plain, sort_keys=False)))
    assert again == matrix
    assert resolved(again) == plain
    assert plain["regularizers"]["mx_pull[weight=0.01]"] == {
        "use": "mx_pull",
        "weight": 0.01,
        "widths": [8],
        "mode": "soft",
    }


def test_a_dataset_may_have_a_label_of_its_own_and_stand_twice_by_different_ones(write):
    two = "dataset: [{use: mx_data, label: fine, size: 16}, {use: mx_data, size: 8}]"
    matrix = load_matrix(write(with_line("dataset", two)))
    assert matrix.datasets == (
        MatrixRow("fine", "mx_data", {"size": 16}),
        MatrixRow("mx_data", "mx_data", {"size": 8}),
    )
    plain = resolved(matrix)
    assert load_matrix(write(yaml.safe_dump(plain, sort_keys=False))).datasets == matrix.datasets
    assert list(merge_rules.rows_of(plain, "dataset")) == [
        "fine",
        "mx_data",
    ] and merge.resolved(plain)


def test_a_dataset_s_label_is_in_cells_and_in_no_stage_s_key(tmp_path):
    text = """\
dataset: {use: digits}
seeds: [0]
budget: {tokenizer_steps: 2, generator_steps: 2, batch: 4}
features: effnet_lite0
tokenizers: {vit: {}}
regularizers: {none: {}, repa: {}}
generators: {gaussian: {}}
evaluators: [reconstruction, generation]
"""
    plain = planned(tmp_path, text)
    labelled = planned(tmp_path, text.replace("use: digits", "use: digits, label: scans"))
    assert labelled.stages.keys() == plain.stages.keys()
    assert {cell.dataset for cell in labelled.cells} == {"scans"}
    assert not {cell.key for cell in labelled.cells} & {cell.key for cell in plain.cells}


def test_what_only_building_finds_is_reported_at_the_row(write):
    row = load_matrix(write(BASE)).regularizers[1]
    assert str(problem_at_row(row, "width must divide by 4")) == "m.yaml:9:3: width must divide by 4"


MISTAKES = [
    line.split(" => ")
    for line in (Path(__file__).parent / "mistakes.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize(("line", "expected"), MISTAKES)
def test_each_mistake_is_named_at_its_place(write, line, expected):
    key = line.removeprefix("-").split(":")[0]
    messages = problems(write(with_line(key, "" if line.startswith("-") else line)))
    assert len(messages) == 1, messages
    assert messages[0].startswith(f"m.yaml:{expected}")


@pytest.mark.parametrize(
    "text", ["", "- a\n- b\n", "hello", "a: [1\n", "[" * 3000, b"\xff\xfe", b"\0\1\2"], ids=repr
)
def test_a_file_that_is_no_matrix_is_one_problem(write, text):
    assert len(problems(write(text))) == 1


def test_all_mistakes_come_at_once_in_order(write):
    text = """\
nmae: x
dataset: mx_dat
seeds: [x]
features: mx_features
tokenizers: {mx_tokens: {width: wide}, mx_tokens: {}}
regularizers: {mx_pull: {weight: [-1, 1], mode: medium, wieght: 3}}
generators: {mx_flow: {depth: 0, guidance: no, sampler: {steps: 0}}}
samples: 0
"""
    places = [re.match(r"m.yaml:(\d+:\d+): ", line)[1] for line in problems(write(text))]
    assert places == [
        *("1:1", "1:1", "2:10", "3:8", "5:33", "5:40", "6:35", "6:49", "6:57"),
        *("7:31", "7:44", "7:65", "8:10"),
    ]


def test_a_misspelt_section_is_not_also_missing(write):
    assert len(problems(write(BASE.replace("evaluators:", "evaluator:")))) == 1


def test_an_error_survives_the_way_from_a_worker(write):
    with pytest.raises(MatrixError) as caught:
        load_matrix(write("x: 1"))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("split", [True, False], ids=["axes of one part", "sections"])
def test_a_matrix_beyond_all_bounds_is_refused_at_once(write, split):
    thousand = f"[{', '.join(map(str, range(1000)))}]"
    if split:
        weights = f"{{weight: {thousand}, widths: [{', '.join(f'[{i}]' for i in range(1000))}]}}"
        text = BASE.replace("{weight: [1.0e-4, 1e-2]}", weights)
    else:
        text = BASE.replace("[1.0e-4, 1e-2]", thousand).replace("width: 32", f"width: {thousand}")
        text = text.replace("guidance: [1.0, 1.5]", f"depth: [{', '.join(map(str, range(1, 1001)))}]")
    started = time.monotonic()
    [problem] = problems(write(text))
    assert time.monotonic() - started < 5
    assert "too many cells: " in problem and problem.endswith("at most 100,000")


def test_a_plugin_in_the_matrix_is_found_beside_it(write, tmp_path):
    plugin = (
        "from latentbench.bench.api import Regularizer\nfrom latentbench.bench.registry import register\n"
    )
    (tmp_path / "mine.py").write_text(
        plugin + '@register("mx_mine")\nclass Mine(Regularizer):\n    """Mine."""\n'
    )
    text = BASE.replace("mx_none: {}", "mx_mine: {}") + "plugins: [mine.py]\n"
    matrix = load_matrix(write(text))
    assert matrix.regularizers[0].part == "mx_mine"
    assert matrix.plugins == ((tmp_path / "mine.py").resolve(),)
    assert resolved(matrix)["plugins"] == ["mine.py"]
    assert load_matrix(write(BASE), plugins=["mine.py"]).plugins == matrix.plugins


def test_a_plugin_that_raises_hides_only_itself_and_is_named_when_asked_for(write, tmp_path):
    plugin = (
        "from latentbench.bench.api import Regularizer\nfrom latentbench.bench.registry import register\n"
    )
    plugin += '@register("mx_bad")\nclass Bad(Regularizer):\n    """Bad."""\n1 / 0\n'
    (tmp_path / "bad.py").write_text(plugin)
    [warning] = load_matrix(write(BASE + "plugins: [bad.py]\n")).warnings
    assert str(warning).startswith("m.yaml:12:11: the plugin cannot be used: ")
    assert str(warning).endswith("bad.py:6: ZeroDivisionError: division by zero")
    registry._classes.pop(("regularizers", "mx_bad"), None)
    asked = problems(write(BASE.replace("mx_none: {}", "mx_bad: {}") + "plugins: [bad.py]\n"))
    assert asked[0].startswith("m.yaml:8:3: the regularizer 'mx_bad' cannot be used: ")
    assert len(asked) == 2


def test_a_missing_plugin_on_the_command_line_is_named(write):
    assert problems(write(BASE), plugins=["no.py"]) == ["--plugin no.py: no plugin file 'no.py'"]
