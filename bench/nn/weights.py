"""Weight files of feature networks: a path, a file in a library's cache, a download, or random weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from ..store import hashes
from ..store.user_paths import user_path
from ..user_error import UserError
from .weight_files import is_safetensors

RANDOM = "random"


class Weights:
    """The options `weights` and `verify` of a network whose weights were published as one file."""

    def __init__(
        self, given: str | None, verify: bool, url: str, published: str, kept: Sequence[Path] = ()
    ) -> None:
        """
        Args:
            given: a path, "random", or None: an existing file of `kept`, otherwise a download from `url`.
            verify: whether the file must have the sha256 `published`.

        Raises:
            ValueError: if `verify` is set and the file has another sha256, or if the file is no weight file.
        """
        self.random, self.verify, self.url, self.published = given == RANDOM, verify, url, published
        self.files = kept if given is None else [user_path(given)]
        self.downloads = given is None
        if not self.random:
            self._checked()

    def fingerprint(self, network: str) -> str | None:
        """sha256 of the file, None if it is missing; for random weights, of a description."""
        if self.random:
            return of_random(network)
        file = self._checked()
        return sha256(file) if file else None

    def suffix(self, network: str) -> str:
        """The ending of the extractor's name for unpublished weights (":random", ":ab12cd34") or ""."""
        sha = self.fingerprint(network)
        if self.random:
            return ":random"
        return "" if sha in (None, self.published) else f":{sha[:8]}"

    def file(self) -> Path:
        """The file, downloaded if it is missing.

        Raises:
            FileNotFoundError: naming a missing file that has no download or must not be downloaded.
        """
        file = self._checked()
        if file:
            return file
        if not self.downloads:
            raise FileNotFoundError(f"there is no file {self.files[0]}")
        refuse_offline(self.files[0], self.url)
        self.files[0].parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(self.url, str(self.files[0]), self.published, progress=False)
        return self.files[0]

    def _checked(self) -> Path | None:
        file = first_existing(self.files)
        if file and not self.downloads:
            is_safetensors(file)  # raises if the file is no weight file
        if file and self.verify and sha256(file) != self.published:
            raise ValueError(
                f"{file} has the sha256 {sha256(file)}, the published weights have {self.published}; with "
                "`verify: false` it is taken, and the names of metrics carry its hash"
            )
        return file


def first_existing(files: Sequence[Path]) -> Path | None:
    """The first file that exists."""
    return next((file for file in files if file.is_file()), None)


def hub(name: str) -> Path:
    """The file in the download folder of torch.hub, which torch-fidelity uses too."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def sha256(file: Path) -> str:
    """The sha256 of a file, which is read once in a process unless it changes."""
    return _sha256(file, *hashes.identity(file))


class OfflineError(UserError, FileNotFoundError):
    """A missing file that must not be downloaded under `--offline`."""

    exit_code = 4


def is_offline() -> bool:
    """Whether downloads are refused, as under `--offline`."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def refuse_offline(file: Path | str, url: str) -> None:
    """Raises OfflineError under `--offline`: the file is missing and would come from `url`."""
    if is_offline():
        raise OfflineError(
            f"offline, and {file} is not here: put it there from {url}, or name a file by `weights: PATH`"
        )


def of_random(network: str) -> str:
    """The hash that stands for the random weights of a network."""
    return hashlib.sha256(f"{network}, random weights of seed 0".encode()).hexdigest()


@cache
def _sha256(file: Path, *identity: int) -> str:
    return hashes.sha256(file)
