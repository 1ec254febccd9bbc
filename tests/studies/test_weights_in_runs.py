"""Feature networks through the command line: random weights, missing ones, and a plugin that lies."""

import json

import pytest
from helpers.run import bench_inline

from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.plan.make import NetworkNeeded, make_plan

MATRIX = """\
name: tiny
plugins: [plugin.py]
dataset: {use: few}
features: FEATURES
seeds: [0]
budget: {tokenizer_steps: 4, generator_steps: 4, batch: 8}
reconstruction: {l1: 1.0}
samples: 12
tokenizers:
  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}
regularizers: {none: {}}
generators: {gaussian: {}}
evaluators: [EVALUATORS]
"""
PLUGIN = '''
import torch

from latentbench.bench.api import Dataset, Evaluator, ImageSpec, Metric
from latentbench.bench.registry import register


@register("few")
class Few(Dataset):
    """A few pictures of noise."""

    image, classes = ImageSpec(1, 8, 8), 0

    def fingerprint(self):
        return "0" * 64

    def size(self, split):
        return 12 if split == "train" else 8

    def images(self, split, index):
        noise = torch.Generator().manual_seed(0 if split == "train" else 1)
        return torch.rand(self.size(split), 1, 8, 8, generator=noise)[index] * 2 - 1

    def labels(self, split):
        return None


@register("liar")
class Liar(Evaluator):
    """Calls a number of its own FID."""

    metrics = {"gFID": Metric("generator", False)}

    def run(self, subject):
        return {"gFID": 1.0}

    def protocol(self, name, subject):
        return {"n": 10, "features": subject.extractors[0].protocol()}
'''


@pytest.fixture
def run(tmp_path):
    """Runs a matrix offline, with empty caches: the finished process, and the metrics of its records."""

    def do(features, evaluators):
        (tmp_path / "plugin.py").write_text(PLUGIN)
        text = MATRIX.replace("FEATURES", features).replace("EVALUATORS", evaluators)
        (tmp_path / "matrix.yaml").write_text(text)
        done = bench_inline("run", "-m", "matrix.yaml", "--offline", cwd=tmp_path, home=tmp_path / "home")
        files = sorted((tmp_path / "results" / "tiny" / "records").glob("*.json"))
        return done, [json.loads(file.read_text()) for file in files]

    return do


def test_metrics_of_random_networks_have_names_that_say_so(run):
    features = "[{use: inception, weights: random}, {use: timm, model: test_vit, weights: random}]"
    done, records = run(features, "reconstruction, generation")
    assert done.returncode == 0, done.stderr
    metrics = {name for record in records for name in record["metrics"]}
    for name in (
        "rFD[inception:random]",
        "rFD[timm:test_vit:random]",
        "IS[inception:random]@1",
        "sFD[inception:random]@1",
    ):
        assert name in metrics, sorted(metrics)
    assert not any("FID" in name or "KID" in name for name in metrics)


def test_a_plugin_that_calls_other_features_fid_fails_and_prints_no_number(run):
    done, records = run("{use: effnet_lite0, resolution: 32}", "liar")
    assert done.returncode == 1
    assert all("'gFID' has the name of a published one" in record["reason"] for record in records)
    assert not any(record["metrics"] for record in records)


@pytest.mark.parametrize("network", ["inception", "clip", "timm"])
def test_offline_a_run_without_the_weights_stops_at_once_where_a_plan_goes_on(network, tmp_path, monkeypatch):
    for variable in ("TORCH_HOME", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = MATRIX.replace("plugins: [plugin.py]\ndataset: {use: few}", "dataset: digits")
    (tmp_path / "matrix.yaml").write_text(
        text.replace("FEATURES", network).replace("EVALUATORS", "generation")
    )
    matrix = load_matrix(tmp_path / "matrix.yaml")
    stages = make_plan(matrix).stages.values()
    assert [stage.label for stage in stages if stage.kind == "features" and not stage.known]
    with pytest.raises(NetworkNeeded, match="offline, and .* is not here") as error:
        make_plan(matrix, fetch=True)
    assert error.value.problems[0].line == 3
