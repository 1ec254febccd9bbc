"""Folders of small pictures, such as people have them."""

import struct
import zlib

import numpy as np
from PIL import Image

from latentbench.bench.registry import create

DEEP_PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's colour type by the number of samples


def picture(seed, width=12, height=10, mode="RGB"):
    """A smooth picture, so that JPEG changes little of it."""
    values = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def put(root, *names):
    """A picture for each name below a root; a name that ends with a slash is a folder."""
    for number, name in enumerate(names):
        file = root / name
        if name.endswith("/"):
            file.mkdir(parents=True, exist_ok=True)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(hash_of(name) + number).save(file)
    return root


def hash_of(name):
    return zlib.crc32(name.encode())


def class_folders(root, splits=("train", "val"), sizes=(24, 8), classes=("cat", "dog")):
    """SPLIT/CLASS/N.png; an empty split is the root itself."""
    for split, size in zip(splits, sizes, strict=True):
        put(root, *(f"{split}/{kind}/{n}.png" for kind in classes for n in range(size)))
    return root


def image_folder(root, **options):
    return create("datasets", "imagefolder", root=str(root), **({"size": 8} | options))


def save_deep_png(samples, file, transparent=None):
    """Writes 16 bits a sample (H, W, 1 to 4), which Pillow does in grey only; `transparent` is a colour."""
    height, width, count = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, DEEP_PNG_COLOURS[count], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if transparent is not None:
        chunks.insert(1, (b"tRNS", np.asarray(transparent, ">u2").tobytes()))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
