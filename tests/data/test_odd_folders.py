"""Whatever a folder holds, each file is an image of one split or left out, or an error says why not."""

import io
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from helpers.image_folders import image_folder, picture, save_deep_png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentbench.bench.api import to_uint8
from latentbench.bench.tools.audit import AuditError, read

TRAIN = [b"train", b"Train", b"training", b"TRAIN", b"train2017", b"train_set"]
VAL = [b"val", b"Val", b"validation", b"valid", b"dev", b"val2017"]
TEST = [b"test", b"Test", b"testing", b"eval"]
SPLITS = [*TRAIN, *VAL, *TEST]
HIDDEN = [
    b".ipynb_checkpoints",
    b".Trash-1000",
    b".AppleDouble",
    b"__MACOSX",
    b"@eaDir",
    b".x.jpg",
]
CLASSES = [b"cat", b"dog", b"x.jpg", b"train station", b"a\nb", b"caf\xe9", "猫".encode(), b"images", b" "]


def jpeg(seed):
    file = io.BytesIO()
    picture(seed).save(file, "JPEG")
    return file.getvalue()


def png(seed, mode="RGB"):
    file = io.BytesIO()
    picture(seed, mode=mode).save(file, "PNG")
    return file.getvalue()


def tiff(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def deep_png(channels, top):
    with tempfile.TemporaryDirectory() as folder:
        values = np.random.default_rng(channels).integers(0, top, (10, 12, channels))
        save_deep_png(values, Path(folder, "x.png"))
        return Path(folder, "x.png").read_bytes()


def animation():
    file = io.BytesIO()
    picture(0).save(file, "GIF", save_all=True, append_images=[picture(1), picture(2)])
    return file.getvalue()


RANDOM = np.random.default_rng(0)
GOOD = {  # contents of files that can be read
    **{f"jpeg {n}": (b".jpg", jpeg(n)) for n in range(6)},
    **{f"png {mode}": (b".png", png(0, mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    **{
        f"png of 16 bits, {c}, {top}": (b".png", deep_png(c, top))
        for c in (1, 2, 3, 4)
        for top in (4096, 65536)
    },
    "float tiff": (b".TIF", tiff(RANDOM.random((10, 12)).astype("f4"))),
    "float colour tiff": (b".tiff", tiff(RANDOM.random((10, 12, 3)).astype("f4"), photometric="rgb")),
    "signed tiff": (b".tif", tiff(RANDOM.integers(-1000, 3000, (10, 12)).astype("i2"))),
    "tiff on its side": (b".tif", tiff(np.zeros((10, 12), "u1"), extratags=[(274, "H", 1, 6, True)])),
    "gif": (b".gif", animation()),
    "jpeg called png": (b".png", jpeg(7)),
    "png called jpeg": (b".JPEG", png(7)),
}
BAD = {  # images by their names that cannot be read
    "empty": (b".jpg", b""),
    "text": (b".png", b"no image"),
    "web page": (b".jpg", b"<!DOCTYPE html><html></html>"),
    "pointer": (b".png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "cut jpeg": (b".jpg", jpeg(0)[:-40]),
    "cut png": (b".png", png(0)[:60]),
    "cut tiff": (b".tif", tiff(np.ones((10, 12), "u2"))[:-100]),
    "bad tiff": (b".tif", b"II*\0\xff\xff\xff\xff"),
    "nan": (b".tif", tiff(np.full((10, 12), np.nan, "f4"))),
    "five channels": (
        b".tif",
        tiff(np.zeros((9, 9, 5), "u1"), photometric="minisblack", planarconfig="contig"),
    ),
    "head alone": (b".png", b"\x89PNG\r\n\x1a\n"),
}
OTHER = {  # files that are no images by their names
    "notes": (b".txt", b"x"),
    "phone": (b".heic", b"x"),
    "nothing": (b"", b""),
    "labels": (b".json", b"{}"),
}
CONTENTS = GOOD | BAD | OTHER
LINKS = ["/nowhere", ".", "..", "../..", "/", "../cat", "../train", "../.Trash-1000", "x"]  # targets

stems = st.sampled_from([b"0", b"1", b"2", b"3", b"a b", b"\xff", b".hidden", b"._0", b"train"])
good = st.sampled_from(sorted(GOOD))
files = st.tuples(stems, st.one_of(good, good, good, good, good, st.sampled_from(sorted(OTHER))))
odd_files = st.tuples(stems, st.sampled_from(sorted(BAD)))
links = st.tuples(st.sampled_from([b"link", b"link.jpg", b"zoo"]), st.sampled_from(LINKS))


def trees(names, inner, most):
    """Folders by name with inner folders, files, and now and then a bad file or a link."""
    seldom = st.one_of(
        st.just([]), st.just([]), st.just([]), st.lists(st.one_of(odd_files, links), max_size=1)
    )
    return st.dictionaries(names, st.tuples(inner, st.lists(files, max_size=6), seldom), max_size=most)


leaves = trees(st.sampled_from([*CLASSES, *HIDDEN, b"train", b"val"]), st.just({}), 3)
classes = trees(st.sampled_from([*CLASSES, *HIDDEN]), st.one_of(st.just({}), st.just({}), leaves), 4)
tops = st.one_of(
    trees(st.sampled_from([*SPLITS, *HIDDEN, *CLASSES]), classes, 4),
    st.fixed_dictionaries(
        {}, optional={name: classes.map(lambda t: (t, [], [])) for name in (b"train", b"val")}
    ),
    classes,
)
wild = st.tuples(tops, st.lists(files, max_size=3), st.just([]))


@st.composite
def sets(draw):
    """A folder as it is meant, with some things that have come into it."""
    splits = draw(
        st.sampled_from([[], [], [TRAIN], [TRAIN, VAL], [TRAIN, VAL], [TRAIN, VAL, TEST], [TRAIN, TEST]])
    )
    names = [draw(st.sampled_from(options)) for options in splits]
    kinds = draw(st.lists(st.sampled_from(CLASSES[:-2]), unique=True, max_size=3))
    some_good = st.lists(st.tuples(stems, good), min_size=3, max_size=7)

    def images():
        """Folders of classes, and files where there are none."""
        return {kind: ({}, draw(some_good), []) for kind in kinds}, [] if kinds else draw(some_good)

    inner = {name: (*images(), []) for name in names}
    tree, own = (inner, []) if names else images()
    folders = [tree, *(folder for folder, _, _ in tree.values())]
    for place in draw(st.lists(st.integers(0, len(folders) - 1), max_size=3)):
        name = draw(st.sampled_from([*HIDDEN, b"empty", b"aardvark", b"zebra"]))
        several = st.lists(st.one_of(files, files, links, odd_files), max_size=1 if name == b"empty" else 3)
        few = draw(st.one_of(several, st.lists(st.tuples(stems, good), max_size=4)))
        folders[place].setdefault(name, ({}, few, []))
    return tree, own, draw(st.one_of(st.just([]), st.lists(st.one_of(files, links), max_size=2)))


roots = st.one_of(sets(), sets(), sets(), wild)


def lay(folder, tree, some_files, odd=()):
    """Makes a folder of a tree; names that are taken are left as they are."""
    os.makedirs(folder, exist_ok=True)
    for name, (inner, own, oddities) in tree.items():
        lay(os.path.join(folder, name), inner, own, oddities)
    for stem, content in [*some_files, *odd]:
        if content in CONTENTS:
            suffix, data = CONTENTS[content]
            path = os.path.join(folder, stem + suffix)
            if not os.path.lexists(path):
                Path(os.fsdecode(path)).write_bytes(data)
        elif not os.path.lexists(os.path.join(folder, stem)):
            os.symlink(content, os.path.join(folder, stem))


def files_below(root):
    return sum(len(names) for _, _, names in os.walk(root))


def hidden(part):
    return part.startswith(b".") or part in HIDDEN


def check_folder(tree):
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary, "set")
        lay(os.fsencode(root), *tree)
        data = image_folder(root, size=4, held_out=0.3)
        try:
            data.fingerprint()
        except ValueError as error:
            assert str(root) in str(error) or "images of a class" in str(error) or "only class" in str(error)
            assert type(error).__name__ == "ImagesError", error
            return False
        names = {split: files.names.tolist() for split, files in data._splits.items()}
        every = [*names["train"], *names["val"]]
        assert len(every) + data._found.listing.left_out.files == files_below(root)
        assert len(set(every)) == len(every)
        check_splits(os.fsencode(root), names)
        assert not any(hidden(part) for name in every for part in name.split(b"/"))
        assert not {name.lower() for name in data._found.classes} & {name.lower() for name in SPLITS[:3]}
        assert all(line.isprintable() for line in data.description())
        for split in ("train", "val"):
            images = data.images(split, torch.arange(data.size(split)))
            assert images.isfinite().all() and images.abs().max() <= 1
            labels = data.labels(split)
            assert (labels is None) == (data.classes == 0)
            assert labels is None or 0 <= labels.min() and labels.max() < data.classes
        return True


def check_splits(root, names):
    """No image is in a split that its folder's name speaks against."""
    folders = {name for name in os.listdir(root) if os.path.isdir(os.path.join(root, name))}
    own = {
        split: {name.partition(b"/")[0] for name in names[split] if name.partition(b"/")[0] in SPLITS}
        for split in names
    }
    assert not (own["train"] | own["val"]) & set(TEST)
    assert own["train"] <= set(TRAIN) and own["val"] <= set(TRAIN + VAL)
    if folders & set(VAL):
        assert len(own["train"]) == len(own["val"]) == 1 and own["val"] <= set(VAL)
        assert all(name.partition(b"/")[0] in VAL for name in names["val"])
    if folders & set(TRAIN):
        assert all(name.partition(b"/")[0] in SPLITS for name in names["train"])


def check_flat(found):
    """`bench audit` and the dataset read the same images of one folder, or both refuse it."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary, "set")
        lay(os.fsencode(root), {}, *found)
        try:
            images = read(root)
        except AuditError:
            images = None
        data = image_folder(root, size=12, held_out=0.5)
        try:
            data.fingerprint()
        except ValueError as error:
            # A dataset needs an image for each split.
            assert images is None or "no images for" in str(error), error
            return False
        assert images is not None
        names = data._found.listing.names.tolist()
        assert len(images.images) == len(names) == data.size("train") + data.size("val")
        same = to_uint8(images.of_shape((12, 12), adm_crop))
        for split in ("train", "val"):
            levels = data.levels(split, torch.arange(data.size(split)))
            for name, image in zip(data._splits[split].names.tolist(), levels, strict=True):
                assert torch.equal(same[names.index(name)].expand(3, -1, -1), image), name
        return True


def adm_crop(image, side):
    from latentbench.bench.data.images import adm_centre_crop

    return adm_centre_crop(np.repeat(image, 3 // image.shape[2], axis=2), side)


EXAMPLES = [pytest.param(700, marks=pytest.mark.nightly), 40]
FLAT = st.tuples(
    st.lists(files, min_size=3, max_size=9),
    st.one_of(st.just([]), st.just([]), st.lists(odd_files, max_size=1)),
)


def played(check, strategy, examples):
    """How often a check found a folder that can be read."""
    readable = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 100,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def play(value):
        readable.append(check(value))

    play()
    return sum(readable) / len(readable)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize(
    ("check", "strategy"), [(check_folder, roots), (check_flat, FLAT)], ids=["any", "flat"]
)
def test_each_file_is_in_one_split_or_left_out_or_said_to_be_a_problem(
    check, strategy, examples, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert played(check, strategy, examples) > 0.15  # not nearly all are refused
