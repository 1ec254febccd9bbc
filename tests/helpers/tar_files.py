"""Tar files as the library webdataset writes them."""

import io
import tarfile


def tar(file, members, mode="w"):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def members(files, labels, start=0):
    for number, (file, label) in enumerate(zip(files, labels, strict=True), start):
        yield f"{number:06}.png", file.read_bytes()
        yield f"{number:06}.cls", str(label).encode()
        yield f"{number:06}.json", b"{}"


def as_tar(folder, root):
    """The sets of `class_folders(folder)` as tar files, train in two."""
    for split in ("train", "val"):
        files = sorted((folder / split).glob("*/*"))
        classes = sorted({file.parent.name for file in files})
        labels = [classes.index(file.parent.name) for file in files]
        half = len(files) // 2 if split == "train" else len(files)
        tar(root / f"{split}-000000.tar", members(files[:half], labels[:half]))
        if split == "train":
            tar(root / f"{split}-000001.tar", members(files[half:], labels[half:], half))
    return root
