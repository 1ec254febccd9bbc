"""Regularizers that stand on another one, in matrices: options, stages, costs, and runs."""

import pytest
import torch
from helpers.matrices import planned, problems, tiny_with
from helpers.run import bench_inline, results
from torch.utils.flop_counter import FlopCounterMode

from latentbench.bench.plan import estimate
from latentbench.bench.registry import create
from latentbench.bench.training.one_step import decoder_step

ROWS = "  none: {}\n  kl: {weight: 1.0e-3}\n"
VIT = "  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}\n"
PATCHES = VIT.replace("patch: 4", "patch: 2")  # a grid of 4 x 4


def stages(made, kind, row):
    return [stage for stage in made.stages.values() if stage.kind == kind and f" {row} " in f"{stage.label} "]


def trained(made):
    """The cells that are not left out, without that of real images."""
    return [cell for cell in made.cells if cell.skipped is None and cell.regularizer != "real"]


def with_rows(rows, tokenizers=VIT):
    return tiny_with(ROWS, rows).replace(VIT, tokenizers)


def test_the_two_ways_to_name_the_inner_regularizer_are_one_stage(tmp_path):
    rows = "  a: {use: eq, on: {kl: {weight: 1.0e-6}}}\n  b: {use: eq, on: {use: kl, weight: 1.0e-6}}\n"
    made = planned(tmp_path, with_rows(rows, PATCHES))
    (only,) = [stage for stage in made.stages.values() if stage.kind == "tokenizer"]
    assert only.config["regularizer"]["options"]["on"] == {"use": "kl", "weight": 1e-6}
    built = made.built[only.id]
    assert built.regularizer.encoder_outputs == 8 and built.tokenizer.encoder.head.out_features == 8


def test_values_of_the_inner_regularizer_are_an_axis(tmp_path):
    made = planned(tmp_path, with_rows("  masked: {on: [none, {kl: {weight: 0.1}}]}\n"))
    labels = sorted({cell.regularizer for cell in trained(made)})
    assert labels == ["masked[on=kl:weight:0.1]", "masked[on=none]"]


@pytest.mark.parametrize(
    "on, message",
    [
        ("{klo: {}}", "unknown regularizer 'klo'; did you mean 'kl'?"),
        ("{kl: {wait: 1}}", "unknown option 'wait'; did you mean 'weight'?"),
        ("{kl: {weight: -1}}", "weight must be a number >= 0, not -1"),
        ("{kl: 3}", "kl must be a mapping of options, not 3"),
        ("vit", "unknown regularizer 'vit'"),
    ],
)
def test_wrong_inner_regularizers_are_named_at_their_line(on, message, tmp_path):
    file = tmp_path / "matrix.yaml"
    file.write_text(with_rows(f"  none: {{}}\n  masked: {{on: {on}}}\n"))
    (problem,) = problems(file)
    assert message in problem and ":13:" in problem


def test_a_corruption_on_a_corruption_is_a_problem_of_its_row(tmp_path):
    from latentbench.bench.matrix.yaml_text import MatrixError

    with pytest.raises(MatrixError, match="on: masked itself changes what the decoder is given"):
        planned(tmp_path, with_rows("  none: {}\n  nested: {on: masked}\n"))


def test_priors_are_those_of_the_inner_regularizer_alone(tmp_path):
    rows = "  flow_prior: {}\n  denoising: {on: flow_prior, gamma: 0.5}\n"
    made = planned(tmp_path, with_rows(rows))
    priors = [stage for stage in made.stages.values() if stage.kind == "prior"]
    assert len(priors) == 1
    assert len([stage for stage in made.stages.values() if stage.kind == "tokenizer"]) == 2


def test_teachers_and_references_reach_the_inner_regularizer(tmp_path):
    plain = planned(tmp_path, with_rows("  none: {}\n  masked: {}\n"))
    made = planned(tmp_path, with_rows("  masked: {on: vf}\n  nested: {on: mmd}\n"))
    assert not any("teacher" in stage.parents for stage in plain.stages.values())
    (vf,), (mmd,) = (stages(made, "tokenizer", name) for name in ("masked", "nested"))
    assert "teacher" in vf.parents and "reference" in mmd.parents


def test_a_tokenizer_that_cannot_decode_other_grids_leaves_the_cell_out_with_the_reason(tmp_path):
    softvq = "  softvq: {model: test_vit, patch: 4, latents: 4}\n"
    made = planned(tmp_path, with_rows("  none: {}\n  scale_eq: {}\n  eq: {least: 1.0}\n", PATCHES + softvq))
    assert {(c.tokenizer, c.regularizer) for c in trained(made)} == {
        *(("vit", name) for name in ("none", "scale_eq", "eq")),
        ("softvq", "none"),
    }


def test_a_discriminator_bounds_how_small_images_become(tmp_path):
    text = with_rows("  none: {}\n  eq: {}\n", PATCHES)
    text = text.replace("reconstruction: {l1: 1.0}", "reconstruction: {l1: 1.0, gan: {layers: 1}}")
    made = planned(tmp_path, text)
    assert {cell.regularizer for cell in trained(made)} == {"none"}
    (reason,) = {cell.skipped for cell in made.cells if cell.skipped}
    assert reason == (
        "eq makes images as small as 0.25 of their sides: a discriminator of 1 layers takes images of "
        "6 pixels or more, not 2 x 2"
    )
    wider = planned(tmp_path, text.replace("eq: {}", "eq: {least: 0.75}"))
    assert {cell.regularizer for cell in trained(wider)} == {"none", "eq"}


def test_operations_are_those_of_the_expected_pixels(tmp_path):
    made = planned(tmp_path, with_rows("  none: {}\n  eq: {}\n  scale_eq: {}\n", PATCHES))
    costs = estimate.costs(made, made.stages.values())
    found = {name: costs[stages(made, "tokenizer", name)[0].id] for name in ("none", "eq", "scale_eq")}
    tokenizer = made.built[stages(made, "tokenizer", "none")[0].id].tokenizer
    real = create(
        "tokenizers",
        "vit",
        image=made.built[stages(made, "tokenizer", "none")[0].id].dataset.image,
        expansion=1,
        width=16,
        depth=1,
        heads=2,
        patch=2,
        channels=4,
    )
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math, FlopCounterMode(display=False) as counted:
        decoder_step(real, torch.zeros(1, tokenizer.spec.tokens, 4), None)
    decoding = counted.get_total_flops()
    for name, pixels in {"eq": 0.6458333, "scale_eq": 1.15625}.items():
        added = found[name].flops_per_image - found["none"].flops_per_image
        assert added == pytest.approx((pixels - 1) * decoding, rel=1e-4), name
    assert found["scale_eq"].activation_memory_bytes > found["none"].activation_memory_bytes
    assert found["eq"].activation_memory_bytes == found["none"].activation_memory_bytes


def test_a_matrix_of_corruptions_runs_to_its_tables(tmp_path):
    rows = "  none: {}\n  eq: {on: {kl: {weight: 1.0e-6}}}\n  masked: {on: {aae: {width: 8}}}\n  nested: {}\n"
    text = with_rows(rows, PATCHES).replace("density, cost", "cost, prefixes, equivariance")
    text = text.replace("budget: {", "budget: {refine_steps: 3, ").replace("guidance: [1.0, 1.5], ", "")
    (tmp_path / "matrix.yaml").write_text(text)
    run = bench_inline("run", "-o", "out", cwd=tmp_path, home=tmp_path / "home")
    assert run.returncode == 0, run.stderr
    table = (tmp_path / "out" / "leaderboard.csv").read_text()
    assert "failed" not in table and len(results(tmp_path / "out")) == 9
    assert all(name in table for name in ("PSNR_turned", "PSNR_half", "PSNR_prefix_25"))
