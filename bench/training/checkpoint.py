"""Checkpoints of a training stage: everything the next step depends on, bit for bit.

A file's name ends in the start of its hash. The last two are kept: if the last one turns out to be broken,
training goes on from the one before.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..store import hashes
from ..store.disk import explain_disk_full
from .ema import Average

KEPT = 2
DIGITS = 16  # of the hash
WRITING = "checkpoint.writing"


@dataclass
class State:
    """What a training loop carries from step to step."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    averages: dict[str, Average]
    step: int = 0
    seconds: float = 0.0
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    probes: dict[int, Tensor] = field(default_factory=dict)  # latents by step
    snapshots: dict[str, Tensor] = field(default_factory=dict)  # weights on the way, by STEP/name


def save(folder: Path, state: State) -> None:
    """Writes one file and renames it, so that a checkpoint is whole or not there.

    Raises:
        NoRoom: the disk is full; the checkpoints before are still there.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"step": state.step, "seconds": state.seconds, "curves": state.curves}
    for name, module in state.modules.items():
        tensors |= {f"module/{name}/{key}": tensor for key, tensor in module.state_dict().items()}
    for name, average in state.averages.items():
        tensors |= {f"average/{name}/{key}": tensor for key, tensor in average.shadow.items()}
    tensors |= {f"probe/{step}": z for step, z in state.probes.items()}
    tensors |= {f"snapshot/{name}": tensor for name, tensor in state.snapshots.items()}
    for name, optimizer in state.optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{key}": torch.as_tensor(v) for key, v in values.items()}
    temporary = folder / WRITING
    copies = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
    try:
        with explain_disk_full(folder, sum(tensor.nbytes for tensor in copies.values())):
            save_file(copies, temporary, metadata={"state": json.dumps(plain)})
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            said = hashes.sha256(temporary)[:DIGITS]
            temporary.rename(folder / f"checkpoint-{state.step}-{said}.safetensors")
    finally:
        temporary.unlink(missing_ok=True)
    for old in checkpoint_files(folder)[KEPT:]:
        old.unlink()


def exists(folder: Path) -> bool:
    return bool(checkpoint_files(folder))


def checkpoint_files(folder: Path) -> list[Path]:
    """Those of a stage, the newest first."""

    def step(file: Path) -> int:
        return int(match[1]) if (match := re.match(r"checkpoint-(\d+)-", file.name)) else -1

    return sorted(folder.glob("checkpoint*.safetensors"), key=step, reverse=True)


def quarantine_corrupt(folder: Path, root: Path) -> list[str]:
    """Sets the newest checkpoints aside as long as they aren't what was written, and says so.

    Before anything of a stage begins: all its processes must see the same.
    """
    notes = []
    for file in checkpoint_files(folder):
        try:
            check(file)
            break
        except hashes.Corrupt as error:
            aside = hashes.quarantine(file, root, f"checkpoint.{folder.name}")
            notes.append(f"{error}; it is in {aside}, and training goes on from before it")
    return notes


def check(file: Path) -> None:
    """Raises Corrupt if a checkpoint isn't what was written; of one without a hash the header must fit."""
    hashes.check(file, None)
    if match := re.fullmatch(r"checkpoint-\d+-(\w+)\.safetensors", file.name):
        try:
            same = hashes.sha256(file).startswith(match[1])
        except OSError as error:
            raise hashes.Corrupt(f"{file.name} cannot be read: {error.strerror}") from error
        if not same:
            raise hashes.Corrupt(f"{file.name} has another hash than when it was written")


def load(folder: Path, state: State) -> bool:
    """Restores the newest checkpoint in place; False if there is none."""
    from safetensors import safe_open

    if not exists(folder):
        return False
    with safe_open(checkpoint_files(folder)[0], framework="pt") as handle:
        plain = json.loads(handle.metadata()["state"])
        tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    for name, module in state.modules.items():
        module.load_state_dict(_under(tensors, f"module/{name}/"))
    for name, average in state.averages.items():
        for key, tensor in _under(tensors, f"average/{name}/").items():
            average.shadow[key].copy_(tensor)
    for name, optimizer in state.optimizers.items():
        loaded: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under(tensors, f"optimizer/{name}/").items():
            index, field_name = key.split("/")
            loaded.setdefault(int(index), {})[field_name] = tensor
        groups = optimizer.state_dict()["param_groups"]  # settings come from the matrix, rates from the step
        optimizer.load_state_dict({"state": loaded, "param_groups": groups})
    state.probes = {int(step): z for step, z in _under(tensors, "probe/").items()}
    state.snapshots = _under(tensors, "snapshot/")
    state.step, state.seconds, state.curves = plain["step"], plain["seconds"], plain["curves"]
    return True


def curves(folder: Path) -> dict[str, list[float]]:
    """Those of the newest checkpoint, read from its header alone; none if there is none (any more)."""
    from safetensors import safe_open

    for file in checkpoint_files(folder)[:1]:
        try:
            with safe_open(file, framework="pt") as handle:
                return json.loads(handle.metadata()["state"])["curves"]
        except FileNotFoundError:
            break
    return {}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
