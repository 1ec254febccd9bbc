"""Checkpoints of a training stage: everything the next step depends on, bit for bit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .optim import Average

FILE = "checkpoint.safetensors"


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
    """Writes one file and renames it, so that a checkpoint is whole or not there."""
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
    temporary = folder / f"checkpoint.{os.getpid()}"
    copies = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
    save_file(copies, temporary, metadata={"state": json.dumps(plain)})
    with open(temporary, "rb") as handle:
        os.fsync(handle.fileno())
    temporary.rename(folder / FILE)


def exists(folder: Path) -> bool:
    return (folder / FILE).is_file()


def load(folder: Path, state: State) -> bool:
    """Restores the newest checkpoint in place; False if there is none."""
    from safetensors import safe_open

    if not exists(folder):
        return False
    with safe_open(folder / FILE, framework="pt") as handle:
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

    try:
        with safe_open(folder / FILE, framework="pt") as handle:
            return json.loads(handle.metadata()["state"])["curves"]
    except FileNotFoundError:
        return {}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
