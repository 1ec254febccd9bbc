"""Homes that cannot be written: a plan needs none, and a run only what it was told to write."""

import os

import pytest
from helpers.machines import bench_as_stranger, bench_with_mounts
from helpers.run import TINY, bench, bench_inline, results
from PIL import Image

MATRIX = """\
name: folder
dataset: {use: imagefolder, root: $FT_ROOT, size: 16}
seeds: [0]
budget: {tokenizer_steps: 4, generator_steps: 4, batch: 8}
features: {use: effnet_lite0, resolution: 32}
reference: {use: teacher}
samples: 16
tokenizers:
  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}
regularizers:
  none: {}
generators:
  gaussian: {}
evaluators: [reconstruction, generation, cost]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A matrix of a folder of images that changed long ago, so that its listing would be kept."""
    for split, n in (("train", 12), ("val", 4)):
        for kind in ("cat", "dog"):
            place = tmp_path / "images" / split / kind
            place.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (20, 16), (i, 90, len(kind) * 60)).save(place / f"{i}.png")
    for place, _, _ in os.walk(tmp_path / "images"):
        os.utime(place, (1e9, 1e9))
    (tmp_path / "m.yaml").write_text(MATRIX, encoding="utf-8")
    monkeypatch.setenv("FT_ROOT", str(tmp_path / "images"))
    return tmp_path


PLAN = ("plan", "-m", "m.yaml")


def test_a_plan_is_made_whose_cache_is_a_file(folder, monkeypatch):
    (folder / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    done = bench_inline(*PLAN, cwd=folder, home=folder / "home")
    assert done.returncode == 0 and "1 cell, " in done.stdout and not done.stderr


def test_a_plan_is_made_for_a_user_without_a_home(folder):
    done = bench_as_stranger(*PLAN, cwd=folder)
    assert done.returncode == 0 and "1 cell, " in done.stdout and "Traceback" not in done.stderr
    assert sorted(file.name for file in folder.iterdir()) == ["images", "m.yaml"]


def test_a_plan_is_made_in_a_read_only_home(folder, monkeypatch):
    home = folder / "me"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    done = bench_with_mounts({home: "ro"}, *PLAN, cwd=folder, home=home / "bench")
    assert done.returncode == 0 and "1 cell, " in done.stdout and "Traceback" not in done.stderr


@pytest.mark.nightly
def test_a_run_without_a_home_gives_the_records_of_one_with_a_home(folder):
    for make, out in ((bench, "mine"), (bench_as_stranger, "strangers")):
        done = make("run", *PLAN[1:], "-o", out, "-j", 1, "--loaders", 1, cwd=folder, home=folder / out / "h")
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert results(folder / "mine") == results(folder / "strangers") != {}


SMALL = TINY.replace("  lightningdit", "  # lightningdit").replace(", density", "")


def run(folder, out, home="home"):
    (folder / "matrix.yaml").write_text(SMALL, encoding="utf-8")
    return bench_inline("run", "-o", out, cwd=folder, home=home)


@pytest.mark.parametrize("home", ["file", "file/below", "/proc/nowhere"])
def test_artifacts_that_cannot_be_kept_end_a_run_before_any_work(home, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run(tmp_path, "out", home)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"cannot write to {home}/locks: " in done.stderr


@pytest.mark.parametrize("name", ["leaderboard.csv", "analysis", "samples", "figures", "matrix.lock.yaml"])
def test_something_in_the_way_of_a_report_ends_a_run_before_any_work(name, tmp_path):
    """A folder where a file will be, and a file where a folder will be."""
    place = tmp_path / "out" / name
    place.parent.mkdir()
    place.mkdir() if "." in name else place.write_text("in the way")
    done = run(tmp_path, "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"cannot write to out/{name}" in done.stderr, done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("places", [["out"], ["out", "out/records"]], ids=["folder", "records"])
def test_a_read_only_results_folder_ends_a_run_before_any_work(places, tmp_path):
    """Also where only the folder is read-only and `records` in it can be written."""
    (tmp_path / "out" / "records").mkdir(parents=True)
    (tmp_path / "m.yaml").write_text(SMALL, encoding="utf-8")
    mounts = {tmp_path / "out": "ro"} if len(places) == 1 else {tmp_path / "out/records": "ro"}
    done = bench_with_mounts(mounts, "run", "-m", "m.yaml", "-o", "out", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "cannot write to out" in done.stderr and not (tmp_path / "home").exists()
