"""Writes a trained tokenizer as a folder that diffusers' `AutoModel` loads, with a model card."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__, registry
from ..api import FlowTokenizer, Tokenizer, Unfit
from ..data.fixed_order import fixed_order
from ..nn import released_weights
from ..nn.autoencoder_kl import constant_log_variance, with_posterior
from ..nn.model_folder import OWN_CLASS
from ..stages.trained_cell import TrainedCell
from ..store.disk import explain_disk_full, replace_bytes, replace_text
from .find_tokenizer import FoundTokenizer
from .model_card import model_card
from .posterior import COMPARED, ExportError, Posterior, posterior_of

WEIGHTS = "diffusion_pytorch_model.safetensors"
OWN = Path(__file__).parent / "exported_tokenizer.py"  # is copied beside the config
KNOWS_STATISTICS = ("AutoencoderKL", OWN_CLASS)  # classes with `latents_mean` and `latents_std`
FORMAT = "0.42.1"  # the version of diffusers whose format is written
LARGEST = 1e-3  # difference of pixels, which lie in [-1, 1], and of latents


@dataclass(frozen=True)
class Export:
    """A written folder: diffusers' class, notes on what the format cannot say, and differences from ours.

    `difference` is the largest one of pixels in [-1, 1] and of latents; None if diffusers isn't installed.
    """

    folder: Path
    class_name: str
    notes: list[str] = field(default_factory=list)
    difference: tuple[float, float] | None = None


@torch.no_grad()
def export_tokenizer(trained: FoundTokenizer, folder: Path) -> Export:
    """Writes config, weights and model card; with diffusers installed, compares what they give.

    Raises:
        ExportError: the tokenizer only encodes, its latents aren't what its encoder gives, or the folder
            isn't empty.
    """
    check_new(folder)
    cell = trained.cell
    if not cell.tokenizer.decodes:
        raise ExportError(f"{trained.labels['tokenizer']} only encodes, and diffusers' autoencoders decode")
    posterior = posterior_of(cell)
    notes = posterior.notes
    config, state, reason = _as_diffusers(cell.tokenizer, posterior)
    if reason:
        config, state = _as_own_class(trained, posterior, reason)
        needs = f"It needs latentbench {__version__} and `trust_remote_code=True`"
        notes.append(f"{needs}, as no class of diffusers fits: {reason}.")
    if "encoder" not in cell.tokenizer.heads:
        notes.append("The weights of its frozen encoder are not in this folder.")
    if isinstance(cell.tokenizer, FlowTokenizer):
        notes.append("Its decoder draws images; here it decodes from one fixed draw of noise.")
    rule, spec = cell.normalisation, cell.tokenizer.spec
    if config["_class_name"] in KNOWS_STATISTICS or "latents_mean" in config:
        grid = spec.grid or (1, spec.tokens)
        mean, std = rule.as_maps(grid) if rule.by_position else (rule.mean, rule.std)
        statistics = {"latents_mean": mean.tolist(), "latents_std": std.tolist()}
        config |= {"scaling_factor": 1.0, **statistics}
    elif rule.by_position:
        notes.append("Its latents were normalised by position; this folder has not these statistics.")
    else:
        notes.append(
            f"Its latents' means are {_numbers(rule.mean)}, standard deviations {_numbers(rule.std)}."
        )
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _write(unfinished, config, state)
        replace_bytes(unfinished / "matrix.lock.yaml", trained.lock.read_bytes())
        difference = _difference(unfinished, trained) if find_spec("diffusers") else None
        if difference and not max(difference) < LARGEST:
            gap = f"what it gives differs by {max(difference):.2g} from the trained tokenizer's"
            raise ExportError(f"{folder} is not written: {gap}, which is a fault of the export")
        card = model_card(trained, config["_class_name"], notes, difference)
        replace_text(unfinished / "README.md", card)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Export(folder, config["_class_name"], notes, difference)


def check_new(folder: Path) -> None:
    """Raises ExportError unless a folder is empty or doesn't exist: nothing is overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} has something in it: -o must name a new folder")


def _as_diffusers(
    tokenizer: Tokenizer, posterior: Posterior
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """The config and the state of a class of diffusers, or why there is none."""
    if posterior.layer_norm:
        return {}, {}, "a layer norm makes its latents"
    try:
        config, state = tokenizer.as_diffusers()
    except Unfit as error:
        return {}, {}, str(error)
    rows = state.get("quant_conv.weight", torch.empty(0)).shape[0]
    if config["_class_name"] == "AutoencoderKL" and rows == tokenizer.spec.channels:
        state = with_posterior(state, posterior.std)
    elif not posterior.own_variance:
        posterior.notes.append(
            "Latents were its posterior's means in training; a draw adds its own variance."
        )
    return {"_diffusers_version": FORMAT, **config}, state, ""


def _as_own_class(
    trained: FoundTokenizer, posterior: Posterior, reason: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the state of the class beside the config.

    Raises:
        ExportError: the class cannot build the tokenizer.
    """
    config, dataset = trained.cell.config["tokenizer"], trained.cell.dataset
    name = config["name"]
    if not registry.sources("tokenizers")[name].module.startswith("latentbench."):
        raise ExportError(f"{name} is a plugin's: its class isn't where the folder will be loaded")
    if "path" in config["options"]:
        raise ExportError(f"the files of {name} aren't where the folder will be loaded, and {reason}")
    if "dataset" in registry.parameters_of(registry.get("tokenizers", name)):  # type: ignore[arg-type]
        raise ExportError(f"{name} is built from a dataset, which the folder's user doesn't have")
    image = dataset.image
    plain = {
        "_class_name": OWN_CLASS,
        "_diffusers_version": FORMAT,
        "auto_map": {"AutoModel": f"{OWN.stem}.{OWN_CLASS}"},
        "part": name,
        "options": config["options"],
        "image": [image.channels, image.height, image.width],
        "expansion": 2 if posterior.own_variance else 1,
        "log_variance": constant_log_variance(posterior.std),
        "layer_norm": posterior.layer_norm,
    }
    state = {f"tokenizer.{name}": tensor for name, tensor in trained.cell.tokenizer.state_dict().items()}
    return plain, state


def _numbers(values: Tensor) -> str:
    return " ".join(f"{value:.6g}" for value in values.tolist())


def _write(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    folder.mkdir(parents=True)
    with explain_disk_full(folder, sum(tensor.nbytes for tensor in state.values())):
        content = save({name: t.contiguous().clone() for name, t in state.items()}, {"format": "pt"})
        replace_bytes(folder / WEIGHTS, content)
    if "auto_map" in config:
        replace_text(folder / OWN.name, OWN.read_text(encoding="utf-8"))
    replace_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _difference(folder: Path, trained: FoundTokenizer) -> tuple[float, float]:
    """The largest differences of decoded pixels and of latents between the folder and the tokenizer."""
    cell = trained.cell
    model, dataset = _read_back(folder, cell), cell.dataset
    images = dataset.images("val", fixed_order(dataset.size("val"))[:COMPARED])
    z = cell.regularizer.latent(cell.tokenizer.encode(images), None)
    latents = (model.encode(images)[..., : z.shape[2]] - z).abs().max()
    pixels = (model.decode(z) - cell.tokenizer.decode(z)).abs().max()
    return float(pixels), float(latents)


def _read_back(folder: Path, cell: TrainedCell) -> Any:
    """The folder's model with a tokenizer's `encode` and `decode`, as whoever loads the folder has it."""
    if (folder / OWN.name).is_file():
        from .exported_tokenizer import LatentbenchTokenizer  # the file that was copied

        return _Tokens(LatentbenchTokenizer.from_pretrained(str(folder)).eval())
    facts = {"image": cell.dataset.image, "expansion": cell.regularizer.expansion}
    options = {"path": str(folder), "patch": cell.config["tokenizer"]["options"].get("patch", 1)}
    model = registry.build("tokenizers", "diffusers", facts, options)
    model.load_state_dict(released_weights.state(model, folder / WEIGHTS))
    return model.eval()


@dataclass(frozen=True)
class _Tokens:
    """A model of diffusers whose latents (B, C, h, w) are given as tokens (B, T, C)."""

    model: Any

    def encode(self, images: Tensor) -> Tensor:
        return self.model.encode(images).latent_dist.mode().flatten(2).transpose(1, 2)

    def decode(self, z: Tensor) -> Tensor:
        return self.model.decode(z.transpose(1, 2).unflatten(2, self.model.grid)).sample
