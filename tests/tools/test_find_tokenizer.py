"""Trained tokenizers are found where their cache is, by the plan of the device that made them."""

import shutil
import warnings
from pathlib import Path

import pytest
import yaml
from helpers.run import bench_inline, results

import latentbench.bench as lb
from latentbench.bench import registry
from latentbench.bench.store.mirror import Mirror
from latentbench.bench.tools import find_tokenizer
from latentbench.bench.tools.find_tokenizer import NotTrained, find_all_trained, find_trained, stores_of

PLUGIN = """
from latentbench.bench.api import Regularizer
from latentbench.bench.registry import register

@register("diverging")
class Diverging(Regularizer):
    def loss(self, z, h, step):
        return {"diverging": z.square().mean() * float("nan")}
"""
MATRIX = {
    "name": "made",
    "dataset": "digits",
    "seeds": [0, 1],
    "features": {"use": "effnet_lite0", "resolution": 32},
    "budget": {"tokenizer_steps": 1, "batch": 16},
    "plugins": ["diverging.py"],
    "tokenizers": {"vit": {"width": 16, "depth": 1, "heads": 2, "patch": 4, "channels": 4}},
    "regularizers": {"none": {}, "diverging": {}},
    "generators": {"none": {}},
    "evaluators": ["reconstruction"],
}
NONE = {"regularizer": ["none"]}


@pytest.fixture(autouse=True)
def plugins_of_the_test():
    with registry.plugins_of_this_block():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results in `results/made`, whose artifacts are in `.bench` and at the URL in `url`."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "diverging.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "matrix.yaml").write_text(yaml.safe_dump(MATRIX), encoding="utf-8")
    with registry.plugins_of_this_block():
        done = bench_inline("run", "--store", f"file://{folder}/url", cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr  # one row diverges
    return folder


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.delenv("LATENTBENCH_HOME", raising=False)
    return made


def test_only_the_device_that_made_the_records_is_planned(here, monkeypatch, tmp_path):
    planned = []
    make_plan = find_tokenizer.make_plan
    monkeypatch.setattr(
        find_tokenizer, "make_plan", lambda *a, device: planned.append(device) or make_plan(*a, device=device)
    )
    find_trained(Path("results/made"), NONE)
    assert planned == ["cpu"]
    lb.tokenizer(lb.load("results/made"), regularizer="none")
    assert planned == ["cpu", "cpu"]
    shutil.copytree("results/made", tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare/records")  # so that nothing says on which
    monkeypatch.setenv("LATENTBENCH_HOME", str(tmp_path / "empty"))
    with pytest.raises(NotTrained, match=f"no trained weights in {tmp_path}/empty"):
        find_trained(tmp_path / "bare", NONE)
    assert planned == ["cpu", "cpu", "cpu", "cuda"]


def test_the_first_seed_stands_for_several_and_each_is_found_by_name(here):
    assert find_trained(Path("results/made"), NONE).labels["seed"] == "0"
    assert find_trained(Path("results/made"), NONE | {"seed": ["1"]}).labels["seed"] == "1"
    found, left_out = find_all_trained(Path("results/made"), {})
    assert [(one.labels["regularizer"], one.labels["seed"]) for one in found] == [
        ("none", "0"),
        ("none", "1"),
    ]
    assert len(left_out) == 2 and all("diverg" in reason for reason in left_out)


def test_a_row_whose_training_failed_is_left_out_with_a_note(here, tmp_path):
    done = bench_inline("score", "results/made", "-o", tmp_path / "out", cwd=here)
    assert done.returncode == 0 and "results/made: left out: " in done.stderr, done.stderr
    scored = {record["cell"]["tokenizer"] for record in results(tmp_path / "out").values()}
    assert scored == {"vit · none · seed 0", "vit · none · seed 1"}
    done = bench_inline("score", "results/made:regularizer=diverging", cwd=here)
    assert done.returncode == 2 and "no weights" in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["stage.json", "tensors.safetensors"])
def test_a_broken_artifact_is_named_with_the_way_out(name, here, tmp_path, monkeypatch):
    shutil.copytree(".bench", tmp_path / "home")
    monkeypatch.setenv("LATENTBENCH_HOME", str(tmp_path / "home"))
    found = find_trained(Path("results/made"), NONE | {"seed": ["0"]})
    file = found.store.path(found.stages[0]) / name
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(NotTrained, match="tokenizer vit · none · seed 0 is broken in the cache: .*run"):
        find_trained(Path("results/made"), NONE | {"seed": ["0"]})


def test_the_cache_is_the_variables_or_the_nearest_above_and_the_one_here(made, tmp_path, monkeypatch):
    folder = tmp_path / "study/results/mine"
    folder.mkdir(parents=True)
    monkeypatch.chdir(made)
    monkeypatch.delenv("LATENTBENCH_HOME", raising=False)
    assert [store.root for store in stores_of(folder)] == [made / ".bench"]
    for above in (tmp_path, tmp_path / "study"):
        (above / ".bench").mkdir()
    nearest = [tmp_path / "study/.bench", tmp_path / ".bench", made / ".bench"]
    assert [store.root for store in stores_of(folder)] == nearest
    monkeypatch.setenv("LATENTBENCH_HOME", str(tmp_path / "home"))
    assert [store.root for store in stores_of(folder)] == [tmp_path / "home"]
    monkeypatch.setenv("LATENTBENCH_HOME", "file:///somewhere")
    stores = stores_of(folder)
    assert [store.root for store in stores] == nearest
    assert all(isinstance(store, Mirror) and store.url == "file:///somewhere" for store in stores)


def test_weights_that_are_only_at_a_url_are_downloaded(made, tmp_path, monkeypatch):
    shutil.copytree(made / "results/made", tmp_path / "results/made")
    shutil.copy(made / "diverging.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTBENCH_HOME", f"file://{made}/url")
    chosen = "regularizer=none,seed=1"
    truth = recorded_psnr(made / "results/made")
    done = bench_inline("score", f"results/made:{chosen}", "-o", "scored", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = results(tmp_path / "scored").values()
    assert record["metrics"]["PSNR"]["value"] == truth
    done = bench_inline("export", "results/made", "-k", chosen, "-o", "exported", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert lb.tokenizer(lb.load("results/made"), regularizer="none", seed=1).spec.channels == 4


def recorded_psnr(folder):
    (record,) = (
        record
        for record in results(folder).values()
        if record["cell"]["regularizer"] == "none" and record["cell"]["seed"] == "1"
    )
    return record["metrics"]["PSNR_mean"]["value"]
