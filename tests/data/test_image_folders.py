"""Which folders are classes and which files are images, what is left out, and that all of it is said."""

import os
import socket
import sys

import pytest
import torch
from helpers.image_folders import class_folders, image_folder, picture, put
from PIL import Image

from latentbench.bench.data import image_folders
from latentbench.bench.data.image_folders import ImagesError
from latentbench.bench.data.image_index import list_images


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def names(root, **options):
    return [os.fsdecode(name) for name in list_images(root, **options).names.tolist()]


def said(root, **options):
    return "\n".join(image_folder(root, **options).description())


@pytest.mark.parametrize(
    "hidden",
    [".ipynb_checkpoints", ".Trash-1000", ".AppleDouble", "@eaDir", "__MACOSX", "__macosx", "$RECYCLE.BIN"],
)
@pytest.mark.parametrize("place", ["", "train/", "train/cat/"])
def test_hidden_folders_are_no_classes_and_hold_no_images(tmp_path, hidden, place):
    put(class_folders(tmp_path), f"{place}{hidden}/0.png", f"{place}{hidden}/cat/1.png")
    data = image_folder(tmp_path)
    assert (data.size("train"), data.size("val"), data.classes) == (48, 16, 2)
    assert f"files left out: 2 in hidden folders ({place}{hidden})" in said(tmp_path)


def test_hidden_folders_hold_no_images_of_a_set_without_splits_either(tmp_path):
    put(tmp_path, *(f"{n}.png" for n in range(30)), ".thumbs/0.png", "__MACOSX/._0.png")
    assert len(names(tmp_path)) == 30 and image_folder(tmp_path, held_out=0.3).classes == 0


@pytest.mark.parametrize("suffix", sorted(image_folders.SUFFIXES))
def test_every_suffix_is_read(tmp_path, suffix):
    for split, seed in (("train", 1), ("val", 2)):
        (tmp_path / split).mkdir()
        original = picture(seed, mode={".pgm": "L", ".pbm": "1", ".pfm": "F"}.get(suffix, "RGB"))
        original.save(tmp_path / split / f"x{suffix.upper()}")
    levels = image_folder(tmp_path).levels("train", torch.tensor([0]))
    assert 0 < levels.float().mean() < 255 and levels.float().std() > 10


def test_files_that_are_no_images_are_counted_by_their_suffix(tmp_path):
    class_folders(tmp_path)
    for name in ("a.heic", "b.HEIC", "notes.txt", "README", "._0.png", ".DS_Store"):
        (tmp_path / "train/cat" / name).write_bytes(b"x")
    assert said(tmp_path).splitlines()[1] == (
        "files left out: 2 hidden (train/cat/.DS_Store, train/cat/._0.png), "
        "4 of other types (2 .heic, 1 without a suffix, 1 .txt)"
    )


@pytest.mark.parametrize(("suffix", "part"), [("parquet", "parquet"), ("tar", "webdataset")])
def test_a_folder_without_images_names_the_dataset_that_reads_what_is_there(tmp_path, suffix, part):
    (tmp_path / f"train-0.{suffix}").write_bytes(b"x")
    with pytest.raises(ImagesError, match=f"no images in .*; `use: {part}` reads .{suffix}"):
        list_images(tmp_path)


def test_a_folder_with_the_name_of_an_image_is_a_folder(tmp_path):
    put(class_folders(tmp_path), "train/cat/x.jpg/1.png", "train/dog.png/")
    assert image_folder(tmp_path).size("train") == 49
    assert "folders left out: 1 without an image (train/dog.png)" in said(tmp_path)


def test_a_link_to_nothing_and_an_empty_file_are_problems_that_are_named(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "train/cat/x.jpg").symlink_to("/nowhere/y.jpg")
    (tmp_path / "train/cat/y.jpg").symlink_to("y.jpg")
    (tmp_path / "train/cat/z.png").write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        list_images(tmp_path)
    for text in ("x.jpg (a link to /nowhere/y.jpg, which is missing)", "z.png (an empty file)"):
        assert text in str(caught.value)
    assert "3 of 67 images" in str(caught.value)


def test_what_opening_would_wait_for_is_left_out(tmp_path):
    put(tmp_path, "a.png", "b.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.png"))
        listing = list_images(tmp_path)
    assert listing.names.tolist() == [b"a.png", b"b.png"] and listing.left_out.files == 2


@pytest.mark.parametrize("target", ["..", "../..", "../../..", "/", "."])
def test_a_link_that_leads_back_is_left_out_and_named(tmp_path, target):
    class_folders(tmp_path / "set")
    (tmp_path / "set/train/loop").symlink_to(target)
    data = image_folder(tmp_path / "set")
    assert (data.size("train"), data.size("val"), data.classes) == (48, 16, 2)
    assert "folders left out: 1 read by another path or above the root (train/loop)" in said(tmp_path / "set")


def test_a_folder_is_read_once_under_its_own_name(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "train/ape").symlink_to("cat")  # before it in the alphabet
    (tmp_path / "train/cow").symlink_to("../val/dog")  # or held-out images would be trained on
    data = image_folder(tmp_path)
    assert (data.size("train"), data.size("val"), data.classes) == (48, 16, 2)
    assert "(train/ape, train/cow)" in said(tmp_path)


def test_links_to_other_places_are_followed(tmp_path):
    class_folders(tmp_path, ("store/cats", "set/.store/dogs"), (20, 20), ("a",))
    (tmp_path / "set/train").mkdir()
    (tmp_path / "set/train/cat").symlink_to(tmp_path / "store/cats")
    (tmp_path / "set/train/dog").symlink_to("../.store/dogs")
    data = image_folder(tmp_path / "set", held_out=0.3)
    assert data.size("train") + data.size("val") == 40 and data.classes == 2
    assert "left out" not in said(tmp_path / "set", held_out=0.3)


def test_a_link_beside_the_splits_is_named_and_what_it_leads_to_is_not_counted(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "all").symlink_to("/")
    assert "folders left out: 1 linked beside those of splits (all)" in said(tmp_path)


def test_a_folder_that_cannot_be_opened_is_a_problem(tmp_path, monkeypatch):
    class_folders(tmp_path)
    scandir = os.scandir

    def refuse(folder):
        if os.fsencode(folder).endswith(b"val/dog"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match="val/dog cannot be opened: Permission denied"):
        list_images(tmp_path)


def test_classes_are_described_with_their_proportions(tmp_path):
    counts = {"a": 70, "b": 10, "c": 12, "d": 8}
    put(tmp_path, *(f"train/{kind}/{n}.png" for kind, count in counts.items() for n in range(count)))
    put(tmp_path, *(f"val/{kind}/{n}.png" for kind in "abc" for n in range(3)), "train/e/")
    assert said(tmp_path).splitlines() == [
        "100 train + 9 val images; 4 classes: a 70 %, b 10 %, c 12 %, d 8 %; none in val of d",
        "folders left out: 1 without an image (train/e)",
    ]


def test_many_classes_are_shortened(tmp_path):
    put(tmp_path, *(f"train/k{k:02}/{n}.png" for k in range(40) for n in range(1 + k % 3)))
    put(tmp_path, *(f"val/k{k:02}/0.png" for k in range(40)))
    text = said(tmp_path)
    assert "40 classes of 1 to 3: k00 1.27 %, " in text and text.endswith(" and 34 more")
    assert len(text) < 250


def test_held_out_images_and_deep_pixels_are_described(tmp_path):
    (tmp_path / "x").mkdir()
    for n in range(40):
        Image.fromarray(torch.arange(100).reshape(10, 10).numpy().astype("uint16") * 40).save(
            tmp_path / f"x/{n}.png"
        )
    lines = image_folder(tmp_path).description()
    assert "(held out by a hash of their names) images; 1 class: x 100 %" in lines[0]
    assert lines[1] == "40 of uint16 grey hold 0 to 3,960: 0 is black, 4,095 is white"


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems hold UTF-8 only")
def test_names_of_any_bytes_are_read_and_described_on_one_line(tmp_path):
    for kind in (b"caf\xe9", b"a\nb\x1b[31m", "猫".encode()):
        folder = os.path.join(os.fsencode(tmp_path), kind)
        os.mkdir(folder)
        for n in range(20):
            picture(n).save(os.fsdecode(os.path.join(folder, b"%d.png" % n)))
    lines = image_folder(tmp_path, held_out=0.3).description()
    assert len(lines) == 1 and lines[0].isprintable()
    assert all(kind in lines[0] for kind in (r"caf\xe9", r"a\nb\x1b[31m", "猫"))
    assert image_folder(tmp_path, held_out=0.3).images("train", torch.tensor([0])).shape == (1, 3, 8, 8)


def test_the_stored_listing_knows_all_that_the_first_one_did(tmp_path):
    put(class_folders(tmp_path), "train/.x/0.png", "train/cat/.y.png", "test/0.png")
    Image.fromarray(torch.arange(100).reshape(10, 10).numpy().astype("uint16")).save(
        tmp_path / "val/cat/d.png"
    )
    for folder, _, _ in os.walk(tmp_path):
        os.utime(folder, (1e9, 1e9))
    first = image_folder(tmp_path)
    stored = image_folder(tmp_path)
    assert first.fingerprint() == stored.fingerprint() and first.description() == stored.description()
    assert len(first.description()) == 3
    assert first._found.listing.scales == stored._found.listing.scales


def test_a_folder_beside_train_that_comes_later_is_noticed(tmp_path):
    class_folders(tmp_path, ("train",), (30,))
    put(tmp_path, "test/")
    for folder, _, _ in os.walk(tmp_path):
        os.utime(folder, (1e9, 1e9))
    assert len(names(tmp_path)) == 60
    put(tmp_path, "test/0.png")
    os.utime(tmp_path, (1e9, 1e9))  # the root itself is as before
    with pytest.raises(ValueError, match="train and test, and none that is val"):
        names(tmp_path)
