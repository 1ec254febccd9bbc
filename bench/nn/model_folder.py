"""The files of a model in diffusers' format: a folder or a repository at Hugging Face with a config.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..store.user_paths import user_path
from .weight_shards import shard_names
from .weights import OfflineError, is_offline

CONFIG = "config.json"
OWN_CLASS = "LatentbenchTokenizer"  # of tokenizers that `bench export` writes, if none of diffusers fits
# The names of a model's weights in the order in which they are looked for.
WEIGHTS = tuple(
    f"diffusion_pytorch_model.{suffix}"
    for suffix in ("safetensors", "safetensors.index.json", "bin", "bin.index.json")
)
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class NoModel(ValueError):
    """A folder or a repository without a model; the message names it and says what to do."""


class NoFile(NoModel):
    """A repository that lacks a file."""


@dataclass(frozen=True)
class ModelFolder:
    """The place of a model's files: a folder or, where none has this name, a repository at Hugging Face."""

    path: str
    subfolder: str = ""
    revision: str | None = None  # a branch, tag or commit of the repository

    @property
    def repository(self) -> str | None:
        """The repository's id; None for a folder."""
        is_id = REPOSITORY.fullmatch(self.path) and not user_path(self.path).exists()
        return self.path if is_id else None

    def config(self) -> dict[str, Any]:
        """The content of config.json, which is downloaded if it is missing and the model is in a repository.

        Raises:
            NoModel: there is no such file, or it is no JSON object.
            OfflineError: it must not be downloaded.
        """
        file = self._downloaded(CONFIG) if self.repository else self._config_in_folder()
        try:
            config = json.loads(file.read_bytes())
        except ValueError as error:
            raise NoModel(f"{file} is no JSON: {error}") from None
        if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
            raise NoModel(f"{file} names no class by `_class_name`: it is of no model in diffusers' format")
        return config

    def weights(self) -> Path:
        """The weight file, or the index of several; where there is none, the path of the one expected."""
        found = (self.kept(name) for name in WEIGHTS)
        return next((file for file in found if file is not None), self._folder / WEIGHTS[0])

    def fetch(self) -> None:
        """Downloads the weights of a model in a repository.

        Raises:
            NoModel: there are none, or no network.
            OfflineError: they must not be downloaded.
        """
        if self.repository is None:
            return
        kept = self.weights()
        for name in [kept.name] if kept.is_file() else WEIGHTS:
            try:
                file = self._downloaded(name)
            except NoFile:
                continue
            for shard in shard_names(file):
                self._downloaded(shard)
            return
        raise NoModel(f"{self.place} at Hugging Face has none of {', '.join(WEIGHTS)}")

    def kept(self, name: str) -> Path | None:
        """A file on this machine: in the folder or in Hugging Face's cache; None if it is missing."""
        if self.repository is None:
            file = self._folder / name
            return file if file.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.repository, self._in_repository(name), revision=self.revision)
        return Path(cached) if isinstance(cached, str) else None

    @property
    def _folder(self) -> Path:
        return user_path(self.path) / self.subfolder

    @property
    def place(self) -> str:
        """The folder or the repository in messages."""
        place = self.repository or str(user_path(self.path))
        return f"{place}/{self.subfolder}" if self.subfolder else place

    def _in_repository(self, name: str) -> str:
        return f"{self.subfolder}/{name}" if self.subfolder else name

    def _config_in_folder(self) -> Path:
        root, file = user_path(self.path), self._folder / CONFIG
        if root.is_file():
            raise NoModel(f"{root} is a file: `path` is the folder that has {CONFIG} and the weights")
        if not root.is_dir():
            raise NoModel(f"there is no folder {root}, and {self.path!r} is no id such as OWNER/NAME")
        if not file.is_file():
            nested = sorted(found.parent.name for found in root.glob(f"*/{CONFIG}"))
            others = f"; `subfolder` may be {' or '.join(nested)}" if nested else ""
            raise NoModel(f"{self.place} has no {CONFIG}{others}")
        return file

    def _downloaded(self, name: str) -> Path:
        """A file of the repository, from the cache or from the network."""
        assert self.repository is not None
        kept = self.kept(name)
        if kept is not None:
            return kept
        if is_offline():
            raise OfflineError(
                f"offline, and {self.place}/{name} is neither a file here nor in Hugging Face's cache: with "
                f"network, `hf download {self.repository}` gets it; or name a folder by `path: FOLDER`"
            )
        from huggingface_hub import hf_hub_download

        with self._explained(name):
            return Path(hf_hub_download(self.repository, self._in_repository(name), revision=self.revision))

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Names the file and the way out where a download fails."""
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            yield
        except RepositoryNotFoundError:
            raise NoModel(
                f"there is no folder {user_path(self.path)}, and Hugging Face has no repository "
                f"{self.path}, or shows it only after `hf auth login`"
            ) from None
        except RevisionNotFoundError:
            raise NoModel(f"{self.repository} has no revision {self.revision!r}") from None
        except LocalEntryNotFoundError as error:  # no connection; an EntryNotFoundError, too
            raise NoModel(
                f"there is no folder {user_path(self.path)}, and {self.place}/{name} could not be "
                f"downloaded: {str(error).partition(chr(10))[0]}"
            ) from None
        except EntryNotFoundError:
            raise NoFile(f"{self.place} at Hugging Face has no {name}") from None
        except HfHubHTTPError as error:
            text = str(error).partition("\n")[0]
            raise NoModel(f"{self.place}/{name} could not be downloaded: {text}") from None
