"""Paths have one rule: they begin where the command runs, and `~` and $X mean what they do in a shell."""

import os
from pathlib import Path

import pytest
from helpers.run import TINY, bench_inline

from latentbench.bench.nn.weights import Weights
from latentbench.bench.registry import create
from latentbench.bench.store.artifacts import home
from latentbench.bench.store.user_paths import cache_folder, user_path

SPELLINGS = ["data/x", "./data/x", "~/data/x", "$WHERE/x", "${WHERE}/x", "/nowhere/x"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder where commands run, which is neither the home nor the folder of the matrices."""
    for name in ("run", "home", "run/matrices"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WHERE", str(tmp_path / "where"))
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path


def meant(spelling, here):
    """The same path, absolute, by hand."""
    for start, folder in (("~", "home"), ("${WHERE}", "where"), ("$WHERE", "where")):
        if spelling.startswith(start):
            return here / folder / spelling.removeprefix(start).lstrip("/")
    return Path(os.path.normpath(here / "run" / spelling))


READERS = {
    "imagefolder": lambda text: create("datasets", "imagefolder", root=text).root,
    "mnist": lambda text: create("datasets", "mnist", root=text).roots[0],
    "cifar10": lambda text: create("datasets", "cifar10", root=text).roots[0],
    "table": lambda text: create("references", "table", file=text)._path,
    "weights": lambda text: Weights(text, False, "", "").files[0],
    "plugin or file": user_path,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("reader", READERS)
def test_every_option_that_is_a_path_reads_it_alike(reader, spelling, here):
    assert Path(os.path.abspath(READERS[reader](spelling))) == meant(spelling, here)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_folder_of_artifacts_is_read_alike(spelling, here, monkeypatch):
    monkeypatch.setenv("LATENTBENCH_HOME", spelling)
    (here / "run/matrices/m.yaml").write_text(TINY)
    assert Path(os.path.abspath(home(Path("matrices/m.yaml")))) == meant(spelling, here)


PLUGIN = """
from latentbench.bench.api import Regularizer
from latentbench.bench.registry import register

@register("mine")
class Mine(Regularizer):
    pass
"""
MATRIX = TINY.replace("  none: {}", "  mine: {}")


def plan(here, plugin, *words):
    text = MATRIX + (f"plugins: ['{plugin}']\n" if plugin else "")
    (here / "run/matrices/m.yaml").write_text(text)
    return bench_inline("plan", "-m", "matrices/m.yaml", *words, cwd=here / "run")


@pytest.mark.parametrize("spelling", [f"{one}.py" for one in SPELLINGS[:-1]])
def test_a_matrix_names_its_plugins_as_the_command_line_does(spelling, here):
    file = meant(spelling, here)
    file.parent.mkdir(parents=True)
    file.write_text(PLUGIN)
    for done in (plan(here, spelling), plan(here, None, "--plugin", spelling)):
        assert done.returncode == 0, done.stderr


def test_a_plugin_that_lies_beside_the_matrix_alone_is_hinted_at(here):
    (here / "run/matrices/mine.py").write_text(PLUGIN)
    done = plan(here, "mine.py")
    assert done.returncode == 2 and "matrices/m.yaml:18:11: no plugin file 'mine.py' here" in done.stderr
    assert "write 'matrices/mine.py'" in done.stderr
    assert plan(here, "matrices/mine.py").returncode == 0
    assert " here:" not in plan(here, "nowhere.py").stderr


def test_what_nobody_knows_stays_as_it_is(here, monkeypatch):
    assert user_path("$NO_SUCH_VARIABLE/x") == Path("$NO_SUCH_VARIABLE/x")
    assert user_path("~no_such_user/x") == Path("~no_such_user/x")
    monkeypatch.setenv("XDG_CACHE_HOME", "~no_such_user")
    assert cache_folder() is None


def test_the_weights_of_a_tokenizer_are_read_alike(here):
    """They are hashed for its key, which tells that the file was found."""
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, here / "home/w.safetensors")
    save_file({"a": torch.zeros(1)}, here / "run/w.safetensors")
    (here / "where").mkdir()
    save_file({"a": torch.zeros(1)}, here / "where/w.safetensors")
    for folder in ("", "~/", "$WHERE/"):
        text = TINY.replace("channels: 4}", f"channels: 4, weights: {folder}w.safetensors}}")
        (here / "run/matrices/m.yaml").write_text(text)
        done = bench_inline("plan", "-m", "matrices/m.yaml", cwd=here / "run")
        assert done.returncode == 2 and "w.safetensors" in done.stderr  # it lacks the tokenizer's tensors
        found = str(meant(f"{folder}w.safetensors", here)) if folder else "w.safetensors"
        assert found in done.stderr
