"""Cells whose parts don't fit each other: a line for each reason, however many rows have it."""

from pathlib import Path

from helpers.run import bench_inline

from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.plan.make import make_plan
from latentbench.bench.plan.plan import skipped_lines

DIGITS = Path(__file__).parents[2] / "matrix.yaml"


def test_rows_with_one_reason_are_one_line_and_another_reason_is_not_lost_among_them(tmp_path):
    plan = make_plan(load_matrix(DIGITS))
    common, other = skipped_lines(plan.cells)
    assert common.startswith("skipped: vit · none, kl, flow_prior and 3 more · joint, 18 cells: ")
    assert common.endswith(": the regularizer has no generator of its own")
    assert other.startswith("skipped: vit · lzn · joint, 3 cells: the generator of lzn is no sampler")
    planned = bench_inline("plan", "-m", DIGITS, cwd=tmp_path, home=tmp_path / "home")
    assert {common, other} <= set(planned.stdout.splitlines())


def test_a_reason_of_one_row_keeps_its_name_and_cells_that_are_made_have_no_line():
    cells = [cell for cell in make_plan(load_matrix(DIGITS)).cells if cell.regularizer in ("kl", "simflow")]
    [line] = skipped_lines(cells)
    assert line == "skipped: vit · kl · joint, 3 cells: kl has no generator of its own"
