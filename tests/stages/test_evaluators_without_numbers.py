"""One evaluator's exception, or a set that is too small for a metric, costs that one's numbers alone."""

import json

import pytest
from helpers.image_folders import class_folders
from helpers.run import TINY, bench_inline

PLUGIN = '''
"""Evaluators that go wrong."""
from pathlib import Path
from latentbench.bench.api import Diverged, Evaluator, Metric, Subject
from latentbench.bench.registry import register

ABOUT = Metric("tokenizer", True, "", "One.")


@register("broken")
class Broken(Evaluator):
    """Raises an exception as long as there is a file `broken`, and has the value 1 without."""

    metrics = {"one": ABOUT}

    def run(self, subject: Subject) -> dict[str, float]:
        if Path("broken").exists():
            raise IndexError("no such row")
        return {"one": 1.0}

    def protocol(self, name, subject):
        return {"n": 1}


@register("undeclared")
class Undeclared(Broken):
    """Returns a metric that it doesn't declare."""

    def run(self, subject: Subject) -> dict[str, float]:
        return {"two": 2.0}


@register("badly_drawn")
class BadlyDrawn(Broken):
    """Has a value and a figure that cannot be drawn."""

    def run(self, subject: Subject) -> dict[str, float]:
        return {"one": 1.0}

    def figures(self, subject: Subject):
        return {"figure": 1 / 0}


@register("out_of_memory")
class OutOfMemory(Broken):
    """Runs out of memory, which is not its own fault alone."""

    def run(self, subject: Subject) -> dict[str, float]:
        raise MemoryError("4 GB")
'''
ONE_ROW = TINY.replace("  kl: {weight: 1.0e-3}\n", "").replace(
    "  lightningdit: {width: 32, depth: 1, heads: 2, guidance: [1.0, 1.5], sampler: {steps: 4}}\n", ""
)


def run(folder, *evaluators):
    (folder / "evaluators.py").write_text(PLUGIN)
    text = ONE_ROW.replace("[reconstruction, generation, density, cost]", f"[{', '.join(evaluators)}]")
    (folder / "m.yaml").write_text(text)
    return bench_inline("run", "-m", "m.yaml", "--plugin", "evaluators.py", cwd=folder, home=folder / "home")


def records(folder):
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("results/tiny/records/*.json"))]
    return [record for record in found if record["cell"]["regularizer"] != "real"]


def test_an_exception_costs_its_evaluator_s_numbers_and_is_told_in_the_record_and_the_tables(tmp_path):
    (tmp_path / "broken").touch()
    done = run(tmp_path, "reconstruction", "broken", "latents")
    assert done.returncode == 1 and "no numbers of broken" in done.stdout
    (record,) = records(tmp_path)
    assert record["status"] == "done" and {"PSNR", "latent_std"} <= record["metrics"].keys()
    assert record["missing"] == {
        "broken": {
            "reason": "IndexError: no such row (evaluators.py, line 18)",
            "failed": True,
            "scope": "tokenizer",
        }
    }
    for table in ("leaderboard.md", "leaderboard.html"):
        assert "IndexError: no such row" in (tmp_path / "results/tiny" / table).read_text()
    (tmp_path / "broken").unlink()
    again = run(tmp_path, "reconstruction", "broken", "latents")  # tries what failed, as of stages
    assert again.returncode == 0 and "tokenizer vit" not in again.stdout
    (record,) = records(tmp_path)
    assert record["metrics"]["one"]["value"] == 1 and "missing" not in record


@pytest.mark.parametrize(
    "name, reason",
    [("undeclared", "'two', which isn't in its `metrics`"), ("badly_drawn", "ZeroDivisionError")],
)
def test_other_faults_of_an_evaluator_cost_no_more(name, reason, tmp_path):
    assert run(tmp_path, "reconstruction", name).returncode == 1
    (record,) = records(tmp_path)
    assert record["status"] == "done" and "PSNR" in record["metrics"] and "one" not in record["metrics"]
    assert reason in record["missing"][name]["reason"]


@pytest.mark.parametrize("names", [["reconstruction", "out_of_memory"], ["broken"]])
def test_a_cell_fails_without_memory_and_without_any_number(names, tmp_path):
    (tmp_path / "broken").touch()
    assert run(tmp_path, *names).returncode == 1
    (record,) = records(tmp_path)
    assert record["status"] == "failed" and "Error" in record["reason"] and "missing" not in record


SMALL = """\
name: small
dataset: {use: shapes, size: 8, count: {train: TRAIN, val: VAL}}
budget: {tokenizer_steps: 2, generator_steps: 2, batch: 8}
features: {use: effnet_lite0, resolution: 32}
reference: {use: teacher}
samples: SAMPLES
tokenizers:
  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}
regularizers:
  none: {}
generators:
  gaussian: {}
evaluators: [reconstruction, generation, class_accuracy, density, latents, linear_probe, robustness]
"""


@pytest.mark.parametrize(
    "train, val, samples, without",
    [
        pytest.param(3, 8, 16, "KD", id="fewer training images than a kernel distance and a batch take"),
        pytest.param(40, 2, 16, "KD@2", id="two held-out images"),
        pytest.param(40, 8, 4, "recall", id="fewer samples than neighbours and classes"),
    ],
)
def test_small_sets_lack_only_the_metrics_that_cannot_be(train, val, samples, without, tmp_path):
    text = SMALL.replace("TRAIN", str(train)).replace("VAL", str(val)).replace("SAMPLES", str(samples))
    (tmp_path / "m.yaml").write_text(text)
    done = bench_inline("run", "-m", "m.yaml", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(file.read_text()) for file in tmp_path.glob("results/small/records/*.json")]
    (record,) = (record for record in found if record["cell"]["regularizer"] == "none")
    assert record["status"] == "done" and {"PSNR", "gFD[effnet_lite0:32]@1"} <= record["metrics"].keys()
    missing = {name: why for name, why in record["missing"].items() if name.startswith(f"{without}[")}
    assert missing and all("images on either side, not" in why["reason"] for why in missing.values())
    assert not any(why["failed"] for why in record["missing"].values())
    assert "images on either side" in (tmp_path / "results/small/leaderboard.md").read_text()


@pytest.mark.parametrize("train, val", [(40, 1), (1, 8)])
def test_a_split_of_one_image_is_refused_before_anything_trains(train, val, tmp_path):
    text = SMALL.replace("TRAIN", str(train)).replace("VAL", str(val)).replace("SAMPLES", "16")
    (tmp_path / "m.yaml").write_text(text)
    done = bench_inline("run", "-m", "m.yaml", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 2 and "m.yaml:2:1: too few images: 1 " in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_folder_of_one_class_has_every_number_but_those_of_classes(tmp_path):
    class_folders(tmp_path / "data", classes=("faces",))
    text = SMALL.replace(
        "{use: shapes, size: 8, count: {train: TRAIN, val: VAL}}", "{use: imagefolder, root: data, size: 8}"
    )
    (tmp_path / "m.yaml").write_text(text.replace("SAMPLES", "16"))
    done = bench_inline("run", "-m", "m.yaml", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(file.read_text()) for file in tmp_path.glob("results/small/records/*.json")]
    (record,) = (record for record in found if record["cell"]["regularizer"] == "none")
    assert record["missing"].keys() == {"probe_accuracy", "class_accuracy@1"}
    assert "one class" in record["missing"]["probe_accuracy"]["reason"]
    assert {"PSNR", "rFD[effnet_lite0:32]", "gFD[effnet_lite0:32]@1", "kNN_NLL"} <= record["metrics"].keys()
