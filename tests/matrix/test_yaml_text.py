"""YAML with places: what is read, what is refused, and where it stands."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentbench.bench.matrix.yaml_text import MatrixError, Problem, find, parse, read


def refused(text: str | bytes) -> list[str]:
    try:
        return [str(problem) for problem in parse(text, "m.yaml").problems]
    except MatrixError as error:
        return [str(problem) for problem in error.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("1.0e-4", 1e-4), ("1E5", 1e5), (".5", 0.5), ("-2", -2), ("3.0", 3.0), ("012", 12)),
        *(("1_000", 1000), (".inf", math.inf), ("~", None), ("null", None), ("", None), ("true", True)),
        *(("False", False), ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("'1e-3'", "1e-3")),
        *(("2020-01-01", "2020-01-01"), ("1:30", "1:30"), ("0x", "0x"), ("1.2.3", "1.2.3"), ("e3", "e3")),
        *(("[1e-3, 'a', no]", [1e-3, "a", "no"]), ("{b: 1e2}", {"b": 100.0}), ("'null'", "null")),
    ],
)
def test_values_are_what_an_experimenter_means(text, value):
    read = parse(f"a: {text}", "m.yaml").data["a"]
    assert read == value and type(read) is type(value)


def test_keys_stay_text():
    data = parse("no: 1\non: 2\n1: 3\nnull: 4\n1e-3: 5\n'true': 6\n", "m.yaml").data
    assert list(data) == ["no", "on", "1", "null", "1e-3", "true"]


def test_every_key_and_value_has_its_place():
    document = parse("a: 1\nb:\n  - x\n  - {c: [2,  3]}\nd:\n", "m.yaml")
    assert document.keys[("b",)] == (2, 1)
    assert document.values[("b", 0)] == (3, 5)
    assert document.keys[("b", 1, "c")] == (4, 6)
    assert document.values[("b", 1, "c", 1)] == (4, 14)
    assert document.values[("d",)] == (5, 1)  # nothing is written there: the key's place


def test_a_problem_below_a_known_place_stands_at_that_place():
    document = parse("a:\n  b: 1\n", "m.yaml")
    assert document.problem(("a", "b", "deeper", 3), "odd") == Problem("m.yaml", 2, 6, "odd")
    assert document.problem(("a", "b"), "odd", on_key=True) == Problem("m.yaml", 2, 3, "odd")
    assert document.problem(("z",), "odd") == Problem("m.yaml", 1, 1, "odd")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", "m.yaml:3:1: duplicate key 'a'; the first is at m.yaml:1:1"),
        ("x: {a: 1, a: 2}", "m.yaml:1:11: duplicate key 'a'; the first is at m.yaml:1:5"),
        ("a: &x 1", "m.yaml:1:4: the anchor &x is not supported; write the value out"),
        ("a: [*x, 1]", "m.yaml:1:5: the alias *x is not supported; write the value out"),
        ("<<: {a: 1}", "m.yaml:1:1: the merge key << is not supported; write the values out"),
        ("a: !!python/name:os.system x", "m.yaml:1:4: the tag !!python/name:os.system is not supported"),
        ("? [1]\n: 2", "m.yaml:1:3: a key is text, not a list or a mapping"),
        ("a: 1\n---\nb: 2", "m.yaml:2:1: a second document begins here; a matrix is one document"),
        ("", "m.yaml:1:1: a matrix is a mapping such as `dataset: {use: digits}`; this file is empty"),
        (
            "# nothing\n",
            "m.yaml:1:1: a matrix is a mapping such as `dataset: {use: digits}`; this file is empty",
        ),
        (
            "\n- a\n",
            "m.yaml:2:1: a matrix is a mapping such as `dataset: {use: digits}`; this file is a list",
        ),
        (
            "hello",
            "m.yaml:1:1: a matrix is a mapping such as `dataset: {use: digits}`; this file is a single",
        ),
        ("a: [1, 2\nb: }", "m.yaml:2:2: not YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a:\n\tb: 1", "m.yaml:2:1: not YAML: while scanning for the next token"),
        ("a: 1: 2", "m.yaml:1:5: not YAML: mapping values are not allowed here"),
        ('a: "\\UFFFFFFFF"', "m.yaml:1:7: not YAML"),
        ('a: "\\ud800"', "m.yaml:1:4: half of a surrogate pair is no text"),
        (b"a: 1\nb: \xff", "m.yaml:2:4: byte 0xff is not UTF-8; a matrix is a text file"),
        (b"\x89PNG\r\n\x1a\n\0", "m.yaml:1:1: byte 0x89 is not UTF-8; a matrix is a text file"),
        (b"PK\x03\x04", "m.yaml:1:3: the control character U+0003 does not belong in a text file"),
        ("a: 1\nb: \0", "m.yaml:2:4: the control character U+0000 does not belong in a text file"),
    ],
)
def test_what_a_matrix_may_not_contain_is_refused_at_its_place(text, expected):
    assert refused(text)[0].startswith(expected)


def test_a_byte_order_mark_is_no_character():
    assert parse("a: 1".encode("utf-8-sig"), "m.yaml").data == {"a": 1}


def test_all_refusals_come_at_once():
    text = "a: &x 1\nb: *x\nc: 1\nc: 2\n<<: {}\n"
    assert [line.split(":")[1] for line in refused(text)] == ["1", "2", "4", "5"]


@pytest.mark.parametrize(
    "text",
    ["a: " + "[" * 3000 + "]" * 3000, "[" * 1_000_000, "\n".join(" " * i + "a:" for i in range(3000))],
    ids=["closed", "open", "block"],
)
def test_deep_nesting_is_an_error_and_no_crash(text):
    started = time.monotonic()
    assert refused(text)[0].endswith("nested deeper than 20 levels")
    assert time.monotonic() - started < 5


def test_an_alias_bomb_does_not_grow():
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert len(refused("\n".join(lines))) == 12 + 110


@given(
    st.one_of(st.text(max_size=40), st.binary(max_size=40), st.text("{}[]:,-?&*!|>'\"#%@\n ab1", max_size=30))
)
def test_any_text_is_read_or_refused(text):
    refused(text)


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "matrix.yaml").write_text("a: 1")
    assert find(tmp_path / "matrix.yaml") == (tmp_path / "matrix.yaml").resolve()
    with pytest.raises(MatrixError, match="unknown matrix '.*matirx.yaml'; did you mean '.*/matrix.yaml'?"):
        find(tmp_path / "matirx.yaml")
    with pytest.raises(MatrixError, match="this is a folder"):
        find(tmp_path)
    with pytest.raises(MatrixError, match="unknown matrix"):
        find(tmp_path / "no" / "where.yaml")


def test_a_large_file_is_not_read(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"a" * (1 << 20) + b"a")
    with pytest.raises(MatrixError, match="1,048,577 bytes are no matrix"):
        read(tmp_path / "model.bin", "model.bin")
