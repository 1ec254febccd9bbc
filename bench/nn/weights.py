"""The weights of feature networks: files given, found in libraries' caches or downloaded, or random."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from ..user_error import UserError

RANDOM = "random"


class Weights:
    """What `weights` and `verify` of a matrix mean for a network whose weights were published as one file."""

    def __init__(
        self, given: str | None, verify: bool, url: str, published: str, kept: Sequence[Path] = ()
    ) -> None:
        """From a path, "random", or None: one of `kept` or, with none there, a download from `url`.

        Raises:
            ValueError: for a file that is there with another sha256 than `published`, unless it may have one.
        """
        self.random, self.verify, self.url, self.published = given == RANDOM, verify, url, published
        self.files = kept if given is None else [Path(given).expanduser()]
        self.downloads = given is None
        if not self.random:
            self._found()

    def fingerprint(self, network: str) -> str | None:
        """sha256 of the file, None if it isn't there; of a description where weights are random."""
        if self.random:
            return of_random(network)
        file = self._found()
        return sha256(file) if file else None

    def suffix(self, network: str) -> str:
        """What the extractor's name says of weights that aren't the published: ":random", ":ab12cd34"."""
        sha = self.fingerprint(network)
        if self.random:
            return ":random"
        return "" if sha in (None, self.published) else f":{sha[:8]}"

    def file(self) -> Path:
        """The file, downloaded if need be.

        Raises:
            FileNotFoundError: naming the file that isn't there and, offline, must not be downloaded.
        """
        file = self._found()
        if file:
            return file
        if not self.downloads:
            raise FileNotFoundError(f"there is no file {self.files[0]}")
        refuse_offline(self.files[0], self.url)
        self.files[0].parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(self.url, str(self.files[0]), self.published, progress=False)
        return self.files[0]

    def _found(self) -> Path | None:
        file = found(self.files)
        if file and self.verify and sha256(file) != self.published:
            raise ValueError(
                f"{file} has the sha256 {sha256(file)}, the published weights have {self.published}; with "
                "`verify: false` it is taken, and the names of metrics carry its hash"
            )
        return file


def found(files: Sequence[Path]) -> Path | None:
    """The first that is there."""
    return next((file for file in files if file.is_file()), None)


def hub(name: str) -> Path:
    """Where torch.hub, and torch-fidelity with it, keeps a file that it downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def sha256(file: Path) -> str:
    """Of a file's bytes; read once, unless the file changes."""
    status = file.stat()
    return _sha256(file, status.st_size, status.st_mtime_ns)


class OfflineError(UserError, FileNotFoundError):
    """A file that isn't here and, under `--offline`, must not be downloaded."""

    exit_code = 4


def refuse_offline(file: Path | str, url: str) -> None:
    """Raises OfflineError under `--offline`: the file is missing and would come from `url`."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise OfflineError(
            f"offline, and {file} is not here: put it there from {url}, or name a file by `weights: PATH`"
        )


def of_random(network: str) -> str:
    """What stands for the sha256 of the random weights of a network."""
    return hashlib.sha256(f"{network}, random weights of seed 0".encode()).hexdigest()


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
