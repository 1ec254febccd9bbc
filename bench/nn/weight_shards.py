"""Weights in several files, with an index (`*.safetensors.index.json`) that names the file of each tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..options.words import listed
from .weight_files import BadWeights, read_checkpoint
from .weights import sha256

INDEX = "weight_map"  # the key of an index that maps tensors to files


def read_weights(file: Path) -> dict[str, Tensor]:
    """The named tensors of a weight file, or of all files that an index names.

    Raises:
        BadWeights: a file is missing, no weight file, or lacks a tensor that the index says it has.
    """
    index = _index(file)
    if index is None:
        return read_checkpoint(file)
    tensors: dict[str, Tensor] = {}
    for shard in _shards(file, index):
        tensors |= read_checkpoint(shard)
    if missing := sorted(set(index) - set(tensors)):
        raise BadWeights(f"{file} names {listed(missing, 3)}, which its files lack: download them again")
    return tensors


def weights_sha256(file: Path) -> str:
    """The sha256 of a weight file; of an index, that of the hashes of the files it names, by name.

    Raises:
        BadWeights: a file that the index names is missing.
    """
    index = _index(file)
    if index is None:
        return sha256(file)
    hashes = [f"{shard.name} {sha256(shard)}" for shard in _shards(file, index)]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def shard_names(file: Path) -> list[str]:
    """The names of the files of an index, sorted; none for another file.

    Raises:
        BadWeights: the index names a file that isn't beside it.
    """
    names = sorted(set((_index(file) or {}).values()))
    for name in names:
        if Path(name).name != name:
            raise BadWeights(f"{file} names {name}: an index names files beside it")
    return names


def _shards(file: Path, index: Mapping[str, str]) -> list[Path]:
    shards = [file.parent / name for name in shard_names(file)]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise BadWeights(f"{file} names {listed(missing, 3)}, which is not beside it: download it too")
    return shards


def _index(file: Path) -> dict[str, str] | None:
    """The files of tensors by the tensors' names; None if the file is no index."""
    if file.is_dir():
        return None
    with file.open("rb") as opened:
        if opened.read(1) != b"{":
            return None
    try:
        index = json.loads(file.read_bytes())[INDEX]
    except (ValueError, KeyError):
        return None
    texts = isinstance(index, dict) and all(isinstance(name, str) for name in index.values())
    if not texts or not index:
        raise BadWeights(f"{file} is no index of weights: its {INDEX} must map tensors to files")
    return index
