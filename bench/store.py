"""Content-addressed artifacts: a folder named by its stage's key, whole or not there.

    .bench/artifacts/KIND/KEY/stage.json            what made it, what it cost, small results
    .bench/artifacts/KIND/KEY/tensors.safetensors   large results
    .bench/work/KEY/                                checkpoints of a stage that isn't finished
    .bench/locks/KEY                                held, as an operating-system lock, by who works on it

There is no pickle anywhere. An artifact appears by one rename, so a killed run leaves nothing half-written.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .plan import Stage


PARTS = ("artifacts", "work", "locks")


@dataclass(frozen=True)
class Artifact:
    """What a stage left: `info` (plain data), `cost`, tensors, or the `error` that is its result."""

    path: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((self.path / "stage.json").read_text())

    @property
    def info(self) -> dict[str, Any]:
        return self.meta["info"]

    @property
    def cost(self) -> dict[str, float]:
        return self.meta["cost"]

    @property
    def error(self) -> str | None:
        return self.meta["error"]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        file = self.path / "tensors.safetensors"
        return load_file(file) if file.is_file() else {}

    def tensor(self, name: str) -> Tensor:
        """One tensor, without reading the others."""
        from safetensors import safe_open

        with safe_open(self.path / "tensors.safetensors", framework="pt") as file:
            return file.get_tensor(name)

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors saved under `prefix/`, such as the state dict of one module."""
        start = f"{prefix}/"
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}


@dataclass
class Result:
    """What a stage returns."""

    info: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    error: str | None = None
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Store:
    """The artifacts under one `.bench` folder."""

    root: Path

    def path(self, stage: Stage) -> Path:
        return self.root / "artifacts" / stage.kind / stage.key

    def has(self, stage: Stage) -> bool:
        return stage.known and (self.path(stage) / "stage.json").is_file()

    def get(self, stage: Stage) -> Artifact:
        return Artifact(self.path(stage))

    def drop_scratch(self, stage: Stage) -> None:
        """Removes what a stage that has ended had no room for in memory."""
        shutil.rmtree(self.root / "work" / stage.key / "scratch", ignore_errors=True)

    def work(self, stage: Stage) -> Path:
        """A folder for checkpoints, kept until the artifact is there."""
        folder = self.root / "work" / stage.key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def lock(self, stage: Stage) -> Iterator[None]:
        """Waits until nobody else works on this stage; a process that dies loses its lock."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / stage.key, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def put(self, stage: Stage, result: Result) -> None:
        """Writes the artifact into a temporary folder, flushes it to disk and renames it."""
        from safetensors.torch import save_file

        final = self.path(stage)
        temporary = self.work(stage) / "artifact"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        if result.tensors:
            save_file(_apart(result.tensors), temporary / "tensors.safetensors")
        meta = {
            "kind": stage.kind,
            "key": stage.key,
            "label": stage.label,
            "config": stage.config,
            "parents": stage.parents,
            "error": result.error,
            "cost": result.cost,
            "info": result.info,
        }
        (temporary / "stage.json").write_text(json.dumps(meta, indent=1))
        for file in temporary.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        self._remove(final)  # what a killed removal may have left
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(final)
        shutil.rmtree(self.root / "work" / stage.key, ignore_errors=True)

    def discard(self, stage: Stage) -> None:
        """Removes an artifact and its checkpoints, once nobody works on it."""
        with self.lock(stage):
            self._remove(self.path(stage))
            self._remove(self.root / "work" / stage.key)

    def _remove(self, folder: Path) -> None:
        """Away by one rename, for a half-removed artifact must not look like one."""
        if folder.exists():
            trash = self.root / "trash" / f"{folder.name}.{os.getpid()}"
            trash.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(trash)
            shutil.rmtree(trash)

    def clear(self) -> None:
        """Removes all artifacts and checkpoints, and nothing else that lies in the folder."""
        for name in PARTS:
            if (self.root / name).is_dir():
                self._remove(self.root / name)
                shutil.rmtree(self.root / "trash", ignore_errors=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()

    def size(self) -> int:
        """Bytes on disk."""
        files = (file for name in PARTS for file in (self.root / name).rglob("*") if file.is_file())
        return sum(file.stat().st_size for file in files)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each with a storage of its own; large ones, which may be mapped files, aren't copied."""
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage()
        if storage.nbytes() != own.nbytes or storage.data_ptr() in taken:
            own = own.clone()
        taken.add(own.untyped_storage().data_ptr())
        found[name] = own
    return found


def home(matrix_file: Path) -> Path:
    """Where a matrix keeps its artifacts: $LATENTBENCH_HOME, or `.bench` beside the file.

    A packaged matrix, which is no file of the user's, keeps them in the working directory.
    """
    beside = matrix_file.resolve().parent if matrix_file.is_file() else Path.cwd()
    return Path(os.environ.get("LATENTBENCH_HOME") or beside / ".bench")
