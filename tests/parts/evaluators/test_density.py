import json
import math
import statistics

import pytest
import torch
from helpers.fake_subject import FakeSubject
from helpers.run import bench_inline

from latentbench.bench.api import LatentSpec, Reference, Regularizer
from latentbench.bench.metrics.bootstrap import REPLICATES, counts
from latentbench.bench.registry import create
from latentbench.evaluators.density import log_distances, neighbour_distances


class Halving(Regularizer):
    """A method with a space of its own."""

    def reference(self, reference):
        return Reference(reference.samples / 2)


def tokens(n, seed=0, width=3):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def subject(regularizer=Regularizer, **given):
    return FakeSubject(scope="tokenizer", regularizer=regularizer(LatentSpec(4, 3)), **given)


def latents(train, val):
    return {"train": train.reshape(-1, 4, 3), "val": val.reshape(-1, 4, 3)}


@pytest.mark.parametrize("k", [1, 5])
def test_distances_are_those_of_a_brute_force_loop(k):
    queries, bank = tokens(40), tokens(60, seed=1) + 100  # far from zero, where float32 is coarse
    queries = queries + 100
    expected = [sorted((query - b).norm().item() for b in bank.double())[k - 1] for query in queries.double()]
    assert neighbour_distances(queries, bank, k).tolist() == pytest.approx(expected)


def test_the_nll_has_the_slope_of_a_density():
    """Scaled by s, all distances grow by s; a Gaussian's bank of 2^C times the size has them halved."""
    queries, bank = tokens(500), tokens(32_000, seed=1)
    at = log_distances(queries, bank, 5, 0.0).mean()
    assert log_distances(queries * 3, bank * 3, 5, 0.0).mean() == pytest.approx(at + math.log(3))
    assert log_distances(queries, bank[:4000], 5, 0.0).mean() - at == pytest.approx(math.log(2), abs=0.05)


def test_latents_that_follow_the_reference_score_as_the_reference_does():
    scores = create("evaluators", "density").run(subject(train=300, val=200))
    assert scores["kNN_NLL"] == pytest.approx(scores["kNN_NLL_real"], abs=0.06)
    assert scores["kNN_NLL_reverse"] == pytest.approx(scores["kNN_NLL_real"], abs=0.06)


def test_collapsed_latents_score_well_one_way_and_badly_the_other():
    z = latents(tokens(240) * 0.01, tokens(80, seed=1) * 0.01)
    scores = create("evaluators", "density").run(subject(z=z))
    assert scores["kNN_NLL"] < scores["kNN_NLL_real"] < scores["kNN_NLL_reverse"]


def test_the_scale_is_that_of_latents_relative_to_the_reference():
    z = latents(tokens(240) * 0.03 + 5, tokens(80, seed=1) * 0.03 + 5)
    references = latents(tokens(240, seed=2) * 2, tokens(80, seed=3) * 2)
    scores = create("evaluators", "density").run(subject(z=z, references=references))
    expected = tokens(80, seed=1).std(0).square().mean() / tokens(80, seed=3).std(0).square().mean()
    assert scores["latent_scale"] == pytest.approx(0.03 / 2 * math.sqrt(expected), rel=1e-4)


def test_spread_out_latents_are_far_from_the_reference():
    z = latents(tokens(240) * 10, tokens(80, seed=1) * 10)
    scores = create("evaluators", "density").run(subject(z=z))
    assert scores["kNN_NLL"] > scores["kNN_NLL_real"] + 1


def test_duplicates_count_as_a_floor_and_keep_the_mean_finite():
    same = torch.ones(240, 3)
    references = latents(tokens(240), tokens(240)[:80])
    scores = create("evaluators", "density", k=1).run(
        subject(z=latents(same, same[:80]), references=references)
    )
    assert all(math.isfinite(value) for value in scores.values())
    spread = (tokens(240) - tokens(240).mean(0)).square().sum(1).mean().sqrt().item()
    assert scores["kNN_NLL_real"] == pytest.approx(math.log(1e-6 * spread), rel=1e-4)


def test_a_space_of_its_own_adds_values_in_it():
    plain, own = (create("evaluators", "density").run(subject(method)) for method in (Regularizer, Halving))
    assert set(plain) == {"kNN_NLL", "kNN_NLL_reverse", "kNN_NLL_real", "latent_scale"}
    assert set(own) == set(plain) | {f"{name}_own" for name in plain}
    assert {name: own[name] for name in plain} == plain
    assert own["latent_scale_own"] == pytest.approx(2 * own["latent_scale"])
    assert own["kNN_NLL_real_own"] == pytest.approx(plain["kNN_NLL_real"] - math.log(2), abs=1e-5)


def test_more_neighbours_than_the_bank_holds_are_refused():
    with pytest.raises(ValueError, match="k = 6 .* bank holds 5"):
        neighbour_distances(tokens(3), tokens(5), 6)


def test_the_draw_of_queries_and_banks_is_equal_stated_and_repeatable():
    evaluator = create("evaluators", "density", queries=50, bank=100)
    cell = subject()
    assert evaluator.run(cell) == evaluator.run(cell)
    protocols = [evaluator.protocol(name, cell) for name in ("kNN_NLL", "kNN_NLL_reverse", "kNN_NLL_real")]
    assert all((p["n"], p["bank"], p["k"]) == (50, 100, 5) for p in protocols)
    assert len({(p["queries_from"], p["bank_from"]) for p in protocols}) == 3


def test_banks_are_as_large_as_the_smaller_side():
    cell = subject(z=latents(tokens(120), tokens(40)))
    protocol = create("evaluators", "density").protocol("kNN_NLL", cell)
    assert (protocol["n"], protocol["bank"]) == (40, 120)


def test_replicates_are_means_over_resampled_images_by_a_loop():
    evaluator, cell = create("evaluators", "density", queries=50), subject()
    found = evaluator.run(cell)["kNN_NLL"]
    chosen = torch.randperm(80, generator=torch.Generator().manual_seed(0))[:50].tolist()
    queries, bank = cell.latents("val").flatten(0, 1), cell.reference("train").samples.flatten(0, 1)
    logs = neighbour_distances(queries[chosen], bank, 5).log().tolist()
    images = sorted({token // 4 for token in chosen})
    assert len(found.replicates) == REPLICATES and found == pytest.approx(sum(logs) / 50)
    for replicate, times in zip(found.replicates, counts("kNN_NLL", len(images)).tolist(), strict=True):
        times = [times[images.index(token // 4)] for token in chosen]
        expected = sum(n * log for n, log in zip(times, logs, strict=True)) / sum(times)
        assert replicate == pytest.approx(expected)


def test_tokens_that_agree_within_images_are_as_uncertain_as_images_are():
    """Every image's tokens are one token four times: n tokens know no more than n / 4."""
    single = torch.randn(300, 1, 3, generator=torch.Generator().manual_seed(0))
    cell = subject(z={"train": single, "val": single.expand(-1, 4, -1)}, train=600, val=300)
    estimate = create("evaluators", "density", queries=1200).run(cell)["kNN_NLL"]
    logs = neighbour_distances(single[:, 0], cell.reference("train").samples[:75].flatten(0, 1), 5).log()
    assert statistics.stdev(estimate.replicates) == pytest.approx(logs.std().item() / 300**0.5, rel=0.25)


class Squares(Regularizer):
    """A loss that falls towards the origin, with zero-mean noise."""

    def loss(self, z, h, step):
        return {"squares": 0.1 * (z + 0.1 * step.noise.normal(z, "noise")).square().mean()}


def followed(regularizer, scales, **options):
    """The scores of a training whose probes are standard normal latents times each of the scales."""
    cell, start = subject(regularizer, **options), tokens(240, seed=3).reshape(-1, 4, 3)
    probes = torch.stack([start * scale for scale in scales])
    cell.trajectory = lambda: (10 * torch.arange(len(scales)), probes)
    evaluator = create("evaluators", "density")
    return evaluator, cell, evaluator.run(cell)


def test_latents_are_followed_along_training_beside_a_loss_that_foretells_them():
    scales = [8.0, 6.0, 4.0, 3.0, 2.0]
    evaluator, cell, scores = followed(Squares, scales)
    bank, at = cell.reference("train", own=True).samples.flatten(0, 1), {}
    for scale in (8.0, 2.0):
        at[scale] = neighbour_distances(tokens(240, seed=3) * scale, bank, 5).log().mean().item()
    assert scores["kNN_NLL_change"] == pytest.approx(at[2.0] - at[8.0], abs=1e-6) and at[2.0] < at[8.0]
    assert scores["kNN_NLL_correlation_training"] > 0.9
    protocol = evaluator.protocol("kNN_NLL_change", cell)
    assert (protocol["n"], protocol["queries"], protocol["k"]) == (5, 240, 5)
    assert "loss" in evaluator.protocol("kNN_NLL_correlation_training", cell)
    (figure,) = evaluator.figures(cell).values()
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(at[8.0])
    losses = figure.axes[1].lines[0].get_ydata()
    expected = [0.1 * (tokens(240, seed=3) * scale).square().mean().item() + 0.001 for scale in scales]
    assert losses == pytest.approx(expected, rel=0.05)


def test_latents_without_a_loss_have_a_change_and_no_correlation():
    _, cell, scores = followed(Regularizer, [1.0, 2.0, 4.0])
    assert scores["kNN_NLL_change"] > 0.5 and "kNN_NLL_correlation_training" not in scores
    assert len(create("evaluators", "density").figures(cell)["density"].axes) == 1


def test_the_change_is_measured_in_the_row_s_own_space():
    (_, _, own), (_, _, plain) = (followed(method, [4.0, 2.0]) for method in (Halving, Regularizer))
    assert own["kNN_NLL_change"] != pytest.approx(plain["kNN_NLL_change"], abs=0.01)


def test_without_probes_nothing_is_followed():
    evaluator, cell = create("evaluators", "density"), subject(Squares)
    assert set(evaluator.run(cell)) == {"kNN_NLL", "kNN_NLL_reverse", "kNN_NLL_real", "latent_scale"}
    assert evaluator.figures(cell) == {}


def test_a_matrix_with_probes_has_the_curves_of_flow_priors(tmp_path):
    (tmp_path / "matrix.yaml").write_text("""\
name: curves
dataset: {use: shapes, size: 8, count: {train: 64, val: 32}}
budget: {tokenizer_steps: 15, generator_steps: 1, prior_steps: 15, batch: 16}
probes: {every: 5, images: 32}
features: {use: timm, model: test_vit.r160_in1k, weights: random, resolution: 32}
reference: {use: teacher}
reconstruction: {l1: 1.0}
tokenizers: {vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}}
regularizers: {none: {}, flow_prior: {prior: {width: 16, depth: 1}}}
generators: {none: {}}
evaluators: [density]
""")
    done = bench_inline("run", "-o", "out", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(file.read_text()) for file in (tmp_path / "out/records").glob("*.json")]
    found = {r["cell"]["regularizer"]: set(r["metrics"]) for r in records if "kNN_NLL" in r["metrics"]}
    assert all("kNN_NLL_change" in metrics for metrics in found.values()) and len(found) == 2
    assert "kNN_NLL_correlation_training" in found["flow_prior"] - found["none"]
    assert len(list((tmp_path / "out/figures").glob("*--density.png"))) == 2
