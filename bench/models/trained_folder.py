"""A folder with a tokenizer that latentbench has trained: one that `bench export` wrote, or an artifact.

FOLDER/config.json, with weights    diffusers' format, in the class that lies beside the config
.bench/artifacts/tokenizer/KEY      a tokenizer with its regularizer, as a run has stored them
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import registry
from ..api import Dataset, ImageSpec, Regularizer, Tokenizer, Unfit
from ..nn.autoencoder_kl import LOWEST_LOG_VARIANCE
from ..nn.model_folder import CONFIG, OWN_CLASS, ModelFolder, NoModel
from ..nn.weight_files import is_safetensors
from ..options.options import check_options
from ..store.artifacts import Artifact
from ..store.hashes import Corrupt
from ..store.source_files import source_hash
from ..store.user_paths import user_path
from . import build

STAGE = "stage.json"  # the file of an artifact
OUTSIDE = "latentbench."  # what the modules of parts begin with, but for plugins' parts


class _Exported(BaseModel):
    """The config.json of a tokenizer in our own class; it may have more, such as `latents_mean`."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    part: str
    options: dict[str, Any]
    image: tuple[int, int, int]
    expansion: Literal[1, 2]
    log_variance: float
    layer_norm: bool


@dataclass(frozen=True)
class TrainedFolder:
    """A trained tokenizer and its regularizer: their names and options, and the file of their weights."""

    place: str
    tokenizer: Mapping[str, Any]  # {"name": …, "options": {…}}, as the regularizer
    regularizer: Mapping[str, Any]
    facts: Mapping[str, Any]  # that the regularizer's constructor asks for
    prefixes: tuple[str, str]  # of the tokenizer's and the regularizer's tensors in the file
    made_for: str  # the images that it was trained on, in words
    files: ModelFolder | None = field(default=None, repr=False)  # where config.json is

    @property
    def weights(self) -> Path:
        """The file of the weights, which may be missing."""
        return self.files.weights() if self.files else Path(self.place) / "tensors.safetensors"

    def fetch(self) -> None:
        """Downloads the weights of a folder at Hugging Face; see `ModelFolder.fetch`."""
        if self.files:
            self.files.fetch()

    def identity(self) -> str:
        """A text of all that numbers depend on besides the weights, without the places of files."""
        kinds = {"tokenizers": self.tokenizer, "regularizers": self.regularizer}
        parts = {kind: _identity(kind, config) for kind, config in kinds.items()}
        return json.dumps({**parts, "facts": self.facts}, sort_keys=True)

    def build_tokenizer(self, image: ImageSpec, method: type[Regularizer], dataset: Dataset) -> Tokenizer:
        """The tokenizer for these images, with new weights.

        Raises:
            Unfit: the images are none that its options and the shapes of its weights allow.
        """
        facts = {"image": image, "expansion": method.expansion, "extra": method.extra, "dataset": dataset}
        options = build.options_from(self.tokenizer["options"])
        try:
            tokenizer = build.tokenizer_of(self.tokenizer["name"], facts, options)
        except NoModel:  # of a tokenizer that reads files, too
            raise
        except ValueError as error:  # its options were right for other images
            raise self._unfit(image, str(error)) from None
        stored = _shapes(self.weights)
        for name, tensor in tokenizer.state_dict().items():
            shape = stored.get(self.prefixes[0] + name, tuple(tensor.shape))
            if shape != tuple(tensor.shape):
                theirs, ours = (" x ".join(map(str, sides)) or "one" for sides in (shape, tensor.shape))
                raise self._unfit(image, f"{name} has {theirs} weights, and would need {ours}")
        return tokenizer

    def _unfit(self, image: ImageSpec, reason: str) -> Unfit:
        size = f"{image.channels} x {image.height} x {image.width}"
        return Unfit(
            f"{self.place} was trained on {self.made_for}, and doesn't fit images of {size}: {reason}"
        )


def trained_folder(path: str, subfolder: str = "", revision: str | None = None) -> TrainedFolder:
    """The description of the tokenizer in a folder or, with a config.json, in a repository at Hugging Face.

    Raises:
        NoModel: there is none, or what describes it is broken.
        OfflineError: it must not be downloaded.
    """
    folder = user_path(path) / subfolder
    return (
        _artifact(folder) if (folder / STAGE).is_file() else _exported(ModelFolder(path, subfolder, revision))
    )


def _artifact(folder: Path) -> TrainedFolder:
    try:
        meta = Artifact(folder.resolve()).meta
    except Corrupt as error:
        raise NoModel(f"{folder}: {error}") from None
    if meta["kind"] != "tokenizer" or meta["error"]:
        reason = meta["error"] or f"it is an artifact of {meta['kind']}"
        raise NoModel(f"{folder} has no trained tokenizer: {reason}")
    config = meta["config"]
    return TrainedFolder(
        str(folder),
        config["tokenizer"],
        config["regularizer"],
        config["facts"],
        ("tokenizer/", "regularizer/"),
        f"images of {config['dataset']['name']}",
    )


def _exported(files: ModelFolder) -> TrainedFolder:
    config = files.config()
    name, place = config["_class_name"], files.place
    if name != OWN_CLASS:
        raise NoModel(f"{place} has a model of diffusers' class {name}: `use: diffusers` takes it")
    try:
        known = _Exported.model_validate_json(json.dumps(config), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise NoModel(
            f"{CONFIG} of {place} doesn't say how its latents are made: {key}: {first['msg'].lower()}; "
            "`bench export` writes it anew"
        ) from None
    cls = registry.get("tokenizers", known.part)
    if getattr(cls, "paths", ()):
        raise NoModel(f"{CONFIG} of {place} names the part {known.part}, whose files aren't in the folder")
    faults = check_options(cls, known.options)[1]
    if faults:
        raise NoModel(f"{CONFIG} of {place}: {known.part}: {faults[0][1]}")
    sigma = exp(known.log_variance / 2) if known.log_variance > LOWEST_LOG_VARIANCE else 0.0
    # A posterior is what `kl` draws from, and constant noise what `fixed_variance` adds.
    regularizer: dict[str, Any] = {"name": "kl", "options": {}}
    if known.expansion == 1:
        options = {"sigma": sigma, "layer_norm": known.layer_norm}
        regularizer = {"name": "fixed_variance", "options": options}
    return TrainedFolder(
        place,
        {"name": known.part, "options": known.options},
        regularizer,
        {},
        ("tokenizer.", "regularizer."),
        f"images of {' x '.join(map(str, known.image))}",
        files,
    )


def _identity(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A part's config as it is now: with its present version and, of a plugin, its present source."""
    cls, source = registry.get(kind, config["name"]), registry.sources(kind)[config["name"]]
    paths = getattr(cls, "paths", ())
    options = {name: value for name, value in config["options"].items() if name not in paths}
    now: dict[str, Any] = {"options": options, "version": getattr(cls, "version", 1)}
    if not source.module.startswith(OUTSIDE):
        now["source"] = source_hash(source.file)
    kept = ("name", "uses", "fingerprint", "reads")
    return now | {name: config[name] for name in kept if name in config}


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file; none of another file or if it is missing."""
    if not file.is_file() or file.suffix != ".safetensors" or not is_safetensors(file):
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    except SafetensorError:
        return {}  # reading the weights says what is wrong
