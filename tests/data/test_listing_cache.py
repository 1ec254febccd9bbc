"""The cache of a folder's listing: whatever is wrong with it, the images are found."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.machines import namespace, with_mounts
from PIL import Image

from latentbench.bench.data.image_index import list_images

OLD = time.time() - 60


@pytest.fixture
def root(tmp_path):
    """Three images in a folder that changed long ago, so that its listing is kept."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png", "é.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    os.utime(folder, (OLD, OLD))
    return folder


def names(root):
    return list_images(root).names.tolist()


def kept(tmp_path):
    """The files in the cache of listings, which `names` has filled."""
    return list((tmp_path / "cache/latentbench/listings").iterdir())


NAMES = [b"a.png", b"b.png", "é.png".encode()]


def test_a_listing_is_kept_in_the_users_cache(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert names(root) == NAMES
    (file,) = kept(tmp_path)
    assert file.suffix == ".npz" and np.load(file)["names"].tolist() == NAMES


@pytest.mark.parametrize("place", ["file", "file/below", "link", "/proc", "/dev/null"])
def test_a_cache_that_cannot_be_written_costs_nothing_but_the_cache(place, root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "link").symlink_to("link")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    assert names(root) == NAMES


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4 cut off", "another", "folder"])
def test_a_cached_file_that_is_no_listing_is_made_again(content, root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert names(root) == NAMES
    (file,) = kept(tmp_path)
    file.unlink()
    if content == "another":
        np.savez(file, other=np.arange(3))
    elif content == "folder":
        file.mkdir()
    else:
        file.write_bytes(content)
    assert names(root) == NAMES
    assert content == "folder" or np.load(file)["names"].tolist() == NAMES
    assert kept(tmp_path) == [file]


LISTS = """
import sys
from pathlib import Path
from latentbench.bench.data.image_index import list_images
print(len(list_images(Path(sys.argv[1])).names))
"""


def listed(root):
    return [sys.executable, "-c", LISTS, str(root)]


def test_a_user_without_a_home_has_no_cache(root, tmp_path):
    variables = {name: v for name, v in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    words = [*namespace("--map-user=54321"), *listed(root)]
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["images"]  # and no folder called ~


@pytest.mark.parametrize("options", ["ro", "size=4k,nr_inodes=2"], ids=["read-only", "full"])
def test_a_read_only_home_and_a_full_one_keep_no_listing(options, root, tmp_path):
    (tmp_path / "cache").mkdir()
    variables = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = with_mounts({tmp_path / "cache": options}, listed(root), env=variables)
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr


def test_a_path_that_is_not_utf8_has_a_cache_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    odd = os.path.join(os.fsencode(tmp_path), b"\xff")
    os.mkdir(odd)
    folder = tmp_path / os.fsdecode(b"\xff")
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    os.utime(folder, (OLD, OLD))
    assert names(folder) == [b"a.png"] and len(kept(tmp_path)) == 1
