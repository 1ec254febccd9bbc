"""Content-addressed artifacts: a folder named by its stage's key, whole or not there.

    .bench/artifacts/KIND/KEY/stage.json            what made it, what it cost, small results
    .bench/artifacts/KIND/KEY/tensors.safetensors   large results
    .bench/work/KEY/                                checkpoints of a stage that isn't finished
    .bench/locks/KEY                                held, as an operating-system lock, by who works on it
    .bench/corrupt/KEY.N                            artifacts that weren't what was written

There is no pickle anywhere. An artifact appears by one rename, so a killed run leaves nothing half-written.
stage.json begins with the hash of its own text and names those of the other files; what doesn't fit them is
set aside and made again.
"""

from __future__ import annotations

import errno
import fcntl
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

if TYPE_CHECKING:
    from torch import Tensor

    from .stage import Stage


TRASH = "trash"  # what is being removed
REMOTE = "remote"  # copies of the stage.json of artifacts that are elsewhere
PARTS = ("artifacts", "work", "locks", REMOTE, TRASH, CORRUPT)
LOCKLESS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # as NFS without its lock service, or Lustre
WAY_OUT = "let each machine have a local $LATENTBENCH_HOME, and all of them --store file:///THE/SHARED/FOLDER"
# Of a stage.json, beside hashes.
FIELDS = frozenset({"kind", "key", "label", "config", "parents", "error", "cost", "info"})

_files: dict[tuple[int, ...], dict[str, Any] | None] = {}  # those that a stage.json names, by its identity


class NoLocks(UserError):
    """A folder that two processes cannot share safely."""


@dataclass(frozen=True)
class Artifact:
    """What a stage left: `info` (plain data), `cost`, tensors, or the `error` that is its result."""

    path: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What stage.json says.

        Raises:
            Corrupt: it isn't what was written.
        """
        file = self.path / "stage.json"
        try:
            state = hashes.identity(file)
            _files.pop(state, None)  # until this look at it ends well
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
        """Raises Corrupt unless all files are those that were written, by size and, if asked for, by hash.

        An artifact from before hashes were kept is whole if its files' headers are.
        """
        try:
            state = hashes.identity(self.path / "stage.json")
        except OSError as error:
            raise Corrupt(f"stage.json cannot be read: {error.strerror}") from error
        files = _files[state] if state in _files else self.meta.get("files")
        if files is None:
            there = (self.path / "tensors.safetensors").is_file()
            files = {"tensors.safetensors": None} if there else {}
        for name, said in files.items():
            hashes.check(self.path / name, said, contents)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        self.check(contents=False)
        file = self.path / "tensors.safetensors"
        return load_file(file) if file.is_file() else {}

    def tensor(self, name: str) -> Tensor:
        """One tensor, without reading the others."""
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
    """What a stage returns."""

    info: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    error: str | None = None
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Store:
    """The artifacts under one `.bench` folder."""

    root: Path
    url: str = ""  # where they are kept as well

    def path(self, stage: Stage) -> Path:
        return self.root / "artifacts" / stage.kind / stage.key

    def has(self, stage: Stage) -> bool:
        return stage.known and (self.path(stage) / "stage.json").is_file()

    def has_now(self, stage: Stage) -> bool:
        """As `has`, of all that others may have made until now."""
        return self.has(stage)

    def upload(self, stage: Stage) -> str | None:
        """Keeps a copy where others find it, if there is such a place; says why if that isn't possible."""
        return None

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
    def lock(self, stage: Stage, wait: bool = True) -> Iterator[bool]:
        """Waits until nobody else works on this stage, or is False; a process that dies loses its lock."""
        (self.root / "locks").mkdir(parents=True, exist_ok=True)
        with locked(self.root / "locks" / stage.key, wait) as held:
            yield held

    def quarantine_if_corrupt(self, stage: Stage, contents: bool = True) -> str | None:
        """Sets an artifact aside that isn't what was written, and says so; None if it is or isn't there."""
        try:
            if self.has(stage):
                self.get(stage).check(contents)
            return None
        except Corrupt:
            pass
        with self.lock(stage):  # it may have been made again by now
            try:
                if self.has(stage):
                    self.get(stage).check(contents)
                return None
            except Corrupt as error:
                aside = hashes.quarantine(self.path(stage), self.root, stage.key)
                return f"{error}; it is in {aside}, and made again"

    def quarantined_keys(self) -> set[str]:
        """The keys of artifacts that were set aside, whether or not they have been made again."""
        return {path.name.rpartition(".")[0] for path in (self.root / CORRUPT).glob("*.*")}

    def put(self, stage: Stage, result: Result) -> None:
        """Writes the artifact into a temporary folder, flushes it to disk and renames it.

        Raises:
            NoRoom: the disk is full; nothing half-written is left.
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
        """Makes a whole folder the artifact; what its stage has worked with goes."""
        final = self.path(stage)
        self.remove(final)  # what a killed removal may have left
        final.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(final)
        shutil.rmtree(self.root / "work" / stage.key, ignore_errors=True)

    def _write(self, stage: Stage, result: Result, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir()
        if result.tensors:
            save_file(_apart(result.tensors), folder / "tensors.safetensors")
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
        (folder / "stage.json").write_text(hashes.headed(json.dumps(meta, indent=1)))
        for file in folder.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())

    def discard(self, stage: Stage) -> None:
        """Removes an artifact and its checkpoints, once nobody works on it."""
        with self.lock(stage):
            self.remove(self.path(stage))
            self.remove(self.root / "work" / stage.key)

    def remove(self, folder: Path) -> None:
        """Away by one rename, for a half-removed artifact must not look like one."""
        if folder.exists():
            trash = self.root / TRASH / f"{folder.name}.{uuid.uuid4().hex}"
            trash.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)  # `bench clean` may be at it as well

    def clear(self) -> None:
        """Removes all artifacts and checkpoints, and nothing else that lies in the folder."""
        for name in PARTS:
            if name != TRASH and (self.root / name).is_dir():
                self.remove(self.root / name)
        shutil.rmtree(self.root / TRASH, ignore_errors=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()


@contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a file, made if need be, in the block; False if it is taken and not waited for."""
    while True:
        with open(file, "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                if error.errno in LOCKLESS:
                    raise NoLocks(f"{file.parent} is on a file system without locks; {WAY_OUT}") from error
                raise
            # A file that was removed meanwhile is another than the next one opens.
            if file.exists() and os.path.samestat(os.fstat(handle.fileno()), file.stat()):
                yield True
                return


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Holds the lock of a file that is there only as long."""
    with locked(file):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


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
    """Where a matrix keeps its artifacts: $LATENTBENCH_HOME, or `.bench` beside the file if that is a URL or
    not given.

    A packaged matrix, which is no file of the user's, keeps them in the working directory.
    """
    beside = matrix_file.resolve().parent if matrix_file.is_file() else Path.cwd()
    named = os.environ.get("LATENTBENCH_HOME", "")
    return Path(named) if named and "://" not in named else beside / ".bench"
