"""Rows of a matrix from what people name: every name gives a row whose label a matrix takes."""

import json

import pytest

from latentbench.bench.matrix.parts import label_problem
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.tools.named_rows import (
    MeaninglessName,
    dataset_row,
    full_name,
    tokenizer_labels,
    tokenizer_row,
    usable_label,
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_comes_before_an_id_and_an_id_before_an_unknown_part(here):
    (here / "models/vae").mkdir(parents=True)
    assert tokenizer_row("models/vae") == {"use": "diffusers", "path": "models/vae"}
    assert tokenizer_row("models/other") == {"use": "diffusers", "path": "models/other"}
    assert tokenizer_row("org/flux:vae") == {"use": "diffusers", "path": "org/flux", "subfolder": "vae"}
    assert tokenizer_row("vit") == {"use": "vit"} and tokenizer_row("vti") == {"use": "vti"}


def test_an_exported_tokenizer_of_our_own_class_is_taken_by_the_part_for_it(here):
    (here / "own").mkdir()
    (here / "own/config.json").write_text(json.dumps({"_class_name": "LatentbenchTokenizer"}))
    assert tokenizer_row("own") == {"use": "trained", "path": "own"}
    with pytest.raises(MeaninglessName, match=r"no folder \./gone"):
        tokenizer_row("./gone")


def test_data_are_folders_of_images_or_parquet_one_parquet_file_or_names(here):
    for name in ("pictures/cat", "tables/data"):
        (here / name).mkdir(parents=True)
    (here / "tables/data/train-00000-of-00001.parquet").touch()
    assert dataset_row("pictures", 64) == {"use": "imagefolder", "root": "pictures", "size": 64}
    assert dataset_row("tables", None) == {"use": "parquet", "root": "tables", "size": 256}
    one = "tables/data/train-00000-of-00001.parquet"
    assert dataset_row(one, 32) == {"use": "parquet", "root": one, "size": 32}
    assert dataset_row("digits", None) == {"use": "digits"}
    with pytest.raises(MeaninglessName, match="did you mean 'digits'.*no such folder"):
        dataset_row("digit", None)


def test_labels_are_the_last_parts_of_paths_that_tell_rows_apart(here):
    rows = [full_name({"use": "diffusers", "path": f"{name}/vae"}) for name in ("a/sd", "b/sd")]
    assert tokenizer_labels(rows[:1]) == ["vae"]
    assert tokenizer_labels(rows) == ["a-sd-vae", "b-sd-vae"]
    with pytest.raises(MeaninglessName, match="named twice"):
        tokenizer_labels([rows[0], rows[0]])


@pytest.mark.parametrize(
    "name",
    ["..", ".", "real", "a..b", " x ", "new\nline", "tab\t", "a" * 300, "back\\slash", "\u202eabc", "~/x"],
)
def test_a_folder_of_any_name_has_a_label_that_a_matrix_takes(name):
    assert label_problem(usable_label(name)) is None
    rows = [full_name({"use": "diffusers", "path": text}) for text in (name, name + "\n")]
    labels = tokenizer_labels(rows)
    assert len(set(labels)) == 2 and not any(map(label_problem, labels))


@pytest.mark.parametrize("name", ["my vae", "sd-vae-ft-mse", "größe", "it's: #1"])
def test_a_usable_label_stays_as_it_is(name):
    assert usable_label(name) == name


def test_a_row_of_a_matrix_is_a_row_and_a_broken_one_is_named():
    row = dataset_row("{use: parquet, root: a, splits: {train: data/train, val: data/test}}", None)
    assert row == {"use": "parquet", "root": "a", "splits": {"train": "data/train", "val": "data/test"}}
    for given in ({"use": "parquet", "size": 8}, "{use: parquet, size: 8}"):
        assert dataset_row(given, 32, 0.5) == {"use": "parquet", "size": 32, "held_out": 0.5}
    with pytest.raises(MatrixError, match="the data:1"):
        dataset_row("{use: parquet", None)
