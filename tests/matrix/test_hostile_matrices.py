"""Seven hundred odd matrices: each is planned, or refused by problems with a place."""

import pytest
from helpers.run import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as draw

from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.plan.make import make_plan

ODD = [
    "null",
    "~",
    "true",
    "-1",
    "0",
    "1e999",
    ".nan",
    "-.inf",
    "99999999999999999999",
    "0x10",
    "1_000",
    "12:30:45",
    "2026-11-29",
    "''",
    "' '",
    "a: b",
    "[]",
    "{}",
    "[[]]",
    "{use: vit}",
    "{use: {}}",
    "[1, [2]]",
    "!!python/object/apply:os.system ['true']",
    "&a [*a]",
    "*a",
    "<<: {}",
    "é",
    "\u202e",
    "../../etc/passwd",
    "NA",
    "nan",
    "null value",
    "=cmd()",
    "<script>",
    "a" * 300,
    "{weight: [1, 1]}",
    "{weight: [1, x]}",
    "{lr: -1}",
    "|\n  text",
]
LINES = TINY.splitlines(keepends=True)
place = draw.integers(0, len(LINES) - 1)
edits = draw.lists(
    draw.one_of(
        draw.tuples(draw.just("value"), place, draw.sampled_from(ODD)),
        draw.tuples(draw.just("drop"), place, draw.just("")),
        draw.tuples(draw.just("twice"), place, draw.just("")),
        draw.tuples(draw.just("indent"), place, draw.sampled_from(["  ", "\t", "    "])),
        draw.tuples(draw.just("cut"), place, draw.just("")),
        draw.tuples(draw.just("insert"), place, draw.text(max_size=12)),
    ),
    min_size=1,
    max_size=3,
)


def edited(changes):
    lines = list(LINES)
    for kind, number, text in changes:
        line = lines[number]
        if kind == "value":
            lines[number] = f"{line.partition(':')[0]}: {text}\n"
        elif kind == "indent":
            lines[number] = text + line
        elif kind == "cut":
            lines[number] = line[: len(line) // 2]
        elif kind == "insert":
            lines[number] = line[:3] + text + line[3:]
        else:
            lines[number] = {"drop": "", "twice": line + line}[kind]
    return "".join(lines)


@pytest.mark.nightly
def test_odd_matrices_are_planned_or_refused_with_a_place(tmp_path):
    outcomes = {"planned": 0, "refused": 0}

    @settings(max_examples=700, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(edits)
    def check(changes):
        file = tmp_path / "m.yaml"
        file.write_text(edited(changes), encoding="utf-8", errors="surrogatepass")
        try:
            plan = make_plan(load_matrix(file))
        except MatrixError as error:
            assert error.problems and all(problem.message for problem in error.problems)
            outcomes["refused"] += 1
            return
        assert all(cell.skipped is None or cell.skipped for cell in plan.cells)
        outcomes["planned"] += 1

    check()
    assert min(outcomes.values()) > 30, outcomes
