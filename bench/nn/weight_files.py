"""Tensors from weight files, and what is wrong with files that hold none.

A file's content says what it is, not its suffix. No file runs code: pickles may hold tensors and plain data.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ..options.words import listed

# Keys of the weights in a checkpoint, averaged weights first.
WRAPPERS = (
    "vae_ema",
    "vae_wo_ddp",
    "ema",
    "model_ema",
    "params_ema",
    "model",
    "state_dict",
    "params",
    "module",
)
# What wrappers put before names: DataParallel, torch.compile, latent diffusion, diffusers' pipelines.
PREFIXES = ("module.", "_orig_mod.", "first_stage_model.", "vae.", "model.")
HEAD = 512  # bytes that tell the kinds of files apart
LONGEST_HEADER = 100_000_000  # bytes of a safetensors header, the format's own limit
PICKLES = range(2, 6)  # protocols
AGAIN = "download it again"
STARTS = {  # of files that are something else
    b"version https://git-lfs": "is a Git LFS pointer, not the weights: run `git lfs pull` in its folder",
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
    b"\x89HDF": "is an HDF5 file: save the weights as safetensors",
    b"GGUF": "is a GGUF file: save the weights as safetensors",
    b"\x93NUMPY": "is a NumPy array without names: save named tensors as safetensors",
}


class BadWeights(ValueError):
    """A file that cannot be used as weights; the message names the file, what it is, and what to do."""


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file or of a torch checkpoint, under the first of its WRAPPERS.

    Raises:
        BadWeights: the file is no such file, or holds no named tensors.
    """
    if is_safetensors(file):
        return _safetensors(file)
    content: Any = _torch(file)
    if not isinstance(content, Mapping):
        kind = "one tensor without a name" if isinstance(content, Tensor) else f"a {type(content).__name__}"
        raise BadWeights(f"{file} holds {kind}, not named tensors: save a module's state_dict()")
    wrapped = (content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping))
    chosen = next(wrapped, content)
    tensors = {str(name): value for name, value in chosen.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = listed([str(key) for key in chosen], 5) or "none"
        raise BadWeights(f"{file} holds no tensors; its keys are {keys}")
    return tensors


def without_prefix(tensors: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The tensors under one or several of PREFIXES, whose names without them are among the wanted ones.

    Without a prefix that helps, all tensors under their own names.
    """
    if wanted.isdisjoint(tensors):
        for prefix in PREFIXES:
            inner = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
            found = without_prefix(inner, wanted) if inner else {}
            if not wanted.isdisjoint(found):
                return found
    return dict(tensors)


def is_safetensors(file: Path) -> bool:
    """Whether a file begins as safetensors do; only its first bytes and a zip archive's end are read.

    Raises:
        BadWeights: it is neither that nor a whole file of torch's.
    """
    if file.is_dir():
        raise BadWeights(f"{file} is a folder: name the file in it that has the weights")
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(HEAD)
    if not head:
        raise BadWeights(f"{file} is empty: {AGAIN}")
    for start, problem in STARTS.items():
        if head.startswith(start):
            raise BadWeights(f"{file} {problem}")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        raise BadWeights(f"{file} is a web page, not the weights: download the file that the page offers")
    if head[8:9] == b"{":
        (header,) = struct.unpack("<Q", head[:8])
        if header <= LONGEST_HEADER and 8 + header > size:
            raise BadWeights(f"{file} is cut off within its header: {AGAIN}")
        return True
    if head.startswith(b"PK") and not _is_zip(file):
        raise BadWeights(f"{file} is cut off or broken at its end: {AGAIN}")
    if not head.startswith((b"PK", *(bytes([0x80, protocol]) for protocol in PICKLES))):
        kind = "text" if head.isascii() else "of no format that is known"
        raise BadWeights(f"{file} is {kind}: weights are safetensors or torch files")
    return False


def _is_zip(file: Path) -> bool:
    """Whether a file ends as zip archives do."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # its end cannot be read
        return False


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        cut = "IncompleteBuffer" in str(error) or "incomplete" in str(error).lower()
        problem = f"is cut off: {AGAIN}" if cut else f"is broken: {error}"
        raise BadWeights(f"{file} {problem}") from error


def _torch(file: Path) -> Any:
    """The content of a torch file, which may be anything that a pickle without code can hold."""
    try:
        zipped = _is_zip(file)
        if zipped:
            _check_archive(file)
        if file.suffix == ".safetensors":  # of a path with this suffix, torch would not read a torch file
            with file.open("rb") as opened:
                return torch.load(opened, "cpu", weights_only=True)
        return torch.load(file, "cpu", weights_only=True, mmap=zipped)
    except (BadWeights, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in any way
        raise BadWeights(f"{file} {_torch_problem(error)}") from error


def _check_archive(file: Path) -> None:
    """Raises BadWeights for a zip archive that torch hasn't written."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    if not any(name.endswith("/data.pkl") for name in names):
        what = "NumPy arrays" if any(name.endswith(".npy") for name in names) else "other files"
        raise BadWeights(f"{file} is a zip archive of {what} ({listed(names, 3)}): weights are one file")


def _torch_problem(error: Exception) -> str:
    """The fault of a torch file, without torch's advice to allow code, which nobody should follow."""
    text = str(error)
    if isinstance(error, EOFError) or "truncated" in text or "unexpected EOF" in text:
        return f"is cut off: {AGAIN}"
    if isinstance(error, UnpicklingError) and (called := re.search(r"GLOBAL ([\w.]+)", text)):
        return (
            f"needs code to be read ({called[1]}), which weights must not: where you trust it, save its "
            "tensors as safetensors"
        )
    if isinstance(error, UnpicklingError | zipfile.BadZipFile | struct.error | LookupError):
        return f"is broken or cut off: {AGAIN}"
    return f"cannot be read: {type(error).__name__}: {text.partition(chr(10))[0]}"
