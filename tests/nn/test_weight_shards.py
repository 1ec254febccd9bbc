"""Weights in several files: read as one, hashed by their content, refused where a file is missing."""

import json

import pytest
import torch
from safetensors.torch import save_file

from latentbench.bench.nn.weight_files import BadWeights, read_checkpoint
from latentbench.bench.nn.weight_shards import read_weights, weights_sha256
from latentbench.bench.nn.weights import sha256

TENSORS = {"a": torch.arange(3.0), "b": torch.ones(2, 2), "c": torch.tensor(7)}


def sharded(folder, **files):
    """An index of files, each with some tensors by their names."""
    folder.mkdir(exist_ok=True)
    for name, tensors in files.items():
        save_file({key: TENSORS[key] for key in tensors}, folder / f"{name}.safetensors")
    index = {key: f"{name}.safetensors" for name, tensors in files.items() for key in tensors}
    file = folder / "model.safetensors.index.json"
    file.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    return file


def test_the_tensors_of_all_files_of_an_index_are_read(tmp_path):
    found = read_weights(sharded(tmp_path, one="ac", two="b"))
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[key], TENSORS[key]) for key in found)


def test_a_single_file_is_read_and_hashed_as_ever(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file)
    assert read_weights(file).keys() == read_checkpoint(file).keys()
    assert weights_sha256(file) == sha256(file)


def test_the_hash_is_that_of_the_content_wherever_it_is(tmp_path):
    first = weights_sha256(sharded(tmp_path / "first", one="ac", two="b"))
    assert weights_sha256(sharded(tmp_path / "second", one="ac", two="b")) == first
    changed = sharded(tmp_path / "second", one="ac", two="b")
    save_file({"b": torch.zeros(2, 2)}, tmp_path / "second" / "two.safetensors")
    assert weights_sha256(changed) != first


@pytest.mark.parametrize("read", [read_weights, weights_sha256])
def test_a_missing_file_of_an_index_is_named(read, tmp_path):
    file = sharded(tmp_path, one="ac", two="b")
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(BadWeights, match="index.json names two.safetensors, which is not beside it"):
        read(file)


def test_an_index_reaches_no_file_elsewhere(tmp_path):
    file = sharded(tmp_path / "inner", one="abc")
    file.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(BadWeights, match=r"names \.\./secret.safetensors: an index names files beside it"):
        read_weights(file)


def test_a_tensor_that_its_file_lacks_is_named(tmp_path):
    file = sharded(tmp_path, one="ac")
    file.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}))
    with pytest.raises(BadWeights, match="names b, which its files lack: download them again"):
        read_weights(file)


@pytest.mark.parametrize("index", [[], {}, {"a": 3}, "a"])
def test_an_index_without_files_is_refused(index, tmp_path):
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": index}))
    with pytest.raises(BadWeights, match="is no index of weights"):
        read_weights(file)


@pytest.mark.parametrize("text", ["{", '{"other": {}}', "[]", "text"])
def test_other_text_is_no_weights(text, tmp_path):
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(text)
    with pytest.raises(BadWeights, match="is text: weights are safetensors or torch files"):
        read_weights(file)
