"""Checkpoints of a training stage: everything the next step depends on, bit for bit.

A file's name ends in the start of its hash. The last two files are kept: if the last one is corrupt, training
goes on from the one before.
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

KEPT = 2  # files
DIGITS = 16  # of the hash in a file's name
WRITING = "checkpoint.writing"


@dataclass
class State:
    """The state that a training loop carries from step to step."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    averages: dict[str, Average]
    step: int = 0
    seconds: float = 0.0
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    probes: dict[int, Tensor] = field(default_factory=dict)  # latents by step
    snapshots: dict[str, Tensor] = field(default_factory=dict)  # weights during training, by STEP/name


def save(folder: Path, state: State) -> None:
    """Writes one file and renames it, so that no checkpoint is incomplete.

    Raises:
        DiskFull: the disk is full; earlier checkpoints remain.
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
            digest = hashes.sha256(temporary)[:DIGITS]
            temporary.rename(folder / f"checkpoint-{state.step}-{digest}.safetensors")
    finally:
        temporary.unlink(missing_ok=True)
    for old in checkpoint_files(folder)[KEPT:]:
        old.unlink()


def exists(folder: Path) -> bool:
    """Whether a stage has a checkpoint."""
    return bool(checkpoint_files(folder))


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints in a stage's folder, the newest first."""

    def step(file: Path) -> int:
        match = re.match(r"checkpoint-(\d+)-", file.name)
        return int(match[1]) if match else -1

    return sorted(folder.glob("checkpoint*.safetensors"), key=step, reverse=True)


def quarantine_corrupt(folder: Path, root: Path) -> list[str]:
    """Quarantines the newest checkpoints until one is intact; returns a sentence for each corrupt one.

    To be called before a stage's processes start, because all of them must load the same checkpoint.

    Args:
        root: the store's folder, which has the quarantine.
    """
    notes = []
    for file in checkpoint_files(folder):
        try:
            check(file)
            break
        except hashes.Corrupt as error:
            quarantined = hashes.quarantine(file, root, f"checkpoint.{folder.name}")
            notes.append(f"{error}; it is in {quarantined}, and training goes on from before it")
    return notes


def check(file: Path) -> None:
    """Raises Corrupt if a checkpoint has another hash than its name says, or a header that doesn't fit."""
    hashes.check(file, None)
    if match := re.fullmatch(r"checkpoint-\d+-(\w+)\.safetensors", file.name):
        try:
            intact = hashes.sha256(file).startswith(match[1])
        except OSError as error:
            raise hashes.Corrupt(f"{file.name} cannot be read: {error.strerror}") from error
        if not intact:
            raise hashes.Corrupt(f"{file.name} has another hash than when it was written")


def load(folder: Path, state: State) -> bool:
    """Restores the newest checkpoint into the state; False if there is none."""
    from safetensors import safe_open

    if not exists(folder):
        return False
    with safe_open(checkpoint_files(folder)[0], framework="pt") as handle:
        plain = json.loads(handle.metadata()["state"])
        tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    for name, module in state.modules.items():
        module.load_state_dict(_with_prefix(tensors, f"module/{name}/"))
    for name, average in state.averages.items():
        for key, tensor in _with_prefix(tensors, f"average/{name}/").items():
            average.shadow[key].copy_(tensor)
    for name, optimizer in state.optimizers.items():
        loaded: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _with_prefix(tensors, f"optimizer/{name}/").items():
            index, field_name = key.split("/")
            loaded.setdefault(int(index), {})[field_name] = tensor
        # Settings come from the matrix, and learning rates from the step.
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": loaded, "param_groups": groups})
    state.probes = {int(step): z for step, z in _with_prefix(tensors, "probe/").items()}
    state.snapshots = _with_prefix(tensors, "snapshot/")
    state.step, state.seconds, state.curves = plain["step"], plain["seconds"], plain["curves"]
    return True


def curves(folder: Path) -> dict[str, list[float]]:
    """The curves of the newest checkpoint, read from its header alone; empty if it is missing or deleted."""
    from safetensors import safe_open

    for file in checkpoint_files(folder)[:1]:
        try:
            with safe_open(file, framework="pt") as handle:
                return json.loads(handle.metadata()["state"])["curves"]
        except FileNotFoundError:
            break
    return {}


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
