"""A store whose artifacts are kept at an fsspec URL as well, for machines that share no folder.

    URL/artifacts/KIND/KEY/stage.json   as in the folder; written last, so what has one is whole
    URL/artifacts/KIND/KEY/SHA256       the files that it names, by their hash

Two machines that make one artifact at once leave a whole one, for no file is ever another's. Stages work in
the local folder: there artifacts are made, and from there uploaded; stage.json is downloaded when something
is asked of an artifact, and the rest of it when its tensors are.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..user_error import UserError
from . import hashes
from .artifacts import REMOTE, Artifact, Store, home
from .disk import DiskFull, explain_disk_full, replace_text
from .hashes import Corrupt

if TYPE_CHECKING:
    import torch
    from fsspec import AbstractFileSystem

    from .stage import Stage

_listed: dict[str, set[str]] = {}  # by URL, the keys of artifacts that this process has seen there


class RemoteError(UserError):
    """A URL that cannot be used now."""

    exit_code = 1


@dataclass(frozen=True)
class Mirror(Store):
    """The artifacts under one `.bench` folder and at `url`: what either has is there."""

    def has(self, stage: Stage) -> bool:
        return super().has(stage) or (stage.known and stage.key in self._seen())

    def has_now(self, stage: Stage) -> bool:
        """As `has`, but asks again for what another machine may have made meanwhile."""
        if not self.has(stage) and stage.known:
            with self._reached() as (fs, base):
                if fs.exists(f"{base}/{_name(stage)}/stage.json"):
                    self._seen().add(stage.key)
        return self.has(stage)

    def get(self, stage: Stage) -> Artifact:
        """The artifact; of one that is only at the URL what stage.json says, and its tensors when asked for.

        Raises:
            Corrupt: it isn't what was written, or no longer there.
        """
        return super().get(stage) if super().has(stage) else _Away(self._stub(stage).parent, self, stage)

    @contextmanager
    def lock(self, stage: Stage, wait: bool = True) -> Iterator[bool]:
        """The lock holds on this machine, or for this folder; another one's work is seen when it is done."""
        with super().lock(stage, wait) as held:
            if held:
                self.has_now(stage)
            yield held

    def quarantine_if_corrupt(self, stage: Stage, contents: bool = True) -> str | None:
        if super().has(stage) or not self.has(stage):
            return super().quarantine_if_corrupt(stage, contents)
        try:
            artifact = self.get(stage)
            artifact.check(contents)
            return None
        except Corrupt as error:
            self._forget(stage)
            return f"{error}; it is taken from {self.url}, and made again"

    def discard(self, stage: Stage) -> None:
        super().discard(stage)
        if self.has_now(stage):
            self._forget(stage)

    def upload(self, stage: Stage) -> str | None:
        """Uploads an artifact that is only here; says why if that isn't possible, None otherwise.

        One from before hashes were kept stays here: its files have no name there.
        """
        if not super().has(stage) or stage.key in self._seen():
            return None
        artifact = super().get(stage)
        files = artifact.meta.get("files")
        if files is None:
            return None
        try:
            artifact.check()
            with self._reached() as (fs, base):
                folder = f"{base}/{_name(stage)}"
                if not fs.async_impl:  # an object store would make a bucket of a misspelt name
                    fs.makedirs(folder, exist_ok=True)
                for name, said in files.items():
                    target = f"{folder}/{said['sha256']}"
                    if not fs.exists(target) or fs.size(target) != said["bytes"]:
                        fs.put_file(str(artifact.path / name), target)
                temporary = f"{folder}/{uuid.uuid4().hex}"
                fs.pipe_file(temporary, (artifact.path / "stage.json").read_bytes())
                fs.mv(temporary, f"{folder}/stage.json")  # at once, in file systems that are folders
        except RemoteError as error:
            return f"{error}; the next run uploads it"
        except Corrupt as error:
            return f"{error}; it isn't uploaded"
        self._seen().add(stage.key)
        return None

    def fetch(self, stage: Stage) -> Artifact:
        """Downloads an artifact unless it is here.

        Raises:
            Corrupt: it isn't what was written, even if it is downloaded twice.
        """
        with super().lock(stage):
            if super().has(stage):
                return super().get(stage)
            stub = self._stub(stage)
            folder = self.work(stage) / "artifact"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            files = self.get(stage).meta["files"]
            with (
                self._reached() as (fs, base),
                explain_disk_full(self.root, sum(f["bytes"] for f in files.values())),
            ):
                for name, said in files.items():
                    for again in (True, False):
                        try:
                            fs.get_file(f"{base}/{_name(stage)}/{said['sha256']}", str(folder / name))
                            hashes.check(folder / name, said)
                            break
                        except FileNotFoundError as error:
                            raise Corrupt(f"{name} is missing") from error
                        except Corrupt:
                            if not again:
                                raise
                shutil.copyfile(stub, folder / "stage.json")
            self.publish(stage, folder)
        return super().get(stage)

    def _stub(self, stage: Stage) -> Path:
        """The local copy of a stage.json, downloaded if it isn't there."""
        stub = self.root / REMOTE / _name(stage) / "stage.json"
        if not stub.is_file():
            with self._reached() as (fs, base):
                try:
                    raw = fs.cat_file(f"{base}/{_name(stage)}/stage.json")
                except FileNotFoundError as error:
                    raise Corrupt(f"stage.json is missing at {self.url}") from error
            if not hashes.check_headed(raw):
                raise Corrupt("stage.json has no hash")
            stub.parent.mkdir(parents=True, exist_ok=True)
            replace_text(stub, raw.decode())
            self._seen().add(stage.key)
        return stub

    def _forget(self, stage: Stage) -> None:
        """Takes a broken artifact from the URL, stage.json first: without it the artifact isn't there."""
        self._seen().discard(stage.key)
        shutil.rmtree(self.root / REMOTE / _name(stage), ignore_errors=True)
        with self._reached() as (fs, base):
            folder = f"{base}/{_name(stage)}"
            there = fs.find(folder) if fs.exists(folder) else []
            for file in sorted(there, key=lambda file: not file.endswith("/stage.json")):
                with suppress(FileNotFoundError):  # somebody else has found it broken
                    fs.rm_file(file)

    def _seen(self) -> set[str]:
        """The keys of what is there, listed once in a process, and of what it has found or uploaded since."""
        if self.url not in _listed:
            with self._reached() as (fs, base):
                files = fs.find(f"{base}/artifacts") if fs.exists(f"{base}/artifacts") else []
            _listed[self.url] = {file.split("/")[-2] for file in files if file.endswith("/stage.json")}
        return _listed[self.url]

    @contextmanager
    def _reached(self) -> Iterator[tuple[AbstractFileSystem, str]]:
        """The file system and the path in it; whatever a library of one raises is RemoteError."""
        try:
            fs, base = _file_system(self.url)
            fs.invalidate_cache()  # of listings: others write there
            yield fs, base
        except (Corrupt, RemoteError, DiskFull):
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise RemoteError(f"{self.url} cannot be used: {reason}") from error


@dataclass(frozen=True)
class _Away(Artifact):
    """An artifact that only its stage.json is here of."""

    store: Mirror
    stage: Stage

    def check(self, contents: bool = True) -> None:
        if contents:
            self.store.fetch(self.stage).check()
        else:
            _ = self.meta

    @property
    def tensors(self) -> dict[str, torch.Tensor]:  # type: ignore[override]  # kept by what is fetched
        return self.store.fetch(self.stage).tensors

    def tensor(self, name: str) -> torch.Tensor:
        return self.store.fetch(self.stage).tensor(name)


def store(matrix_file: Path, url: str | None = None) -> Store:
    """The store of a matrix: beside a URL, which LATENTBENCH_HOME may be as well, the folder is its cache.

    Raises:
        RemoteError: the URL cannot be used.
    """
    named = os.environ.get("LATENTBENCH_HOME", "")
    found = at(home(matrix_file), url or (named if "://" in named else ""))
    if isinstance(found, Mirror):
        found._seen()
    return found


def at(root: Path, url: str) -> Store:
    """The store in a folder, and at a URL if there is one."""
    return Mirror(root, url.rstrip("/")) if url else Store(root)


def _file_system(url: str) -> tuple[AbstractFileSystem, Any]:
    from fsspec.core import url_to_fs

    return url_to_fs(url)


def _name(stage: Stage) -> str:
    return f"artifacts/{stage.kind}/{stage.key}"
