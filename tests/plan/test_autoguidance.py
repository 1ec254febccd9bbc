"""Samples guided by another generator of the matrix, or by a row's own earlier weights."""

import pytest
import torch
import yaml
from helpers.matrices import problems
from helpers.run import bench_inline

from latentbench.bench.api import Noise
from latentbench.bench.matrix.load import load_matrix, resolved
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.nn.flow_transformer import FlowTransformer
from latentbench.bench.plan.estimate import costs
from latentbench.bench.plan.make import make_plan
from latentbench.bench.stages.trained_cell import TrainedCell
from latentbench.bench.store.artifacts import Store

MATRIX = """\
name: guided
dataset: {use: digits}
budget: {tokenizer_steps: 2, generator_steps: 6, batch: 16}
features: {use: effnet_lite0, resolution: 32}
samples: 16
tokenizers: {vit: {width: 16, depth: 1, channels: 4}}
regularizers: {none: {}}
generators:
  plain: {use: lightningdit, width: 16, depth: 1, heads: 2, sampler: {steps: 2}}
  earlier:
    {use: lightningdit, width: 16, depth: 1, heads: 2, guidance: [1.0, 1.5], sampler: {steps: 2},
     autoguidance: {snapshot: 2}}
  smaller:
    {use: lightningdit, width: 16, depth: 1, heads: 2, guidance: 1.5, sampler: {steps: 2},
     autoguidance: {row: small, snapshot: 3}}
  small: {use: sit, width: 8, depth: 1, heads: 2, sampler: {steps: 2}}
evaluators: [generation, cost]
"""
GUIDED = "{use: lightningdit, width: 16, depth: 1, heads: 2, guidance: 1.5, sampler: {steps: 2},"


def planned(folder, text=MATRIX):
    (folder / "m.yaml").write_text(text)
    return make_plan(load_matrix(folder / "m.yaml"))


def stage_of(plan, kind, generator):
    [stage] = {
        stage.id: stage
        for cell in plan.cells
        if cell.generator == generator
        for stage in plan.needed([cell])
        if stage.kind == kind and f" {generator} " in f"{stage.label} "
    }.values() or [None]
    return stage


def test_rows_that_are_trained_alike_share_one_training_with_the_snapshots_of_all(tmp_path):
    plan = planned(tmp_path)
    trainings = [stage for stage in plan.stages.values() if stage.kind == "generator"]
    assert [stage.config.get("snapshots") for stage in trainings] == [[2], [3]]
    bare = planned(tmp_path, MATRIX.replace(",\n     autoguidance: {snapshot: 2}", ""))
    assert "snapshots" not in [s for s in bare.stages.values() if s.kind == "generator"][0].config


def test_only_probes_are_scored_along_the_training(tmp_path):
    scores = {name for cell in planned(tmp_path).cells for name in cell.scores}
    assert not any(name.startswith("step=") for name in scores)
    probed = planned(tmp_path, MATRIX + "probes: {generator: [4], samples: 8}\n")
    names = {name for cell in probed.cells for name in cell.scores if name.startswith("step=")}
    assert names == {"step=4", "step=6"}


def test_the_worse_models_stage_is_a_parent_of_the_samples_and_its_cost_counts(tmp_path):
    plan = planned(tmp_path)
    samples = [stage for stage in plan.stages.values() if stage.kind == "samples"]
    guided = {stage.label.split(" · ")[2]: stage for stage in samples if "autoguidance" in stage.config}
    assert set(guided) == {"earlier", "smaller"}
    assert "generator/weak" not in guided["earlier"].parents
    weak = plan.stages[guided["smaller"].parents["generator/weak"]]
    assert weak.config["generator"]["name"] == "sit"
    estimated = costs(plan, samples)
    flops = {stage.label: estimated[stage.id].flops_per_image for stage in samples}
    # Of two models, or of one at two sets of weights, either is evaluated once a step.
    once, twice = (flops[f"vit · none · earlier · seed 0.0.0 · guidance {w}"] for w in ("1", "1.5"))
    plain, small = (flops[f"vit · none · {name} · seed 0.0.0 · guidance 1"] for name in ("plain", "small"))
    assert once == plain
    decoding = plain - (twice - once)
    smaller = flops["vit · none · smaller · seed 0.0.0 · guidance 1.5"]
    assert smaller == pytest.approx(plain + small - decoding, rel=1e-6)


def test_the_lock_has_autoguidance_and_is_read_back(tmp_path):
    (tmp_path / "m.yaml").write_text(MATRIX)
    matrix = load_matrix(tmp_path / "m.yaml")
    lock = resolved(matrix)
    assert lock["generators"]["earlier"]["autoguidance"] == {"snapshot": 2}
    (tmp_path / "lock.yaml").write_text(yaml.safe_dump(lock, sort_keys=False))
    assert load_matrix(tmp_path / "lock.yaml").generators == matrix.generators


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{row: smal}", "unknown generator of this matrix 'smal'; did you mean 'small'?"),
        ("{row: earlier}", "'earlier' is no worse than itself; a `snapshot` is its earlier weights"),
        ("{}", "autoguidance needs a `row`, another generator's label, or a `snapshot`, or both"),
        ("{snapshot: 0}", "snapshot must be"),
        ("{rows: small}", "unknown option 'rows'; did you mean 'row'?"),
        ("small", "autoguidance must be a mapping such as"),
    ],
)
def test_a_matrix_names_what_is_wrong_at_its_line(written, said, tmp_path):
    (tmp_path / "m.yaml").write_text(
        MATRIX.replace("autoguidance: {snapshot: 2}", f"autoguidance: {written}")
    )
    (problem,) = problems(tmp_path / "m.yaml")
    assert "m.yaml:12:" in problem and said in problem


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "{snapshot: 2}",
            "{row: plain}",
            "plain is trained like earlier, so that guidance by it changes nothing",
        ),
        ("{snapshot: 2}", "{snapshot: 6}", "earlier is trained like earlier"),
        (
            "width: 16, depth: 1, heads: 2, guidance: [1.0, 1.5], sampler: {steps: 2},\n"
            "     autoguidance: {snapshot: 2}",
            'width: [8, 16], depth: 1, heads: 2, guidance: 1.5, autoguidance: {row: "earlier[width=8]"}',
            "earlier[width=8] is trained like earlier[width=8]",
        ),
        ("{snapshot: 2}", "{snapshot: 9}", "earlier has 6 updates: there is no snapshot after 9"),
        (
            "small: {use: sit, ",
            "small: {use: gaussian} # ",
            "small has no velocity by which smaller could be",
        ),
        ("small: {use: sit, ", "small: {use: none} # ", "small has no velocity by which smaller could be"),
        (GUIDED, "{use: tarflow, guidance: 1.5,", "tarflow cannot be guided by another model"),
    ],
)
def test_a_row_that_cannot_be_guided_is_skipped_with_its_reason(old, new, said, tmp_path):
    plan = planned(tmp_path, MATRIX.replace(old, new, 1))
    assert any(cell.skipped and said in cell.skipped for cell in plan.cells)


def test_samples_are_those_of_the_model_guided_by_the_worse_ones_weights(tmp_path):
    (tmp_path / "m.yaml").write_text(MATRIX)
    done = bench_inline("run", "-m", "m.yaml", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = make_plan(load_matrix(tmp_path / "m.yaml"), fetch=True)
    store = Store(next((tmp_path).rglob("artifacts")).parent)
    samples = {s.label: s for s in plan.stages.values() if s.kind == "samples"}

    def images(name, w):
        return store.get(samples[f"vit · none · {name} · seed 0.0.0 · guidance {w}"]).tensors["images"]

    assert torch.equal(images("earlier", "1"), images("plain", "1"))
    stage = samples["vit · none · smaller · seed 0.0.0 · guidance 1.5"]
    cell = TrainedCell({role: store.get(plan.stages[id]) for role, id in stage.parents.items()}, "cpu")
    weak = cell.trained_generator("generator/weak", 3)
    model = cell.generator
    assert isinstance(model, FlowTransformer)
    labels, noise = store.get(stage).tensors["labels"], Noise(stage.config["seed"], ("samples",)).fork(0)
    x = noise.normal(torch.empty(16, 16, 4), "noise")
    with torch.no_grad():
        for t in (0.0, 0.5):
            at = torch.full((16,), t)
            v, other = model.velocity(x, at, labels), weak.velocity(x, at, labels)
            x = x + 0.5 * (other + 1.5 * (v - other))
        expected = cell.tokenizer.decode(cell.normalisation.inverse(x)).clamp(-1, 1)
    assert (images("smaller", "1.5") / 127.5 - 1 - expected).abs().max() < 0.01


def test_one_label_can_be_guided_where_there_are_no_classes(tmp_path):
    text = MATRIX.replace("{use: digits}", "{use: shapes, size: 8, count: {train: 32, val: 16}}")
    plan = planned(tmp_path, text.replace("[1.0, 1.5]", "{sweep: [1.0, 1.5]}"))
    assert any(stage.kind == "guidance" for stage in plan.stages.values())
    with pytest.raises(MatrixError):
        planned(tmp_path, text.replace("snapshot: 2", "snapshot: two"))
