"""`bench plan` and `bench run` say what their datasets hold, or refuse folders that leave a doubt."""

import json

import pytest
from helpers.image_folders import class_folders, put
from helpers.latent_folders import latent_set
from helpers.parquet_files import as_parquet
from helpers.run import bench_inline
from helpers.tar_files import as_tar

from latentbench.bench.contracts.common import SPLITS
from latentbench.bench.registry import create, names

MATRIX = """\
name: folder
dataset: {use: imagefolder, root: images, size: 16}
seeds: [0]
budget: {tokenizer_steps: 2, generator_steps: 2, batch: 8}
features: {use: effnet_lite0, resolution: 32}
samples: 16
tokenizers:
  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}
regularizers:
  none: {}
generators:
  gaussian: {}
evaluators: [reconstruction]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    class_folders(tmp_path / "images", ("Train", "validation"))
    put(tmp_path / "images", "Train/.ipynb_checkpoints/0.png", "test/0.png")
    return tmp_path


LINES = (
    "imagefolder: 48 train (Train) + 16 val (validation) images; 2 classes: cat 50 %, dog 50 %",
    "imagefolder: files left out: 1 in folders that are no split (test), "
    "1 in hidden folders (Train/.ipynb_checkpoints)",
)


def test_a_plan_and_a_run_say_what_was_found_and_what_was_left_out(folder):
    for command in (("plan",), ("run", "-q")):
        done = bench_inline(*command, cwd=folder, home=folder / "home")
        assert done.returncode == 0, done.stdout + done.stderr
        for line in LINES:
            assert line in done.stdout.splitlines()
    plan = json.loads(bench_inline("plan", "--json", cwd=folder).stdout)
    assert plan["datasets"] == {"imagefolder": [line.removeprefix("imagefolder: ") for line in LINES]}


def test_folders_that_leave_a_doubt_are_a_problem_of_their_line(folder):
    (folder / "images/validation").rename(folder / "images/old")
    for command in ("plan", "run"):
        done = bench_inline(command, cwd=folder, home=folder / "home")
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "matrix.yaml:2:1: images has the folders Train and test" in done.stderr
        assert "`splits: {train: Train, val: test}` scores on test" in done.stderr
    assert not (folder / "results").exists()
    text = MATRIX.replace("size: 16", "size: 16, splits: {train: Train, val: old}")
    (folder / "matrix.yaml").write_text(text)
    assert "48 train (Train) + 16 val (old) images" in bench_inline("plan", cwd=folder).stdout


@pytest.mark.parametrize("name", names("datasets"))
def test_every_dataset_describes_itself_by_its_sizes(name, tmp_path):
    folder = class_folders(tmp_path / "folder")
    options = {
        "imagefolder": {"root": str(folder)},
        "latents": latent_set(),
        "parquet": {"root": str(as_parquet(folder, tmp_path / "rows", rows=24))},
        "torchvision": {"name": "FakeData", "train": {"size": 9}},
        "webdataset": {"root": str(as_tar(folder, tmp_path / "tars"))},
    }
    data = create("datasets", name, **options.get(name, {}))
    if name == "emoji" and data.fingerprint() is None:
        pytest.skip("needs Debian's fonts-noto-color-emoji and unicode-data")
    lines = data.description()
    assert all(f"{data.size(split):,} {split}" in lines[0] for split in SPLITS)
    assert "class" in lines[0]


def test_a_set_that_is_not_here_is_described_by_what_is_said_of_it(folder):
    told = "count: {train: 1281167, val: 50000}, classes: 1000, root: elsewhere"
    (folder / "matrix.yaml").write_text(MATRIX.replace("root: images", told))
    done = bench_inline("plan", cwd=folder)
    assert "imagefolder: 1,281,167 train + 50,000 val images of 3 x 16 x 16; 1,000 classes" in done.stdout
