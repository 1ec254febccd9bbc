"""Folders of splits by other names, or beside others: recognised, or a problem that names them."""

import hashlib

import pytest
from helpers.image_folders import class_folders, image_folder, put

from latentbench.bench.data.split_folders import role_of, roles_in


def found(root, **options):
    data = image_folder(root, **options)
    return data.size("train"), data.size("val"), data.classes


@pytest.mark.parametrize(
    "splits",
    [
        ("train", "val"),
        ("train", "validation"),
        ("train", "valid"),
        ("train", "dev"),
        ("Train", "Val"),
        ("TRAIN", "VALID"),
        ("training", "validation"),
        ("training_set", "validation_set"),
        ("train2017", "val2017"),
        ("Train Images", "Val Images"),
        ("trainset", "valset"),
    ],
    ids=" and ".join,
)
def test_splits_by_other_names_are_splits(tmp_path, splits):
    data = image_folder(class_folders(tmp_path, splits))
    assert (data.size("train"), data.size("val"), data.classes) == (48, 16, 2)
    assert all(name.startswith(splits[1].encode()) for name in data._splits["val"].names.tolist())
    assert data.labels("val").tolist() == [0] * 8 + [1] * 8
    said = data.description()[0]
    assert "48 train" in said and "16 val" in said and "2 classes: cat 50 %, dog 50 %" in said
    assert all(split in said for split in splits)


def test_other_names_change_neither_labels_nor_what_is_held_out(tmp_path):
    one = image_folder(class_folders(tmp_path / "a", ("train",), (200,)))
    other = image_folder(class_folders(tmp_path / "b", ("Training",), (200,)))
    held_out = [
        {name.partition(b"/")[2] for name in data._splits["val"].names.tolist()} for data in (one, other)
    ]
    assert held_out[0] == held_out[1] and 10 < len(held_out[0]) < 90


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("train", "test"), ["train and test", "none that is val", "`splits: {train: train, val: test}`"]),
        (("Train", "Test"), ["Train and Test", "`splits: {train: Train}` holds images out of Train"]),
        (("training", "eval"), ["training and eval", "none that is val"]),
        (("train", "validation_old"), ["train and validation_old", "none that is val"]),
        (("train", "Train"), ["Train and train, which may both be train"]),
        (("train", "training"), ["train and training, which may both be train"]),
        (("train", "val", "valid"), ["val and valid, which may both be val"]),
        (("val", "test"), ["val and test, and no folder that is train"]),
        (("validation",), ["validation, and no folder that is train"]),
        (("test", "control"), ["test, and no folder that is train", "`splits: {}` takes all folders"]),
        (("ILSVRC2012_img_train", "ILSVRC2012_img_val"), ["ILSVRC2012_img_train", "`splits: {train: ILSV"]),
        (("cats_train", "cats_test"), ["folders named as splits, cats_test and cats_train"]),
        (("data/train", "data/val"), ["the folders of splits, train and val, in data", "let `root` be"]),
        (("data/train",), ["train, in data", "let `root` be"]),
        (("cat/train", "cat/test", "dog/train"), ["in cat", "SPLIT/CLASS/"]),
        (("images/train", "images/val", "labels/train"), ["train and val, in images"]),
    ],
    ids=lambda value: " and ".join(value) if isinstance(value, tuple) else "",
)
def test_folders_that_may_be_splits_are_a_problem_that_says_what_to_write(tmp_path, folders, words):
    class_folders(tmp_path, folders, [4] * len(folders))
    with pytest.raises(ValueError) as caught:
        found(tmp_path)
    for text in words:
        assert text in str(caught.value)


def test_train_within_train_is_no_class(tmp_path):
    class_folders(tmp_path, ("train/train",), (40,))
    with pytest.raises(ValueError, match="train/train would be the only class"):
        found(tmp_path)


def test_an_empty_val_is_a_problem_and_nothing_is_held_out_instead(tmp_path):
    put(class_folders(tmp_path, ("train",), (40,)), "val/")
    with pytest.raises(ValueError, match="no images for val"):
        found(tmp_path)
    (tmp_path / "val").rmdir()
    (tmp_path / "test").mkdir()  # holds nothing that could be meant
    assert sum(found(tmp_path)[:2]) == 80


def test_one_folder_is_not_both_splits(tmp_path):
    class_folders(tmp_path, ("train",), (9,))
    (tmp_path / "val").symlink_to("train")
    with pytest.raises(ValueError, match="val is the same folder as .*train"):
        found(tmp_path)


def test_what_lies_beside_both_splits_is_left_out_and_named(tmp_path):
    class_folders(tmp_path, ("train", "val", "test", "extra"), (24, 8, 5, 3))
    put(tmp_path, "cover.png")
    data = image_folder(tmp_path)
    assert (data.size("train"), data.size("val"), data.classes) == (48, 16, 2)
    assert data.description()[1:] == [
        "files left out: 1 beside the folders of splits (cover.png), 16 in folders that are no split "
        "(extra, test)"
    ]


def test_classes_may_be_called_as_splits_are_if_it_is_said(tmp_path):
    put(tmp_path, *(f"{kind}/{n}.png" for kind in ("bus", "car", "train") for n in range(30)))
    with pytest.raises(ValueError, match="images in train and in bus, which may be splits or classes"):
        found(tmp_path)
    assert found(tmp_path, splits={}, held_out=0.3)[2] == 3
    data = image_folder(tmp_path, splits={"train": "train"}, held_out=0.3)
    assert data.size("train") + data.size("val") == 30 and data.classes == 0
    assert "60 in folders that are no split (bus, car)" in data.description()[1]


def test_classes_whose_names_only_mention_a_split_are_classes(tmp_path):
    put(tmp_path, *(f"{kind}/{n}.png" for kind in ("train station", "airport", "harbour") for n in range(30)))
    assert found(tmp_path)[2] == 3
    assert role_of(b"train station") is None and roles_in(b"train station") == {"train"}
    assert role_of(b"n0438_trainer") is None and not roles_in(b"restrain")


def test_splits_are_read_as_told(tmp_path):
    class_folders(tmp_path, ("train", "test", "more/val"), (24, 8, 5))
    assert found(tmp_path, splits={"train": "train", "val": "test"}) == (48, 16, 2)
    assert found(tmp_path, splits={"train": "train", "val": "more/val/"}) == (48, 10, 2)
    assert sum(found(tmp_path, splits={"train": "train"})[:2]) == 48
    prints = {
        image_folder(tmp_path, splits=splits).fingerprint()
        for splits in ({"train": "train", "val": "test"}, {"train": "train"}, {"train": "test"})
    }
    assert len(prints) == 3


@pytest.mark.parametrize(
    "splits",
    [
        {"val": "b"},
        {"train": ".."},
        {"train": "/a"},
        {"train": "a", "val": "./a"},
        {"train": ""},
        {"test": "a"},
    ],
    ids=str,
)
def test_splits_that_cannot_be_meant_are_refused_before_anything_is_read(tmp_path, splits):
    with pytest.raises(ValueError, match="splits must be"):
        image_folder(tmp_path, splits=splits)


def test_a_folder_that_splits_names_must_be_there(tmp_path):
    class_folders(tmp_path)
    with pytest.raises(ValueError, match="`splits` says that val is validation, and there is no folder"):
        found(tmp_path, splits={"train": "train", "val": "validation"})


def test_the_fingerprint_of_usual_folders_is_that_of_names_sizes_and_options(tmp_path):
    """So that nothing is trained anew which could be read before there were other rules."""
    class_folders(tmp_path, sizes=(3, 2))
    digest = hashlib.sha256(b"size=8 mirror=False upright=True")
    for split in ("train", "val"):
        digest.update(b"\0" + split.encode())
        for file in sorted((tmp_path / split).rglob("*.png")):
            digest.update(b"\0%s\0%d" % (bytes(file.relative_to(tmp_path)), file.stat().st_size))
    assert image_folder(tmp_path).fingerprint() == digest.hexdigest()
