"""Folders as `bench export` writes them in our own class."""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from latentbench.bench import registry
from latentbench.bench.api import ImageSpec

CONFIG = {
    "_class_name": "LatentbenchTokenizer",
    "auto_map": {"AutoModel": "exported_tokenizer.LatentbenchTokenizer"},
    "part": "conv",
    "options": {"width": 32, "mult": [1, 2], "channels": 4},
    "image": [1, 8, 8],
    "expansion": 2,
    "log_variance": -30.0,
    "layer_norm": False,
}
VIT = {"part": "vit", "options": {"width": 16, "depth": 1, "heads": 2, "patch": 4, "channels": 4}}


@cache
def exported_folder():
    """A folder of `conv` with a posterior, without weights; it is removed at the end of the tests."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(write_config(folder))


def write_config(folder, **changes):
    """A folder with the config alone; a change to None leaves its key out."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in (CONFIG | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_exported(folder, seed=0, **changes):
    """A folder with a config and random weights, on the CPU."""
    config = CONFIG | changes
    facts = {"image": ImageSpec(*config["image"]), "expansion": config["expansion"]}
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in config["options"].items()}
    torch.manual_seed(seed)
    state = registry.build("tokenizers", config["part"], facts, options).state_dict()
    write_config(folder, **changes)
    weights = {f"tokenizer.{name}": tensor.contiguous() for name, tensor in state.items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return folder
