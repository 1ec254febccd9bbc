"""Paths as people write them mean the same for every part that reads a file."""

import pytest

from latentbench.bench.nn.weights import Weights
from latentbench.bench.registry import create
from latentbench.bench.store.user_paths import user_path


@pytest.mark.parametrize("text", ["$WHERE/data", "${WHERE}/data", "~/data"])
def test_a_variable_and_the_home_are_expanded_alike(text, tmp_path, monkeypatch):
    for name in ("WHERE", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert user_path(text) == tmp_path / "data"


@pytest.mark.parametrize("text", ["data", "../data", "$NOBODY_SET_THIS/data"])
def test_other_paths_stay_as_they_are(text):
    assert str(user_path(text)) == text


def test_parts_expand_variables_in_their_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", str(tmp_path))
    assert Weights("$WHERE/w.pt", False, "", "").files == [tmp_path / "w.pt"]
    assert create("datasets", "imagefolder", root="$WHERE/set").root == tmp_path / "set"
    for name in ("cifar10", "mnist"):
        assert create("datasets", name, root="$WHERE/set").roots == [tmp_path / "set"]
