"""A store whose artifacts are also kept at an fsspec URL, for machines that share no folder.

    URL/artifacts/KIND/KEY/stage.json   written last, so an artifact that has one is complete
    URL/artifacts/KIND/KEY/SHA256       the artifact's other files, named by their hash

Two machines that make one artifact at once leave a complete one: different files have different names.
Artifacts are made in the local folder and uploaded from there. A remote artifact's stage.json is
downloaded on first use, and its tensors when they are read.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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

_listed: dict[str, set[str]] = {}  # keys of remote artifacts that this process knows of, by URL


class RemoteError(UserError):
    """A URL that cannot be read or written now."""

    exit_code = 1


@dataclass(frozen=True)
class Mirror(Store):
    """The artifacts in one `.bench` folder or at `url`."""

    def has(self, stage: Stage) -> bool:
        return super().has(stage) or (stage.known and stage.key in self._seen())

    def has_now(self, stage: Stage) -> bool:
        """Like `has`, but asks the URL again for an artifact that another machine may have made."""
        if not self.has(stage) and stage.known:
            with self._reached() as (fs, base):
                if fs.exists(f"{base}/{_name(stage)}/stage.json"):
                    self._seen().add(stage.key)
        return self.has(stage)

    def get(self, stage: Stage) -> Artifact:
        """The artifact; tensors of a remote one are downloaded when they are read.

        Raises:
            Corrupt: stage.json isn't what was written, or is missing at the URL.
        """
        return (
            super().get(stage)
            if super().has(stage)
            else _RemoteArtifact(self._stub(stage).parent, planned=stage, store=self)
        )

    @contextmanager
    def lock(self, stage: Stage, wait: bool = True) -> Iterator[bool]:
        """Locks a stage on this machine, not on others, whose finished artifacts are then noticed."""
        with super().lock(stage, wait) as locked:
            if locked:
                self.has_now(stage)
            yield locked

    def quarantine_if_corrupt(self, stage: Stage, contents: bool = True) -> str | None:
        if super().has(stage) or not self.has(stage):
            return super().quarantine_if_corrupt(stage, contents)
        try:
            self.get(stage).check(contents)
            return None
        except Corrupt as error:
            self._forget(stage)
            return f"{error}; it is taken from {self.url}, and made again"

    def discard(self, stage: Stage) -> None:
        super().discard(stage)
        if self.has_now(stage):
            self._forget(stage)

    def upload(self, stage: Stage) -> str | None:
        """Uploads an artifact that is only in the folder; returns the reason if that isn't possible.

        An artifact from before hashes were stored isn't uploaded: remote files are named by their hash.
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
                if not fs.async_impl:  # an object store would create a bucket for a misspelt name
                    fs.makedirs(folder, exist_ok=True)
                for name, written in files.items():
                    target = f"{folder}/{written['sha256']}"
                    if not fs.exists(target) or fs.size(target) != written["bytes"]:
                        fs.put_file(str(artifact.path / name), target)
                temporary = f"{folder}/{uuid.uuid4().hex}"
                fs.pipe_file(temporary, (artifact.path / "stage.json").read_bytes())
                fs.mv(temporary, f"{folder}/stage.json")  # atomic in file systems that are folders
        except RemoteError as error:
            return f"{error}; the next run uploads it"
        except Corrupt as error:
            return f"{error}; it isn't uploaded"
        self._seen().add(stage.key)
        return None

    def fetch(self, stage: Stage) -> Artifact:
        """Downloads an artifact unless it is in the folder.

        Raises:
            Corrupt: a file isn't what was written, even after a second download.
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
                for name, written in files.items():
                    for retry in (True, False):
                        try:
                            fs.get_file(f"{base}/{_name(stage)}/{written['sha256']}", str(folder / name))
                            hashes.check(folder / name, written)
                            break
                        except FileNotFoundError as error:
                            raise Corrupt(f"{name} is missing") from error
                        except Corrupt:
                            if not retry:
                                raise
                shutil.copyfile(stub, folder / "stage.json")
            self.publish(stage, folder)
        return super().get(stage)

    def _stub(self, stage: Stage) -> Path:
        """The local copy of a remote stage.json, downloaded if it is missing."""
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
        """Deletes a corrupt artifact at the URL, stage.json first: without it no artifact is found."""
        self._seen().discard(stage.key)
        shutil.rmtree(self.root / REMOTE / _name(stage), ignore_errors=True)
        with self._reached() as (fs, base):
            folder = f"{base}/{_name(stage)}"
            files = fs.find(folder) if fs.exists(folder) else []
            for file in sorted(files, key=lambda file: not file.endswith("/stage.json")):
                with suppress(FileNotFoundError):  # another machine has deleted it
                    fs.rm_file(file)

    def _seen(self) -> set[str]:
        """The keys of remote artifacts: listed once in a process, and extended by later finds and uploads."""
        if self.url not in _listed:
            with self._reached() as (fs, base):
                files = fs.find(f"{base}/artifacts") if fs.exists(f"{base}/artifacts") else []
            _listed[self.url] = {file.split("/")[-2] for file in files if file.endswith("/stage.json")}
        return _listed[self.url]

    @contextmanager
    def _reached(self) -> Iterator[tuple[AbstractFileSystem, str]]:
        """Yields the file system and the path in it; raises RemoteError for any error of its library."""
        try:
            fs, base = _file_system(self.url)
            fs.invalidate_cache()  # of listings: other machines write there
            yield fs, base
        except (Corrupt, RemoteError, DiskFull):
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise RemoteError(f"{self.url} cannot be used: {reason}") from error


@dataclass(frozen=True)
class _RemoteArtifact(Artifact):
    """A remote artifact: only stage.json is cached; tensors are downloaded on access."""

    planned: Stage = field(kw_only=True)
    store: Mirror = field(kw_only=True)

    def check(self, contents: bool = True) -> None:
        if contents:
            self.store.fetch(self.planned).check()
        else:
            _ = self.meta

    @property
    def tensors(self) -> dict[str, torch.Tensor]:  # type: ignore[override]  # cached by the downloaded artifact
        return self.store.fetch(self.planned).tensors

    def tensor(self, name: str) -> torch.Tensor:
        return self.store.fetch(self.planned).tensor(name)


def store(matrix_file: Path, url: str | None = None) -> Store:
    """The store of a matrix, with a URL if one is given here or in $LATENTBENCH_HOME.

    Raises:
        RemoteError: the URL cannot be used.
    """
    variable = os.environ.get("LATENTBENCH_HOME", "")
    opened = at(home(matrix_file), url or (variable if "://" in variable else ""))
    if isinstance(opened, Mirror):
        opened._seen()
    return opened


def at(root: Path, url: str) -> Store:
    """The store in a folder, and at a URL unless that is empty."""
    return Mirror(root, url.rstrip("/")) if url else Store(root)


def _file_system(url: str) -> tuple[AbstractFileSystem, Any]:
    from fsspec.core import url_to_fs

    return url_to_fs(url)


def _name(stage: Stage) -> str:
    return f"artifacts/{stage.kind}/{stage.key}"
