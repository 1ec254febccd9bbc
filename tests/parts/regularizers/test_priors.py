"""Priors as stages, and regularizers that bring their own generator, through the command line."""

import json

import pytest
import torch
from helpers.run import bench, bench_inline, fields_of
from safetensors.torch import load_file

PLUGIN = '''\
"""A joint flow, a prior that is trained before, and a pull towards what it knows."""

from typing import Annotated

from torch import Tensor

from latentbench.bench.api import Flow, Generator, LatentSpec, Likelihood, Noise, Regularizer, Step
from latentbench.bench.registry import Use, register, use


@register("guided")
class Guided(Regularizer):
    """Has it all."""

    prior_options = frozenset({"prior"})

    def __init__(
        self, spec: LatentSpec, classes: int, reference_spec: LatentSpec, weight: float = 0.1,
        prior: Annotated[Use, Flow] = "velocity_mlp",
        joint: Annotated[Use, Likelihood] = {"use": "tarflow", "width": 16, "blocks": 2, "heads": 2},
    ) -> None:
        super().__init__(spec)
        self.weight = weight
        self.prior = use(Flow, prior, spec=spec, classes=0)
        self.joint = use(Likelihood, joint, spec=spec, classes=classes)

    def priors(self) -> dict[str, Generator]:
        return {"flow": self.prior}

    def generator(self) -> Generator:
        return self.joint

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        t = step.noise.uniform(z[:, 0, 0], "t")
        v = self.prior.velocity(z, t, None)
        return {"pull": self.weight * v.square().mean()} | self.joint.loss(z, step.labels, step.noise)
'''
MATRIX = """\
name: priors
dataset: {use: digits}
budget: {tokenizer_steps: 6, generator_steps: 5, prior_steps: 7, batch: 16}
features: {use: effnet_lite0, resolution: 32}
samples: 32
probes: {every: 4, images: 20}
tokenizers:
  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}
regularizers:
  none: {}
  guided: {weight: [0.1, 1.0], prior: {width: 8, depth: 1}, optimizer: {priors: {flow: {lr: 2.0e-3}}}}
  elsewhere: {use: guided, prior: {width: 8, depth: 1}, reference: gaussian}
generators:
  joint: {guidance: [1.0, 1.5]}
  tarflow: {init: joint, optimizer: {lr: 1.0e-30}}
  lightningdit: {init: joint}
evaluators: [reconstruction, density, cost, generation]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("priors")
    (folder / "matrix.yaml").write_text(MATRIX)
    (folder / "guided.py").write_text(PLUGIN)
    done = bench_inline("run", "--plugin", "guided.py", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def artifacts(folder, kind):
    return {
        file.parent.name: json.loads(file.read_text())
        for file in (folder / ".bench/artifacts" / kind).glob("*/stage.json")
    }


def tensors(folder, kind, key):
    return load_file(folder / ".bench/artifacts" / kind / key / "tensors.safetensors")


def records(folder):
    read = [fields_of(file) for file in (folder / "results/priors/records").glob("*.json")]
    return {(r["cell"]["regularizer"], r["cell"]["generator"]): r for r in read}


def test_a_prior_is_trained_once_for_all_strengths(made):
    assert len(artifacts(made, "tokenizer")) == 3  # two weights, another reference
    assert len(artifacts(made, "prior")) == 2  # per reference; the weight is not in its key


def test_a_tokenizer_holds_its_prior_unchanged(made):
    for key, stage in artifacts(made, "tokenizer").items():
        mine = tensors(made, "tokenizer", key)
        prior = tensors(made, "prior", stage["parents"]["prior/flow"])
        assert prior
        for name, tensor in prior.items():
            assert torch.equal(mine[name.replace("prior/", "regularizer/prior.", 1)], tensor)


def test_a_plan_lists_the_stages_that_a_run_leaves(made):
    plan = json.loads(bench_inline("plan", "--json", "--plugin", "guided.py", cwd=made).stdout)
    left = {path.name for path in (made / ".bench/artifacts").glob("*/*")}
    assert {stage["key"] for stage in plan["stages"]} == left and all(s["cached"] for s in plan["stages"])


def test_a_regularizers_own_generator_is_sampled_as_it_is_or_trained_on(made):
    found = records(made)
    for label in ("guided[weight=0.1]", "elsewhere"):
        assert found[label, "joint"]["status"] == "done"
        assert "gFD[effnet_lite0:32]@1.5" in found[label, "joint"]["metrics"]
        assert found[label, "tarflow"]["status"] == "done"
    # A network of another kind cannot start from it, and `none` has none.
    assert "is no lightningdit" in found["guided[weight=0.1]", "lightningdit"]["reason"]
    assert found["none", "joint"]["reason"] == "none has no generator of its own"


def test_what_joint_starts_from_is_the_regularizers_generator(made):
    stages = artifacts(made, "generator")
    assert len(stages) == 3 and all(stage["config"]["init"] == "joint" for stage in stages.values())
    for key, stage in stages.items():  # trained at no pace at all, it has stayed what it was
        mine = tensors(made, "generator", key)
        joint = tensors(made, "tokenizer", stage["parents"]["tokenizer"])
        for name, tensor in mine.items():
            assert torch.allclose(tensor, joint[name.replace("generator/", "regularizer/joint.", 1)])


def test_what_a_prior_cost_is_counted(made):
    cost = records(made)["elsewhere", "joint"]["cost"]
    assert cost["prior_seconds"] > 0 and cost["reference_seconds"] >= 0


def test_an_own_reference_is_scored_beside_the_matrixs(made):
    found = records(made)
    assert "kNN_NLL_own" in found["elsewhere", "joint"]["metrics"]
    assert "kNN_NLL_own" not in found["guided[weight=0.1]", "joint"]["metrics"]  # it uses the matrix's
    protocol = found["elsewhere", "joint"]["metrics"]["kNN_NLL_own"]["protocol"]["reference"]
    assert protocol["use"] == "gaussian"


def test_probes_are_kept_with_the_tokenizer(made):
    file = next((made / ".bench/artifacts/tokenizer").glob("*/tensors.safetensors"))
    found = load_file(file)
    assert found["probes/step"].tolist() == [0, 4, 6] and found["probes/z"].shape == (3, 20, 4, 4)


def test_another_networks_sampler_options_make_a_skipped_cell(made):
    text = MATRIX.replace("joint: {guidance: [1.0, 1.5]}", "joint: {sampler: {denoise: true, stps: 3}}")
    (made / "other.yaml").write_text(text)
    done = bench_inline("plan", "-m", "other.yaml", "--plugin", "guided.py", cwd=made)
    assert done.returncode == 0
    rows = "guided[weight=0.1], guided[weight=1], elsewhere · joint, 3 cells"
    assert f"{rows}: the generator of the regularizer: unknown option 'stps'" in done.stdout


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "prior: {width: 8, depth: 1}, reference",
            "prior: {use: mar}, reference",
            "12:41: prior must be the name",
        ),
        ("reference: gaussian", "reference: gausian", "did you mean 'gaussian'?"),
        (
            "lightningdit: {init: joint}",
            "lightningdit: {init: jont}",
            "init must be 'fresh' or 'joint', not 'jont'",
        ),
        ("joint: {guidance: [1.0, 1.5]}", "joint: {width: 3}", "unknown option of `use: joint` 'width'"),
        (
            "priors: {flow: {lr: 2.0e-3}}",
            "priors: {flwo: {lr: 2.0e-3}}",
            "unknown name in optimizer.priors 'flwo'; did you mean 'flow'?",
        ),
        (
            "lightningdit: {init: joint}",
            "tarflow2: {use: tarflow, init: joint, width: 8}",
            "it takes no options",
        ),
        (
            "reference: gaussian",
            "reference: {use: latents, regularizer: mmd}",
            "bad.yaml:12:57: a reference cannot be made by mmd, which needs one itself",
        ),
        ("priors: {flow: {lr: 2.0e-3}}", "priors: {flow: {rl: 2.0e-3}}", "unknown option 'rl'"),
    ],
)
def test_mistakes_about_them_are_named_at_their_line(made, old, new, message):
    (made / "bad.yaml").write_text(MATRIX.replace(old, new))
    refused = bench_inline("plan", "-m", "bad.yaml", "--plugin", "guided.py", cwd=made)
    assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr


def test_a_reference_of_a_methods_own_keeps_val_out_of_train(tmp_path):
    # It need not pass on what the frame noted on the reference that it was given.
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    scaled = "\n    def reference(self, reference):\n        from latentbench.bench.api import Reference\n"
    scaled += "        r = super().reference(reference)\n"
    scaled += "        return Reference(2 * r.samples, r.labels, r.grid)\n"
    (tmp_path / "guided.py").write_text(PLUGIN + scaled)
    asked = ("--filter", "regularizer=elsewhere,generator=tarflow")
    done = bench("run", "--plugin", "guided.py", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = records(tmp_path)["elsewhere", "tarflow"]["metrics"]
    plain, own = (metrics[f"kNN_NLL_real{suffix}"]["value"] for suffix in ("", "_own"))
    assert metrics["kNN_NLL_real_own"]["protocol"]["reference"]["use"] == "gaussian"
    assert plain != own and metrics["kNN_NLL_real_own"]["n"] == 360  # val alone
