"""The Fashion-MNIST study: what its profiles compare, and that it runs."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from helpers.run import bench, fields_of

from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.plan.make import make_plan
from latentbench.bench.records.packed_folder import record_folder
from latentbench.bench.registry import create

CONTROLS = {"none", "fixed_variance"}  # without strengths of their own
FAMILIES = {"kl", "flow_prior", "dmvae", "simflow", "lzn", "repa"}
RESULTS = Path(__file__).resolve().parents[2] / "results/studies"


def records(folder):
    with record_folder(RESULTS / folder / "records") as files:
        found = [fields_of(file) for file in sorted(files.glob("*.json"))]
    return [record for record in found if record["cell"]["regularizer"] != "real"]


def test_the_evening_compares_eight_rows_by_four_generators_on_three_seeds():
    plan = make_plan(load_matrix("fashion-mnist", profile="evening"))
    cells = [cell for cell in plan.cells if cell.tokenizer != "real"]
    assert len(cells) == 96 and not any(cell.skipped for cell in cells)
    assert {cell.regularizer for cell in cells} == FAMILIES | CONTROLS
    assert {cell.generator for cell in cells} == {"gaussian", "lightningdit", "mar", "tarflow"}


def test_the_profile_for_a_gpu_has_the_evening_s_rows_at_ten_times_its_updates():
    evening, gpu = (load_matrix("fashion-mnist", profile=name) for name in ("evening", "gpu"))
    plan = make_plan(gpu, device="cuda")
    names = [{cell.name for cell in made.cells} for made in (make_plan(evening), plan)]
    assert names[0] == names[1] and not any(cell.skipped for cell in plan.cells)
    assert all(
        stage.config["env"]["device"] == "cuda" for stage in plan.stages.values() if "env" in stage.config
    )
    for kind in ("tokenizer", "generator"):
        for row in getattr(gpu, f"{kind}s"):
            budgets = [getattr(matrix.budget_of(row), f"{kind}_steps") for matrix in (evening, gpu)]
            assert budgets[1] == 10 * budgets[0]
    assert gpu.samples == evening.samples and gpu.seeds == evening.seeds


@pytest.mark.nightly
def test_the_profile_for_a_gpu_is_planned_for_half_an_hour_of_an_h100_at_three_hundredths_of_its_peak(
    tmp_path,
):
    asked = (
        "plan",
        "-m",
        "fashion-mnist",
        "--profile",
        "gpu",
        "--accelerator",
        "h100",
        "--utilisation",
        "0.03",
    )
    planned = bench(*asked, "--json", cwd=tmp_path, home=tmp_path / "home")
    assert planned.returncode == 0, planned.stderr
    assert 0.4 < json.loads(planned.stdout)["totals"]["shared"]["accelerator_hours"] < 0.5


def test_the_whole_has_two_tokenizers_of_one_latent_shape_and_short_axes():
    matrix = load_matrix("fashion-mnist")
    assert [row.part for row in matrix.tokenizers] == ["vit", "conv"] and matrix.samples == 10_000
    rows = Counter(row.part for row in matrix.regularizers)
    assert set(rows) == FAMILIES | CONTROLS and all(2 <= rows[one] <= 3 for one in FAMILIES)
    dataset = create("datasets", "fashion_mnist", root="nowhere", pad=2)
    shapes = {
        (made.spec.tokens, made.spec.channels)
        for row in matrix.tokenizers
        for made in [create("tokenizers", row.part, image=dataset.image, expansion=1, **row.options)]
    }
    assert shapes == {(16, 16)}


@pytest.mark.parametrize(
    "name, profile", [("matrix.yaml", None), ("fashion-mnist", None), ("fashion-mnist", "evening")]
)
def test_simflow_stands_beside_its_noise_without_its_flow(name, profile):
    matrix = load_matrix(RESULTS.parents[1] / name if name.endswith(".yaml") else name, profile=profile)
    sigmas = defaultdict(set)
    for row in matrix.regularizers:
        if row.part in ("simflow", "fixed_variance"):
            sigmas[row.part].add(row.options["sigma"])
    assert sigmas["simflow"] == sigmas["fixed_variance"] != set()


def test_committed_records_say_what_made_them():
    found = records("fashion-mnist")
    assert len(found) == 84
    for record in found:
        made, cost = record["provenance"], record["cost"]
        assert record["status"] == "done" and len(made["git_commit"]) == 40 and not made["git_dirty"]
        assert made["packages"]["torch"] and made["seed"] == record["cell"]["seed"]
        assert made["matrix"] == "fashion-mnist, profile evening" and made["samples"] == 5000
        assert cost["tokenizer_seconds"] > 0 and any(name.startswith("samples_seconds") for name in cost)
        for name, entry in record["metrics"].items():
            assert entry["n"] > 0 and entry["protocol"], name


@pytest.mark.nightly
@pytest.mark.parametrize("rows", ["none|kl", pytest.param(None, id="all")])
def test_the_smoke_profile_runs_from_end_to_end(rows, tmp_path):
    if create("datasets", "fashion_mnist").fingerprint() is None:
        pytest.skip("Fashion-MNIST isn't there: apt-get install dataset-fashion-mnist")
    asked = ["run", "-m", "fashion-mnist", "--profile", "smoke", "-j", "2"]
    asked += ["--filter", f"regularizer={rows}"] if rows else []
    done = bench(*asked, cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    made = [
        json.loads(file.read_text()) for file in tmp_path.glob("results/fashion-mnist-smoke/records/*.json")
    ]
    assert {record["status"] for record in made} == {"done"}
    assert {record["cell"]["tokenizer"] for record in made} >= {"vit", "conv"}
    assert {record["cell"]["regularizer"] for record in made} - {"real"} == (
        set(rows.split("|")) if rows else FAMILIES | {"none"}
    )
