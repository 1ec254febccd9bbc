"""A sweep of guidance through the command line: each cell chooses on samples that aren't ranked."""

from collections import Counter

import pytest
import torch
import yaml
from helpers.run import TINY, bench_inline, fields_of

from latentbench.bench.api import from_uint8
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.metrics.frechet import frechet_distance
from latentbench.bench.plan.make import make_plan
from latentbench.bench.registry import create
from latentbench.bench.store.artifacts import Store

TRIED = (1.0, 2.0, 6.0)
SWEEP = "guidance: {sweep: [1.0, 2.0, 6.0], samples: 24}"
TEXT = (
    TINY.replace("  kl: {weight: 1.0e-3}\n", "")
    .replace("gaussian: {}", f"gaussian: {{{SWEEP}}}")
    .replace("guidance: [1.0, 1.5]", SWEEP)
    .replace("seeds: [0]", "seeds: [0, 1]")
    .replace("generation, density, cost", "generation")
    + "probes: {generator: [6], samples: 16}\n"
)


def run(folder, text, home):
    folder.mkdir(exist_ok=True)
    (folder / "matrix.yaml").write_text(text)
    done = bench_inline("run", "-m", "matrix.yaml", cwd=folder, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [fields_of(file) for file in (folder / "results/tiny/records").glob("*.json")]
    plan, store = make_plan(load_matrix(folder / "matrix.yaml")), Store(home)
    return {(r["cell"]["generator"], r["cell"]["seed"]): r for r in records}, plan, store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return (folder, *run(folder / "swept", TEXT, folder / "home"))


def parents(plan, cell, kind):
    """The stages of a kind behind the ranked scores of a cell."""
    return [plan.stages[id] for id in plan.ancestors([cell.scores["chosen"]]) if plan.stages[id].kind == kind]


def test_the_guidance_in_the_record_has_the_least_distance_of_the_sweep_s_samples(made):
    _, records, plan, store = made
    extractor = create("features", "effnet_lite0", resolution=32)
    for cell in (cell for cell in plan.cells if cell.generator == "lightningdit"):
        [guidance] = parents(plan, cell, "guidance")
        train, distances = store.get(plan.stages[guidance.parents["features"]]).tensors["pooled/train"], {}
        for stage in parents(plan, cell, "samples"):
            if stage.config["guidance"] != "chosen":
                images = store.get(stage).tensors["images"]
                assert len(images) == 24
                described = extractor.describe(from_uint8(images), ("pooled",))["pooled"]
                distances[stage.config["guidance"]] = frechet_distance(described, train)
        assert tuple(distances) == TRIED
        best = min(distances, key=distances.get)
        record = records["lightningdit", cell.seed]
        curve = record["curves"]["guidance"]
        assert curve["w"] == list(TRIED) and curve["samples"] == [24] * 3
        assert curve["gFD[effnet_lite0:32]"] == pytest.approx(list(distances.values()))
        assert curve["chosen"] == [int(w == best) for w in TRIED]
        assert {n.rpartition("@")[2] for n, m in record["metrics"].items() if m["scope"] == "generator"} == {
            f"{best:g}"
        }
        assert record["curves"]["quality"]["step"] == [6, 12]  # snapshots are sampled at the chosen one


def test_ranked_samples_are_other_draws_than_the_sweep_s_and_those_of_a_run_without_one(made):
    folder, records, plan, store = made
    cell = next(cell for cell in plan.cells if cell.generator == "lightningdit" and cell.seed == "0")
    drawn = {stage.config["guidance"]: store.get(stage) for stage in parents(plan, cell, "samples")}
    ranked = drawn.pop("chosen").tensors["images"]
    [guidance] = parents(plan, cell, "guidance")
    w = store.get(guidance).info["chosen"]
    assert len(ranked) == 64 and not torch.equal(ranked[:24], drawn[w].tensors["images"])
    text = TEXT.replace(SWEEP, f"guidance: {w:g}").replace("seeds: [0, 1]", "seeds: [0]")
    plainly, plain, _ = run(folder / "plain", text, folder / "home")
    [samples] = (
        stage
        for stage in plain.stages.values()
        if stage.kind == "samples" and stage.config["guidance"] == w and stage.config["samples"] == 64
        if "lightningdit" in stage.label
    )
    assert torch.equal(store.get(samples).tensors["images"], ranked)
    assert plainly["lightningdit", "0"]["metrics"] == records["lightningdit", "0"]["metrics"]


def test_a_generator_that_ignores_guidance_has_no_sweep(made):
    _, records, plan, _ = made
    record = records["gaussian", "0"]
    assert "guidance" not in record["curves"] and "gFD[effnet_lite0:32]@1" in record["metrics"]
    assert not [
        stage for stage in plan.stages.values() if stage.kind == "guidance" and "gaussian" in stage.label
    ]


def test_each_cell_has_one_samples_stage_of_full_size(made):
    _, _, plan, _ = made
    counts = Counter(s.config["samples"] for s in plan.stages.values() if s.kind == "samples")
    # Two seeds of two generators; three guidances and two snapshots of each seed of the guided one, and of
    # gaussian no snapshots, as it has no updates.
    assert counts == {64: 4, 24: 6, 16: 4}
    assert sum(stage.kind == "guidance" for stage in plan.stages.values()) == 2


def test_the_results_folder_says_how_guidance_was_chosen(made):
    results = made[0] / "swept" / "results" / "tiny"
    lock = yaml.safe_load((results / "matrix.lock.yaml").read_text())
    assert lock["generators"]["lightningdit"]["guidance"] == {"sweep": list(TRIED), "samples": 24}
    said = (results / "leaderboard.md").read_text()
    assert "the best of 1, 2, 6 by gFD[effnet_lite0:32] of 24 other samples" in said
    assert (results / "analysis" / "guidance_sweep.png").exists()
    assert (results / "samples" / "digits--vit--none--lightningdit@chosen.png").exists()
