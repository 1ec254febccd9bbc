"""Content-addressed artifacts: each is a folder named by its stage's key, complete or missing.

    .bench/artifacts/KIND/KEY/stage.json            what made it, what it cost, small results
    .bench/artifacts/KIND/KEY/tensors.safetensors   large results
    .bench/work/KEY/                                checkpoints of a stage that isn't finished
    .bench/locks/KEY                                an operating-system lock of the process that makes KEY
    .bench/corrupt/KEY.N                            quarantined artifacts, whose hashes didn't match

There is no pickle anywhere. An artifact appears by one rename, so a killed run leaves nothing half-written.
stage.json begins with the hash of its own text and has the hashes of the other files. An artifact that
doesn't match them is quarantined here and made again: by `engine/run.py` before a run, by
`engine/schedule.py` and `engine/worker.py` when a stage reads it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..user_error import UserError
from . import hashes
from .disk import explain_disk_full
from .hashes import CORRUPT, Corrupt
from .user_paths import user_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor

    from .stage import Stage


TRASH = "trash"  # folders that are being removed
REMOTE = "remote"  # copies of the stage.json of artifacts at a URL
PARTS = ("artifacts", "work", "locks", REMOTE, TRASH, CORRUPT)
LOCKLESS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # NFS without its lock service, or Lustre
WINDOWS = (
    "Windows has no locks as Linux and macOS have them, without which artifacts aren't safe: run it under "
    "WSL; bench plan, list, info, report, compare, merge and audit work here"
)
WAY_OUT = "let each machine have a local $LATENTBENCH_HOME, and all of them --store file:///THE/SHARED/FOLDER"
# The fields of a stage.json, besides hashes.
FIELDS = frozenset({"kind", "key", "label", "config", "parents", "error", "cost", "info"})

_files: dict[tuple[int, ...], dict[str, Any] | None] = {}  # the files in a stage.json, by its identity


class NoLocks(UserError):
    """A system, or a folder on a file system, without locks, which two processes cannot use safely."""


@dataclass(frozen=True)
class Artifact:
    """The stored result of a stage: `info` (plain data), `cost`, tensors, or the `error` that ended it."""

    path: Path
    planned: Stage | None = None  # the stage for which it was looked up

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the stage; the paths in it are those of now, not of when it was made."""
        stored = self.meta["config"]
        return stored if self.planned is None else self.planned.config

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The content of stage.json.

        Raises:
            Corrupt: the file isn't what was written.
        """
        file = self.path / "stage.json"
        try:
            state = hashes.identity(file)
            _files.pop(state, None)  # until the file has passed the checks below
            raw = file.read_bytes()
            hashed = hashes.check_headed(raw)
            meta = json.loads(raw)
        except OSError as error:
            raise Corrupt(f"stage.json cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise Corrupt(f"stage.json is broken: {error}") from error
        expected = FIELDS | ({"sha256", "files"} if hashed else set())
        if not isinstance(meta, dict) or set(meta) != expected:
            raise Corrupt("stage.json is broken: it has other fields than are written")
        if (meta["kind"], meta["key"]) != (self.path.parent.name, self.path.name):
            raise Corrupt(f"it is the artifact of {meta['kind']} {meta['key'][:12]}")
        _files[state] = meta.get("files")
        return meta

    @property
    def info(self) -> dict[str, Any]:
        return self.meta["info"]

    @property
    def cost(self) -> dict[str, float]:
        return self.meta["cost"]

    @property
    def error(self) -> str | None:
        return self.meta["error"]

    def check(self, contents: bool = True) -> None:
        """Raises Corrupt unless all files have the size and, with `contents`, the hash that were written.

        For an artifact from before hashes were stored, only its files' headers are checked.
        """
        try:
            state = hashes.identity(self.path / "stage.json")
        except OSError as error:
            raise Corrupt(f"stage.json cannot be read: {error.strerror}") from error
        files = _files[state] if state in _files else self.meta.get("files")
        if files is None:
            has_tensors = (self.path / "tensors.safetensors").is_file()
            files = {"tensors.safetensors": None} if has_tensors else {}
        for name, written in files.items():
            hashes.check(self.path / name, written, contents)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        self.check(contents=False)
        file = self.path / "tensors.safetensors"
        return load_file(file) if file.is_file() else {}

    def tensor(self, name: str) -> Tensor:
        """Reads one tensor without the others."""
        from safetensors import safe_open

        self.check(contents=False)
        with safe_open(self.path / "tensors.safetensors", framework="pt") as file:
            return file.get_tensor(name)

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors saved under `prefix/`, such as the state dict of one module."""
        start = f"{prefix}/"
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}


@dataclass
class Result:
    """The result that a stage returns."""

    info: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    error: str | None = None
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Store:
    """The artifacts under one `.bench` folder."""

    root: Path
    url: str = ""  # where artifacts are also kept

    def path(self, stage: Stage) -> Path:
        return self.root / "artifacts" / stage.kind / stage.key

    def has(self, stage: Stage) -> bool:
        return stage.known and (self.path(stage) / "stage.json").is_file()

    def has_now(self, stage: Stage) -> bool:
        """Like `has`, but sees artifacts that others have made since the last listing."""
        return self.has(stage)

    def upload(self, stage: Stage) -> str | None:
        """Uploads an artifact if the store has a URL; returns the reason if that isn't possible."""
        return None

    def get(self, stage: Stage) -> Artifact:
        return Artifact(self.path(stage), stage)

    def drop_scratch(self, stage: Stage) -> None:
        """Removes the files that a finished stage kept outside of memory."""
        shutil.rmtree(self.root / "work" / stage.key / "scratch", ignore_errors=True)

    def work(self, stage: Stage) -> Path:
        """Creates the folder of a stage's checkpoints, which stays until the artifact is stored."""
        folder = self.root / "work" / stage.key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def lock(self, stage: Stage, wait: bool = True) -> Iterator[bool]:
        """Locks a stage; without `wait`, yields False if it is locked. A process that dies loses its lock."""
        (self.root / "locks").mkdir(parents=True, exist_ok=True)
        with locked(self.root / "locks" / stage.key, wait) as held:
            yield held

    def quarantine_if_corrupt(self, stage: Stage, contents: bool = True) -> str | None:
        """Quarantines an artifact that is corrupt and returns a sentence; None if it is intact or missing."""
        try:
            if self.has(stage):
                self.get(stage).check(contents)
            return None
        except Corrupt:
            pass
        with self.lock(stage):  # another process may have made the artifact again
            try:
                if self.has(stage):
                    self.get(stage).check(contents)
                return None
            except Corrupt as error:
                folder = hashes.quarantine(self.path(stage), self.root, stage.key)
                return f"{error}; it is in {folder}, and made again"

    def quarantined_keys(self) -> set[str]:
        """The keys of quarantined artifacts, whether or not they have been made again."""
        return {path.name.rpartition(".")[0] for path in (self.root / CORRUPT).glob("*.*")}

    def put(self, stage: Stage, result: Result) -> None:
        """Writes the artifact into a temporary folder, flushes it to disk and renames it.

        Raises:
            DiskFull: the disk is full; nothing half-written is left.
        """
        temporary = self.work(stage) / "artifact"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            with explain_disk_full(self.root, sum(tensor.nbytes for tensor in result.tensors.values())):
                self._write(stage, result, temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self.publish(stage, temporary)

    def publish(self, stage: Stage, folder: Path) -> None:
        """Renames a complete folder to the artifact's, and removes the stage's checkpoints."""
        final = self.path(stage)
        self.remove(final)  # a killed removal may have left it
        final.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(final)
        shutil.rmtree(self.root / "work" / stage.key, ignore_errors=True)

    def _write(self, stage: Stage, result: Result, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir()
        if result.tensors:
            save_file(_separate(result.tensors), folder / "tensors.safetensors")
        meta = {
            "files": {file.name: hashes.described(file) for file in folder.iterdir()},
            "kind": stage.kind,
            "key": stage.key,
            "label": stage.label,
            "config": stage.config,
            "parents": stage.parents,
            "error": result.error,
            "cost": result.cost,
            "info": result.info,
        }
        (folder / "stage.json").write_bytes(hashes.headed(json.dumps(meta, indent=1)).encode())
        for file in folder.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())

    def discard(self, stage: Stage) -> None:
        """Removes an artifact and its checkpoints, once no other process works on it."""
        with self.lock(stage):
            self.remove(self.path(stage))
            self.remove(self.root / "work" / stage.key)

    def remove(self, folder: Path) -> None:
        """Removes a folder by one rename first, because a half-removed artifact must not look complete."""
        if folder.exists():
            trash = self.root / TRASH / f"{folder.name}.{uuid.uuid4().hex}"
            trash.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)  # `bench clean` may be removing it too

    def clear(self) -> None:
        """Removes all artifacts and checkpoints, but no other files of the folder."""
        for name in PARTS:
            if name != TRASH and (self.root / name).is_dir():
                self.remove(self.root / name)
        shutil.rmtree(self.root / TRASH, ignore_errors=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()


@contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a file, which is created; without `wait`, yields False if the lock is taken.

    Raises:
        NoLocks: this system or the file's folder has none.
    """
    if fcntl is None:
        raise NoLocks(WINDOWS)
    while True:
        with open(file, "wb") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                if error.errno in LOCKLESS:
                    raise NoLocks(f"{file.parent} is on a file system without locks; {WAY_OUT}") from error
                raise
            # If the file was removed meanwhile, the next process opens another one.
            if file.exists() and os.path.samestat(os.fstat(handle.fileno()), file.stat()):
                yield True
                return


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Holds the lock of a file, and removes the file afterwards."""
    with locked(file):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies tensors to CPU storages of their own; large ones, which may be mapped files, aren't copied."""
    separate: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        separate[name] = tensor
    return separate


def home(matrix_file: Path) -> Path:
    """The folder of a matrix's artifacts: $LATENTBENCH_HOME, or `.bench` beside the file.

    A URL in $LATENTBENCH_HOME doesn't count. The folder of a packaged matrix is in the working directory.
    """
    beside = matrix_file.resolve().parent if matrix_file.is_file() else Path.cwd()
    variable = os.environ.get("LATENTBENCH_HOME", "")
    return user_path(variable) if variable and "://" not in variable else beside / ".bench"
