"""Whatever a matrix is made of, it is a list of cells, or errors at their places, and never a traceback."""

import copy

import pytest
import yaml
from helpers.run import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from latentbench.bench import registry
from latentbench.bench.cli import app
from latentbench.bench.matrix.keys import KEYS
from latentbench.bench.matrix.load import load_matrix, resolved
from latentbench.bench.matrix.matrix import Matrix
from latentbench.bench.matrix.parts import FRAME
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.plan.make import make_plan

PARTS = [name for kind in registry.FOLDERS for name in registry.names(kind)]
OPTIONS = ["weight", "depth", "width", "patch", "channels", "steps", "head", "every", "lr", "why", "*"]
WORDS = [*KEYS, *PARTS, *OPTIONS, *sum(FRAME.values(), ()), "real", "../x", "", "a|b", "[x]", "\0", "é"]
NUMBERS = [
    0,
    1,
    -1,
    2,
    4,
    7,
    64,
    2**31,
    2**63,
    10**30,
    0.0,
    1e-3,
    1.5,
    -2.5,
    1e308,
    float("inf"),
    float("nan"),
]

scalars = st.one_of(
    st.sampled_from(WORDS), st.sampled_from(NUMBERS), st.none(), st.booleans(), st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | scalars, inner, max_size=3)
    ),
    max_leaves=8,
)
tries = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "matrix.yaml"


def read(file, text):
    """The matrix, or None after a look at its errors: a sentence each, at a place in the file."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
    try:
        found = load_matrix(file)
    except MatrixError as error:
        return listed(error, file)
    assert isinstance(found, Matrix) and found.seeds and found.tokenizers
    return found


def planned(file, matrix):
    """The cells: each pairing of rows, and the row of real images."""
    try:
        made = make_plan(matrix)
    except MatrixError as error:
        return listed(error, file)
    pairs = len(matrix.datasets) * len(matrix.tokenizers) * len(matrix.regularizers) * len(matrix.generators)
    real = [cell for cell in made.cells if cell.tokenizer == "real"]
    assert len(made.cells) == pairs * len(matrix.seeds) + len(real)
    assert all(cell.skipped or set(cell.scores.values()) <= made.stages.keys() for cell in made.cells)
    return made


def listed(error, file):
    lines = len(file.read_bytes().splitlines()) + 1
    assert error.problems
    for problem in error.problems:
        assert problem.message and "\n" not in problem.message and "Traceback" not in problem.message
        assert problem.file == str(file) or problem.file == file.name
        assert 0 <= problem.line <= lines and problem.column >= 0
        assert problem.line > 0 or len(error.problems) == 1  # of the file as a whole


def paths(value, path=()):
    """The ways to all values within a value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from paths(item, (*path, key))


@st.composite
def mutated(draw):
    """A valid matrix with up to three values replaced, removed, renamed, added or made a list of."""
    tree = yaml.safe_load(TINY)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([path for path in paths(tree) if path]))
        holder = tree
        for key in way:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "remove", "rename", "add", "list"])):
            case "replace":
                holder[last] = draw(values)
            case "remove":
                del holder[last]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(WORDS))] = holder.pop(last)
            case "add" if isinstance(holder, dict):
                holder[draw(st.sampled_from(WORDS))] = draw(values)
            case _:
                holder[last] = [copy.deepcopy(holder[last]), draw(values)]
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


@st.composite
def scratched(draw):
    """The text of a valid matrix with some pieces cut out, doubled or overwritten."""
    text = TINY
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 20)))
        piece = draw(
            st.sampled_from(["", text[start:end] * 2, "\t", "&a ", "*a", "<<: ", "!!set ", "{", "]: "])
        )
        text = text[:start] + piece + text[end:]
    return text


@settings(tries, max_examples=150)
@given(text=st.one_of(st.text(max_size=60), st.binary(max_size=60), values.map(yaml.safe_dump)))
def test_any_yaml_is_a_matrix_or_a_list_of_errors(text, file):
    read(file, text)


@settings(tries, max_examples=80)
@given(text=st.one_of(mutated(), scratched()))
def test_a_matrix_that_was_tampered_with_has_cells_or_a_list_of_errors(text, file):
    matrix = read(file, text)
    if matrix is not None:
        planned(file, matrix)


@settings(tries, max_examples=30)
@given(text=mutated())
def test_what_a_matrix_resolves_to_is_the_same_matrix(text, file):
    matrix = read(file, text)
    if matrix is None:
        return
    again = read(file, yaml.safe_dump(resolved(matrix), allow_unicode=True, sort_keys=False))
    assert again is not None
    for kind in ("datasets", "tokenizers", "regularizers", "generators", "seeds", "skip", "reconstruction"):
        assert getattr(again, kind) == getattr(matrix, kind)


def test_seeds_for_each_step_keep_their_labels_where_all_are_equal(file):
    matrix = read(file, TINY.replace("seeds: [0]", "seeds: {tokenizer: [3], generator: [3], sampling: [3]}"))
    again = read(file, yaml.safe_dump(resolved(matrix)))
    assert [seed.label for seed in again.seeds] == [seed.label for seed in matrix.seeds] == ["3.3.3"]


@settings(tries, max_examples=12)
@given(text=st.one_of(mutated(), scratched(), values.map(yaml.safe_dump)))
def test_the_command_ends_with_a_plan_or_with_exit_code_2_and_writes_nothing(text, file):
    file.write_text(text)
    result = CliRunner().invoke(app, ["plan", "--matrix", str(file)])
    assert result.exit_code in (0, 2), result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert [path.name for path in file.parent.iterdir()] == ["matrix.yaml"]
