"""Weights of tokenizers from released checkpoints, whose parameters may have other names than ours.

A file is a checkpoint with the published names (`Tokenizer.released_names`) or with ours, or, for a tokenizer
with a timm transformer in its encoder, a timm file such as DINOv2's, whose positions and patches are
resampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..api import Tokenizer, Unfit
from ..options.words import listed
from .weight_files import without_prefix
from .weight_shards import read_weights

Names = dict[str, tuple[str, ...]]  # our parameter -> the released ones, which are concatenated

# Tensors that only training needs: discriminators, perceptual losses, teachers and heads for them.
TRAINING = (
    "loss.",
    "foundation_model.",
    "linear_proj.",
    "repa_model.",
    "projection.",
    "flow_loss.",
    "quantize.codebook_used",
    "scale.",
    "de_scale.",
    "encoder.scale.",
    "encoder.de_scale.",
    "decoder.decoder_pos_embed",  # of RAE's older files: it follows from the options
    "probes/",  # latents during training, of an artifact
)
VIT = "encoder.vit."
BLOCK = {"path.0": "norm1", "path.2": "conv1", "path.3": "norm2", "path.5": "conv2", "skip": "nin_shortcut"}
ATTENTION = {"norm": "norm", "qkv": "qkv", "out": "proj_out"}


def state(tokenizer: Tokenizer, file: Path) -> dict[str, Tensor]:
    """The state of a tokenizer from a file; a timm file replaces only its encoder's transformer.

    The tokenizer may be on the meta device.

    Raises:
        BadWeights: the file holds no tensors.
        ValueError: naming parameters that are missing in the file, or that the tokenizer does not have.
        Unfit: naming a parameter of another shape.
    """
    own = tokenizer.state_dict()
    # The published names, those of older files, and ours.
    layouts = [tokenizer.released_names(own), tokenizer.older_names(own), Tokenizer.released_names(own)]
    theirs = set().union(*map(_needed, layouts))
    released = without_prefix(read_weights(file), {*theirs, "pos_embed"})
    if "pos_embed" in released and any(name.startswith(VIT) for name in own):
        return _with_backbone(tokenizer, own, released, file)
    names = max(layouts, key=lambda names: len(_needed(names) & set(released)))
    needed = _needed(names)
    extra = [name for name in released if name not in needed and not name.startswith(TRAINING)]
    _check_names(needed - set(released), extra, file)
    tensors = {name: _joined([released[part] for part in theirs]) for name, theirs in names.items()}
    _check_shapes(tensors, own, file)
    return tensors


def _needed(names: Names) -> set[str]:
    """The released tensors that names stand for."""
    return {theirs for several in names.values() for theirs in several}


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])  # one may be a number without dimensions


def _check_names(missing: set[str], extra: Sequence[str], file: Path) -> None:
    problems = [f"lacks {listed(sorted(missing), 3)}"] if missing else []
    problems += [f"has {listed(sorted(extra), 3)}, which the tokenizer does not"] if extra else []
    if problems:
        raise ValueError(f"{file} {' and '.join(problems)}")


def _check_shapes(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            theirs, ours = (" x ".join(map(str, t.shape)) or "a number" for t in (tensor, own[name]))
            raise Unfit(f"{name} is {theirs} in {file}, and {ours} in the tokenizer")


def _with_backbone(
    tokenizer: Tokenizer, own: Mapping[str, Tensor], released: dict[str, Tensor], file: Path
) -> dict[str, Tensor]:
    """The tokenizer's state with its encoder's transformer from a timm file."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    vit: Any = tokenizer.encoder.vit
    fitted = checkpoint_filter_fn(released, vit)
    tensors = {VIT + name: value for name, value in fitted.items() if not name.startswith("head.")}
    wanted = {name for name in own if name.startswith(VIT)}
    missing = {name.removeprefix(VIT) for name in wanted - set(tensors)}
    _check_names(missing, [*(set(tensors) - wanted)], file)
    _check_shapes(tensors, own, file)
    return {**own, **tensors}


def renamed(own: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> Names:
    """The names of the parameters under our prefixes, with each prefix replaced by the released one."""
    return {
        name: (theirs + name.removeprefix(ours),)
        for name in own
        for ours, theirs in prefixes.items()
        if name.startswith(ours)
    }


def ldm_names(own: Mapping[str, Tensor]) -> Names:
    """Latent diffusion's names of an encoder and a decoder by `convolutions`, which MAR and VA-VAE kept."""
    layers = _layers(own, "encoder")
    down = _levels(layers[1:-6], "encoder.down", 0, 1, "downsample")
    ends = ["encoder.norm_out", "encoder.conv_out", "quant_conv"]
    prefixes = ["encoder.conv_in", *down, *_middle("encoder"), *ends]
    return _inside(layers, prefixes) | ldm_decoder_names(own, ["post_quant_conv", "decoder.conv_in"])


def ldm_decoder_names(own: Mapping[str, Tensor], first: Sequence[str]) -> Names:
    """Latent diffusion's names of a decoder by `convolutions`, after layers with the names `first`."""
    layers = _layers(own, "decoder")
    body = layers[len(first) + 3 : -2]
    top = sum(not _kind(names) for names in body)
    up = _levels(body, "decoder.up", top, -1, "upsample")
    prefixes = [*first, *_middle("decoder"), *up, "decoder.norm_out", "decoder.conv_out"]
    return _inside(layers, prefixes)


def _middle(part: str) -> list[str]:
    return [f"{part}.mid.{name}" for name in ("block_1", "attn_1", "block_2")]


def _layers(own: Mapping[str, Tensor], part: str) -> list[list[str]]:
    """Our names by layer of a sequence, without the layers that have no parameters."""
    layers: dict[int, list[str]] = {}
    for name in own:
        if name.startswith(f"{part}."):
            layers.setdefault(int(name.split(".")[1]), []).append(name)
    return [layers[index] for index in sorted(layers)]


def _kind(names: Sequence[str]) -> str:
    """The kind of a layer by its parameters' names: "block", "attn", or "" for a plain layer."""
    inner = {name.split(".")[2] for name in names}
    if "path" in inner:
        return "block"
    return "attn" if "qkv" in inner else ""


def _levels(layers: Sequence[list[str]], part: str, level: int, step: int, resample: str) -> Iterator[str]:
    """The released prefixes of blocks, attentions and resampling layers, level by level."""
    block = 0
    for names in layers:
        kind = _kind(names)
        if kind:
            block += kind == "block"
            yield f"{part}.{level}.{kind}.{block - 1}"
        else:
            yield f"{part}.{level}.{resample}.conv"
            level, block = level + step, 0


def _inside(layers: Sequence[list[str]], prefixes: Sequence[str]) -> Names:
    """Our names and the released ones of layers with these released prefixes."""
    released: Names = {}
    for names, prefix in zip(layers, prefixes, strict=True):
        inner = {"block": BLOCK, "attn": ATTENTION, "": {}}[_kind(names)]
        for name in names:
            *module, leaf = name.split(".")[2:]
            place = inner.get(".".join(module), "")
            parts = ("q", "k", "v") if place == "qkv" else (place,)
            released[name] = tuple(".".join(filter(None, (prefix, part, leaf))) for part in parts)
    return released
