"""Pictures in parquet files: the images of folders, found without guessing, and faults by their row."""

import io
import os
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.image_folders import class_folders, picture, put, save_deep_png
from helpers.parquet_files import as_parquet, picture_table, write
from helpers.run import bench_inline
from PIL import Image

from latentbench.bench.api import from_uint8
from latentbench.bench.data import parquet_rows
from latentbench.bench.data.encoded import EncodedPicture
from latentbench.bench.data.image_folders import ImagesError
from latentbench.bench.data.picture import inspect, read_picture
from latentbench.bench.data.split_files import split_files
from latentbench.bench.registry import create
from latentbench.bench.runtime.prefetch import prefetch

SPLITS = ("train", "val")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def parquet(root, **options):
    return create("datasets", "parquet", root=str(root), **({"size": 8} | options))


def all_levels(data, split):
    return data.levels(split, torch.arange(data.size(split)))


@pytest.fixture
def folder(tmp_path):
    return class_folders(tmp_path / "folder", sizes=(6, 4))


# --- the same images ----------------------------------------------------------------------------------------


def test_a_folder_and_its_parquet_give_the_same_images_labels_and_classes(folder, tmp_path):
    as_folder = create("datasets", "imagefolder", root=str(folder), size=8)
    data = parquet(as_parquet(folder, tmp_path / "set"))
    for split in SPLITS:
        assert torch.equal(all_levels(data, split), all_levels(as_folder, split))
        assert torch.equal(data.labels(split), as_folder.labels(split))
        index = torch.tensor([1, 0])
        assert torch.equal(data.images(split, index), from_uint8(as_folder.levels(split, index)))
    first = as_folder.description()[0]
    assert first == "12 train + 8 val images; 2 classes: cat 50 %, dog 50 %"
    named = "12 train (data/train) + 8 val (data/validation) images"
    assert data.description()[0] == first.replace("12 train + 8 val images", named)
    assert data.description()[1:] == ["3 files; images from the column `image`, labels from `label`"]


def test_rows_are_those_that_pyarrow_and_pillow_read(folder, tmp_path):
    root = as_parquet(folder, tmp_path / "set")
    data = parquet(root, size=10)
    shards = [pq.read_table(file) for file in sorted((root / "data").glob("train-*"))]
    rows = pa.concat_tables(shards).to_pylist()
    for number in (11, 0, 6, 6):
        image = Image.open(io.BytesIO(rows[number]["image"]["bytes"]))
        wanted = np.asarray(image)[:, 1:11].transpose(2, 0, 1)  # 12 x 10 pixels, cropped
        assert np.array_equal(data.levels("train", torch.tensor([number]))[0], wanted)
        assert data.labels("train")[number] == rows[number]["label"]


def test_pictures_of_all_kinds_are_read_from_rows_as_from_files(tmp_path):
    root = put(tmp_path / "kinds", "a.png", "b.jpg", "c.webp")
    picture(3, mode="RGBA").save(root / "d.png")
    picture(4, mode="CMYK").save(root / "e.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(5).save(root / "f.jpg", exif=turned)
    save_deep_png(np.random.default_rng(0).integers(0, 4096, (10, 12, 3)), root / "g.png")
    Image.fromarray(np.random.default_rng(1).random((10, 12), np.float32)).save(root / "h.tif")
    files = sorted(root.glob("*"))
    for file in files:
        place = EncodedPicture(file.name, file.read_bytes())
        for upright in (True, False):
            a, b = read_picture(file, upright), read_picture(place, upright)
            assert a.mode == b.mode and a.tobytes() == b.tobytes()
        assert inspect(file) == inspect(place)
    write(picture_table(files), tmp_path / "set/all.parquet")
    both = (
        create("datasets", "imagefolder", root=str(root), size=8, held_out=0.3),
        parquet(tmp_path / "set", held_out=0.3),
    )
    images = [sorted(image.tobytes() for s in SPLITS for image in all_levels(one, s).numpy()) for one in both]
    assert images[0] == images[1]
    scales = ["float32 grey hold", "uint16 colour hold"]
    assert all(any(scale in line for line in both[1].description()) for scale in scales)


def test_readers_in_other_processes_give_the_same_images(folder, tmp_path):
    data = parquet(as_parquet(folder, tmp_path / "set"))
    indices = [torch.tensor([11, 2, 7]), torch.tensor([0, 5])]
    one = [data.images("train", index) for index in indices]  # this process has read row groups before
    two = list(prefetch(data, "train", indices, workers=2))
    assert all(map(torch.equal, one, two))


def test_mirrored_images_come_after_the_others_and_only_in_train(folder, tmp_path):
    root = as_parquet(folder, tmp_path / "set")
    plain, mirrored = parquet(root), parquet(root, mirror=True)
    assert (mirrored.size("train"), mirrored.mirrored("train"), mirrored.size("val")) == (24, 12, 8)
    assert torch.equal(all_levels(mirrored, "train")[12:], all_levels(plain, "train").flip(3))
    assert plain.fingerprint() != mirrored.fingerprint()


# --- labels -------------------------------------------------------------------------------------------------


def test_labels_are_numbered_as_the_file_s_metadata_names_them(folder, tmp_path):
    files = sorted(folder.glob("train/*/*"))
    write(picture_table(files, [2, 0] * 6, ["zebra", "ant", "cat"]), tmp_path / "set/train.parquet")
    write(picture_table(files[:2], [2, 1], ["zebra", "ant", "cat"]), tmp_path / "set/val.parquet")
    data = parquet(tmp_path / "set")
    assert data.classes == 3 and data.labels("train").tolist() == [2, 0] * 6
    assert data.description()[0].endswith("3 classes: zebra 50 %, ant 0 %, cat 50 %; none in train of ant; "
                                          "none in val of zebra")  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "text", "numbers"),
    [
        (["dog", "cat"], True, [1, 0]),
        (["é", "z"], True, [1, 0]),  # in the order of bytes, as folders are
        ([10, 3], False, [1, 0]),
        ([-1, 1], False, [0, 1]),
    ],
)
def test_labels_without_names_are_classes_in_order(folder, tmp_path, labels, text, numbers):
    files = sorted(folder.glob("train/*/*"))
    write(picture_table(files, labels * 6, text=text), tmp_path / "set/train.parquet")
    write(picture_table(files[:2], labels, text=text), tmp_path / "set/val.parquet")
    data = parquet(tmp_path / "set")
    assert data.classes == 2 and data.labels("train").tolist() == numbers * 6
    assert data.labels("val").tolist() == numbers
    assert all(f"{label} 50 %" in data.description()[0] for label in labels)
    write(
        picture_table(files[:2], [labels[0], "new" if text else 7], text=text), tmp_path / "set/val.parquet"
    )
    with pytest.raises(ImagesError, match=r"row 1 has the label .*(new|7).*, which no image"):
        parquet(tmp_path / "set").labels("val")


def test_plain_bytes_and_any_names_of_columns_are_read(folder, tmp_path):
    files = sorted(folder.glob("train/*/*"))
    content = pa.array([file.read_bytes() for file in files], pa.large_binary())
    table = pa.table({"img": content, "fine": [3] * 12, "coarse": [0, 1] * 6})
    write(table, tmp_path / "set/train.parquet")
    told = {"label": "coarse"}
    data = parquet(tmp_path / "set", splits={"train": "train"}, columns=told, held_out=0.4)
    assert data.classes == 2 and "columns left out: fine" in data.description()
    assert parquet(tmp_path / "set", held_out=0.4).classes == 0  # no column is called label
    assert parquet(tmp_path / "set", held_out=0.4, columns={"label": None}).labels("train") is None


COLUMNS = {  # columns, the option, and what is said
    "two columns of pictures": ({"a": b"", "b": b""}, {}, "columns of pictures a, b: name it by `columns:"),
    "no picture": ({"url": "", "label": 0}, {}, "no column of pictures: name it by `columns: {image: NAME}`; "
                   "the columns are url (string), label (int64)"),
    "addresses": ({"url": ""}, {"image": "url"}, "holds string (addresses or paths: the pictures aren't"),
    "numbers for pictures": ({"a": b"", "x": 1}, {"image": "x"}, "holds int64, not pictures' bytes; a would"),
    "a wrong name": ({"a": b""}, {"image": "image"}, "no column 'image', which `columns` says is the image: "
                     "the columns are a (binary)"),
    "a label of floats": ({"a": b"", "y": 0.5, "z": 1}, {"label": "y"}, "holds double, not whole numbers or "
                          "text; z would do"),
    "two labels": ({"a": b"", "label": 0, "labels": 0}, {}, "columns of labels label, labels: choose by"),
}  # fmt: skip


@pytest.mark.parametrize("fault", COLUMNS)
def test_columns_that_leave_a_doubt_or_hold_something_else_are_named_with_the_choices(tmp_path, fault):
    columns, told, said = COLUMNS[fault]
    write(pa.table({name: [value] for name, value in columns.items()}), tmp_path / "train.parquet")
    with pytest.raises(ImagesError) as caught:
        parquet(tmp_path, columns=told).size("train")
    assert said in str(caught.value) and "train.parquet" in str(caught.value)


# --- splits -------------------------------------------------------------------------------------------------

FILES = {  # files, the files of train and of val, or what is said
    "hugging face": (
        "data/train-00000-of-00002 data/train-00001-of-00002 data/validation-00000-of-00001",
        (2, "data/train", 1, "data/validation"),
    ),
    "with a hash": (
        "data/train-00000-of-00001-a1b2c3d4e5f60718 data/val-00000-of-00001",
        (1, "data/train", 1, "data/val"),
    ),
    "the hub's conversion": (
        "default/train/0000 default/train/0001 default/val/0000",
        (2, "default/train", 1, "default/val"),
    ),
    "numbered": ("train-0 train-1 train_2 valid", (3, "train", 1, "valid")),
    "one numbered way": ("train_0 train_1 dev_0", (2, "train", 1, "dev")),
    "test beside both": ("train val test", (1, "train", 1, "val")),
    "one file": ("pokemon", (1, "pokemon", 0, "")),
    "shards without a split": ("part-0 part-1", (2, "part", 0, "")),
    "numbers alone": ("0000 0001", (2, "", 0, "")),
    "train alone": ("data/train-00000-of-00001", (1, "data/train", 0, "")),
    "test beside train": ("train test", "and none that is val: `splits: {train: train, val: test}`"),
    "something beside train": ("train extra", "and none that is val: `splits: {train: train, val: extra}`"),
    "val alone": ("val", "has val, and none that is train"),
    "test and unlabelled": ("test unsupervised", "`splits: {train: unsupervised, val: test}`"),
    "two subsets": (
        "fine/train fine/val coarse/train coarse/val",
        'may all be train: `splits: {train: "coarse/train", val: "coarse/val"}`',
    ),
    "two of val": ("train val validation", "has val, validation, which may all be val"),
    "unknown names": ("a b", "has a, b, and none that is train"),
    "shards of one name": ("my-set-0000 my-set-0001", (2, "my-set", 0, "")),
    "splits of one name": (
        "in1k-validation-00 in1k-train-0000 in1k-train-0001",
        "`splits: {train: in1k-train, val: in1k-validation-00}`",
    ),
    "folds": ("fold1 fold2", '`splits: {train: "*"}`'),
    "a name that mentions a split": ("my_train_v", "has my_train_v, and none that is train"),
    "a missing shard": (
        "train-00000-of-00003 train-00002-of-00003 val",
        "has 2 of 3 files train-…-of-3; missing: 1",
    ),
    "two sets of shards": (
        "train-00000-of-00001 train-00000-of-00002 train-00001-of-00002 val",
        "shards train of two sets, -of-1 and -of-2",
    ),
    "nothing": ("", "no .parquet files in"),
}  # fmt: skip


def touch(root, names):
    for name in names.split():
        (root / f"{name}.parquet").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.parquet").touch()


@pytest.mark.parametrize("case", FILES)
def test_files_are_splits_by_names_that_leave_no_doubt(tmp_path, case):
    names, wanted = FILES[case]
    touch(tmp_path, f"{names} .cache/train __MACOSX/val")
    if isinstance(wanted, str):
        with pytest.raises(ImagesError) as caught:
            split_files(tmp_path, ".parquet")
        assert wanted in str(caught.value)
        return
    found = split_files(tmp_path, ".parquet")
    own = len(found.train), found.names.train.decode(), len(found.val), found.names.val.decode()
    assert own == wanted
    rest = len(names.split()) - len(found.all)
    assert sum(found.left_out.values()) == rest


@pytest.mark.parametrize(
    ("splits", "train", "val"),
    [
        ({"train": "a/train", "val": "a/test"}, 2, 1),  # files without their numbers
        ({"train": "a/train-*", "val": "b"}, 2, 1),  # a pattern and a folder
        ({"train": "a/train-00000-of-00002.parquet"}, 1, 0),  # a file
        ({"train": "a/train-00001-of-*"}, 1, 0),
        ({"train": "*"}, 4, 0),
        ({"train": "c"}, "`splits` says that train is c, which fits no file in", None),
        ({"train": "a", "val": "a/test"}, "into train and into val", None),
    ],
)
def test_the_option_splits_names_files_folders_or_patterns(tmp_path, splits, train, val):
    touch(tmp_path, "a/train-00000-of-00002 a/train-00001-of-00002 a/test-00000-of-00001 b/x")
    if val is None:
        with pytest.raises(ImagesError, match=train.replace("`", ".")):
            split_files(tmp_path, ".parquet", splits)
    else:
        found = split_files(tmp_path, ".parquet", splits)
        assert (len(found.train), len(found.val)) == (train, val)


def test_without_files_of_val_equal_pictures_are_held_out_together_and_new_rows_move_no_others(tmp_path):
    root = put(tmp_path / "pictures", *(f"{n}.png" for n in range(40)))
    files = sorted(root.glob("*"))
    write(picture_table(files), tmp_path / "a/set.parquet")
    write(picture_table([*files[20:], *files, *files[:7]]), tmp_path / "b/set.parquet")
    few, more = (parquet(tmp_path / name, held_out=0.3) for name in "ab")
    sets = {
        (data, split): {image.tobytes() for image in all_levels(data, split).numpy()}
        for data in (few, more)
        for split in SPLITS
    }
    assert all(sets[few, split] == sets[more, split] for split in SPLITS)
    assert not sets[few, "train"] & sets[few, "val"]
    assert "held out by a hash of the pictures" in few.description()[0]


# --- faults -------------------------------------------------------------------------------------------------


def with_cells(folder, cells=None, **columns):
    files = sorted(folder.glob("train/*/*"))
    table = picture_table(files, [0, 1] * 6, ["cat", "dog"])
    metadata = table.schema.metadata
    rows = table.to_pylist()
    for number, cell in (cells or {}).items():
        rows[number]["image"] = cell
    for name, changed in columns.items():
        for number, value in changed.items():
            rows[number][name] = value
    return pa.Table.from_pylist(rows, table.schema).replace_schema_metadata(metadata)


ROWS = {
    "no picture": ({"cells": {3: None}}, "row 3 (no picture)"),
    "no bytes": ({"cells": {3: {"bytes": None, "path": "x.png"}}}, "row 3 (no picture)"),
    "empty bytes": ({"cells": {3: {"bytes": b"", "path": None}}}, "row 3 (an empty picture)"),
    "no image": ({"cells": {3: {"bytes": b"hello", "path": None}}}, "row 3 (no image)"),
    "a label outside": ({"label": {4: 2}}, "row 4 (the label 2 is none of the 2 classes)"),
    "a negative label": ({"label": {4: -1}}, "row 4 (the label -1 is none of the 2 classes)"),
    "no label": ({"label": {4: None}}, "row 4 (no label)"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_bad_rows_are_named_with_their_file_and_number(folder, tmp_path, fault):
    changes, said = ROWS[fault]
    write(with_cells(folder, **changes), tmp_path / "set/train.parquet", row_group_size=2)
    write(with_cells(folder), tmp_path / "set/val.parquet")
    for _ in range(2):
        with pytest.raises(ImagesError) as caught:
            parquet(tmp_path / "set").fingerprint()
        assert str(caught.value) == f"1 of 24 rows (counted from 0) cannot be read: train.parquet {said}"


def test_a_picture_cut_in_the_middle_is_named_and_one_broken_inside_only_by_verify_all(folder, tmp_path):
    whole = sorted(folder.glob("train/*/*"))[0].read_bytes()
    cut = {"bytes": whole[: len(whole) // 2], "path": None}
    broken = {"bytes": whole[:60] + bytes(20) + whole[80:], "path": None}
    write(with_cells(folder, {5: cut}), tmp_path / "cut.parquet")
    write(with_cells(folder, {5: broken}), tmp_path / "broken.parquet")
    with pytest.raises(ImagesError, match="cut.parquet row 5"):
        parquet(tmp_path / "cut.parquet").size("train")
    assert parquet(tmp_path / "broken.parquet", held_out=0.3).fingerprint()
    with pytest.raises(ImagesError, match="broken.parquet row 5"):
        parquet(tmp_path / "broken.parquet", held_out=0.3, verify="all").size("train")


def change(file, what):
    content = file.read_bytes()
    if what == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 1\n")
    elif what == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif what == "empty":
        file.write_bytes(b"")
    elif what == "page":
        file.write_text("<!DOCTYPE html>")
    elif what == "footer":
        file.write_bytes(content[:-200] + bytes(192) + content[-8:])
    elif what == "inside":
        file.write_bytes(content[:10] + bytes(len(content) // 2) + content[10 + len(content) // 2 :])


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("pointer", "is a pointer of Git LFS, not the file itself: `git lfs pull` gets it"),
        ("cut", "is cut: its"),
        ("empty", "is no parquet file: it begins with b''"),
        ("page", "is no parquet file: it begins with b'<!DOCTYP'"),
        ("footer", "cannot be read: "),
        ("inside", "is damaged after row 0: "),
    ],
)
def test_files_that_are_no_whole_parquet_are_named(folder, tmp_path, what, said):
    root = as_parquet(folder, tmp_path / "set")
    file = root / "data/train-00001-of-00002.parquet"
    change(file, what)
    with pytest.raises(ImagesError) as caught:
        parquet(root).size("train")
    assert f"{file} {said}" in str(caught.value) and "\n" not in str(caught.value)


def test_files_with_other_classes_or_columns_than_the_first_are_named(folder, tmp_path):
    files = sorted(folder.glob("train/*/*"))
    write(picture_table(files, [0, 1] * 6, ["cat", "dog"]), tmp_path / "train.parquet")
    write(picture_table(files, [0, 1] * 6, ["dog", "cat"]), tmp_path / "val.parquet")
    with pytest.raises(ImagesError, match="other class names: dog, cat and cat, dog"):
        parquet(tmp_path).size("train")
    write(picture_table(files), tmp_path / "val.parquet")
    with pytest.raises(
        ImagesError, match="images and labels are image, label in .*train.parquet, and image in .*val.parquet"
    ):
        parquet(tmp_path).size("train")


# --- memory, and what is remembered -------------------------------------------------------------------------


def test_row_groups_are_read_once_for_a_batch_and_few_are_kept(folder, tmp_path, monkeypatch):
    data = parquet(as_parquet(folder, tmp_path / "set"))
    data.size("train")
    read = []
    plain = parquet_rows.RowReader._read
    monkeypatch.setattr(parquet_rows, "KEPT", 1)
    monkeypatch.setattr(
        parquet_rows.RowReader, "_read", lambda self, *place: read.append(place) or plain(self, *place)
    )
    all_levels(data, "train")
    assert read == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]  # 5 + 7 rows in groups of 3
    assert len(data._reader._kept) == 1
    data.levels("train", torch.tensor([11, 0, 10, 1]))
    assert read[5:] == [(0, 0), (1, 1), (1, 2)]


def test_row_groups_that_would_fill_the_memory_are_named_with_what_to_do(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_rows, "LARGEST_GROUP", 100)
    with pytest.raises(ImagesError, match="row group 0 of .* write the file with smaller ones"):
        parquet(as_parquet(folder, tmp_path / "set")).size("train")


def settled(root):
    """Files that changed long ago are remembered."""
    for file in root.rglob("*.parquet"):
        os.utime(file, (time.time() - 60,) * 2)
    return root


def test_rows_are_listed_once_until_a_file_changes(folder, tmp_path, monkeypatch):
    root = settled(as_parquet(folder, tmp_path / "set"))
    before = parquet(root)
    fingerprint, labels = before.fingerprint(), before.labels("train")
    monkeypatch.setattr(parquet_rows, "_indexed", None)
    again = parquet(root)
    assert again.fingerprint() == fingerprint and torch.equal(again.labels("train"), labels)
    assert again.description() == before.description()
    monkeypatch.undo()
    os.utime(root / "data/validation-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="validation-00000-of-00001.parquet has changed since"):
        all_levels(again, "val")
    assert parquet(root).fingerprint() == fingerprint  # its content is the same


def test_the_fingerprint_is_that_of_pictures_and_labels_and_not_of_the_files(folder, tmp_path):
    root = as_parquet(folder, tmp_path / "set")
    first = parquet(root).fingerprint()
    tables = [pq.read_table(file) for file in sorted((root / "data").glob("train-*"))]
    whole = pa.concat_tables(tables)
    write(whole.append_column("more", [["x"] * 12]), tmp_path / "again/train.parquet", compression="zstd")
    write(pq.read_table(root / "data/validation-00000-of-00001.parquet"), tmp_path / "again/val.parquet")
    assert parquet(tmp_path / "again").fingerprint() == first
    changed = [
        whole.take(list(range(11, -1, -1))),
        whole.set_column(1, "label", [[0] * 11 + [1]]),
        with_cells(folder, {0: {"bytes": sorted(folder.glob("val/*/*"))[0].read_bytes(), "path": "x"}}),
    ]
    for table in changed:
        write(table.replace_schema_metadata(whole.schema.metadata), tmp_path / "again/train.parquet")
        assert parquet(tmp_path / "again").fingerprint() != first
    assert parquet(root, size=9).fingerprint() != first != parquet(root, upright=False).fingerprint()


# --- through the command line -------------------------------------------------------------------------------

MATRIX = """\
name: rows
dataset: {use: parquet, root: set, size: 16}
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


def test_a_parquet_set_is_planned_and_run_and_a_bad_row_ends_a_run_before_it_starts(folder, tmp_path):
    root = as_parquet(folder, tmp_path / "set")
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    for command in (("plan",), ("run", "-q")):
        done = bench_inline(*command, cwd=tmp_path, home=tmp_path / "home")
        assert done.returncode == 0, done.stdout + done.stderr
        said = (
            "parquet: 12 train (data/train) + 8 val (data/validation) images; 2 classes: cat 50 %, dog 50 %"
        )
        assert said in done.stdout.splitlines()
    file = root / "data/validation-00000-of-00001.parquet"
    write(with_cells(folder, {3: None}), file)
    for command in ("plan", "run"):
        done = bench_inline(command, cwd=tmp_path, home=tmp_path / "home")
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert (
            f"matrix.yaml:2:1: 1 of 24 rows (counted from 0) cannot be read: {file.name} row 3" in done.stderr
        )


def test_a_set_that_is_not_here_is_planned_by_what_is_said_of_it(tmp_path):
    told = "root: elsewhere, count: {train: 1281167, val: 50000}, classes: 1000"
    (tmp_path / "matrix.yaml").write_text(MATRIX.replace("root: set", told))
    done = bench_inline("plan", cwd=tmp_path)
    assert "parquet: 1,281,167 train + 50,000 val images of 3 x 16 x 16; 1,000 classes" in done.stdout
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    done = bench_inline("plan", cwd=tmp_path)
    assert done.returncode == 2 and "matrix.yaml:2:1: there is no folder set" in done.stderr


@pytest.mark.parametrize("part", ["imagefolder", "parquet"])
def test_the_sizes_of_pictures_are_those_of_their_files_as_they_are_shown(tmp_path, part):
    put(tmp_path / "folder", "train/cat/", "val/cat/")
    tag = Image.Exif()
    tag[0x0112] = 6  # turned by a right angle
    for split in SPLITS:
        for number, (width, height, exif) in enumerate([(40, 30, None), (16, 50, None), (40, 30, tag)]):
            file = tmp_path / f"folder/{split}/cat/{number}.jpg"
            picture(number, width, height).save(file, **({"exif": exif} if exif else {}))
    root = tmp_path / "folder" if part == "imagefolder" else as_parquet(tmp_path / "folder", tmp_path / "set")
    data = create("datasets", part, root=str(root), size=8)
    assert data.picture_sizes(9) == [(40, 30), (16, 50), (30, 40)]
    assert len(data.picture_sizes(2)) == 2 and create("datasets", "digits").picture_sizes(9) == []
