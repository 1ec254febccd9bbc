"""Tokenizers that start from another row's, references of a row's latents, and budgets of rows."""

import json

import pytest
from helpers.run import TINY, bench_inline, results

from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.plan.make import make_plan

ROWS = TINY.replace(
    "  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}\n",
    """\
  first:
    use: vit
    width: 16
    depth: 1
    heads: 2
    patch: 4
    channels: 4
    optimizer: {lr: 2.0e-3}
    budget: {tokenizer_steps: 6, batch: 8}
  next: {use: vit, width: 16, depth: 1, heads: 2, patch: 4, channels: 4, start: first}
""",
).replace(
    "  kl: {weight: 1.0e-3}\n",
    """\
  kl: {weight: 1.0e-3}
  flow_prior:
    prior: {width: 16, depth: 1}
    reference: {use: latents, row: first, regularizer: none}
    budget: {prior_steps: 5, batch: 4}
""",
)


def planned(tmp_path, text):
    (tmp_path / "matrix.yaml").write_text(text)
    return make_plan(load_matrix(tmp_path / "matrix.yaml"))


def of(plan, kind, *words):
    return [s for s in plan.stages.values() if s.kind == kind and all(word in s.label for word in words)]


def test_a_row_starts_from_another_that_the_matrix_trains_anyway(tmp_path):
    plan = planned(tmp_path, ROWS)
    [first], [following] = of(plan, "tokenizer", "first · none"), of(plan, "tokenizer", "next · none")
    assert following.parents == {"start": first.id} and "start" not in first.parents
    [aligned] = of(plan, "tokenizer", "next · flow_prior")
    assert aligned.parents["start"] == first.id
    reference = plan.stages[aligned.parents["reference"]]
    assert reference.parents["tokenizer"] == first.id


def test_rows_have_budgets_of_their_own(tmp_path):
    plan = planned(tmp_path, ROWS)

    def spent(kind, *words):
        return {(s.config["steps"], s.config["batch"]) for s in of(plan, kind, *words)}

    assert spent("tokenizer", "first") == {(6, 8)} and spent("tokenizer", "next") == {(12, 16)}
    assert spent("prior") == {(5, 4)} and spent("generator") == {(12, 16)}
    own = planned(
        tmp_path, ROWS.replace("  gaussian: {}", "  gaussian: {budget: {generator_steps: 9, batch: 2}}")
    )
    assert {(s.config["steps"], s.config["batch"]) for s in of(own, "generator", "gaussian")} == {(9, 2)}


def test_a_start_needs_the_same_shapes(tmp_path):
    plan = planned(tmp_path, ROWS)
    skipped = {(c.tokenizer, c.regularizer): c.skipped for c in plan.cells}
    assert "is 8, and 4 there" in skipped["next", "kl"] and skipped["first", "kl"] is None


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("start: first", "start: frist", "did you mean 'first'?"),
        ("batch: 8}", "batch: 8}\n    start: next", "starts from another tokenizer itself"),
        ("tokenizer_steps: 6", "generator_steps: 6", "unknown budget of tokenizers 'generator_steps'"),
        ("tokenizer_steps: 6", "tokenizer_steps: -6", "tokenizer_steps must be an integer >= 0"),
        ("row: first", "row: frist", "did you mean 'first'?"),
    ],
)
def test_what_a_row_may_not_say_is_told(tmp_path, old, new, said):
    with pytest.raises(MatrixError) as refused:
        planned(tmp_path, ROWS.replace(old, new))
    assert said in str(refused.value)


def test_a_started_tokenizer_without_steps_is_the_one_it_started_from(tmp_path):
    text = ROWS.replace("start: first}", "start: first, budget: {tokenizer_steps: 0, batch: 8}}")
    (tmp_path / "matrix.yaml").write_text(text)
    done = bench_inline("run", "-k", "generator=gaussian", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for record in results(tmp_path / "results" / "tiny").values():
        found[record["cell"]["tokenizer"], record["cell"]["regularizer"]] = record
    values = [found[name, "none"]["metrics"]["PSNR_mean"]["value"] for name in ("first", "next")]
    assert values[0] == values[1]
    budgets = [
        json.loads(file.read_text())["provenance"]["budget"]
        for file in sorted((tmp_path / "results" / "tiny" / "records").glob("*flow_prior*"))
    ]
    assert {(b["tokenizer_steps"], b["prior_steps"], b["batch"], b["prior_batch"]) for b in budgets} == {
        (6, 5, 8, 4),
        (0, 5, 8, 4),
    }
    assert all(b["generator_batch"] == 16 for b in budgets)
    lock = tmp_path / "results" / "tiny" / "matrix.lock.yaml"
    plans = [make_plan(load_matrix(file)) for file in (lock, tmp_path / "matrix.yaml")]
    assert plans[0].stages.keys() == plans[1].stages.keys()
