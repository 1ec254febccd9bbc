"""Released checkpoints: what MAR's VAE, VA-VAE, SoftVQ and DMVAE call the parameters of our tokenizers.

A file is a checkpoint by these names or by our own, or, for a tokenizer with a transformer of timm in its
encoder, a file of timm's such as DINOv2's; positions and patches are then resampled to ours.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ..api import Tokenizer, Unfit

Names = dict[str, tuple[str, ...]]  # of our parameter: theirs; several are ours one after the other

WRAPPERS = ("vae_ema", "vae_wo_ddp", "ema", "model", "state_dict")  # where codes keep weights, averages first
# What only training needed: discriminators and perceptual losses, teachers and heads on the way to them.
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
)
VIT = "encoder.vit."
SOFTVQ = {
    VIT: "encoder.model.",
    "encoder.latents": "encoder.latent_tokens",
    "encoder.positions": "encoder.latent_pos_embed",
    "encoder.codebooks.codes": "quantize.embedding",
    "encoder.head.": "quant_conv.",
    "decoder.vit.": "decoder.model.",
    "decoder.mask": "decoder.mask_token",
    "decoder.positions": "decoder.latent_pos_embed",
    "decoder.embed.": "post_quant_conv.",
    "decoder.head.": "decoder.to_pixel.model.",
}
DMVAE = {
    VIT: "encoder.model.",
    "encoder.inner.0.": "bottle_neck.mlp.0.",
    "encoder.head.": "bottle_neck.mlp.2.",
}
BLOCK = {"path.0": "norm1", "path.2": "conv1", "path.3": "norm2", "path.5": "conv2", "skip": "nin_shortcut"}
ATTENTION = {"norm": "norm", "qkv": "qkv", "out": "proj_out"}


def state(tokenizer: Tokenizer, part: str, file: Path) -> dict[str, Tensor]:
    """The state of a tokenizer from a file; of its encoder's transformer alone if the file is of such.

    The tokenizer may be on the meta device.

    Raises:
        ValueError: naming parameters that are missing in the file, or that the tokenizer does not have.
        Unfit: naming one of another shape.
    """
    own, given = tokenizer.state_dict(), read_checkpoint(file)
    if "pos_embed" in given and any(name.startswith(VIT) for name in own):
        return _backbone(tokenizer, own, given, file)
    names = (_same if set(own) <= set(given) else LAYOUTS.get(part, _same))(own)
    needed = {theirs for several in names.values() for theirs in several}
    extra = [name for name in given if name not in needed and not name.startswith(TRAINING)]
    _complete(needed - set(given), extra, file)
    found = {name: torch.cat([given[one] for one in theirs]) for name, theirs in names.items()}
    _fitting(found, own, file)
    return found


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of torch's, wherever in it they are kept."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    try:
        held: Any = torch.load(file, "cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except UnpicklingError as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"{file} is no checkpoint of tensors alone: {why}") from error
    held = next((held[name] for name in WRAPPERS if isinstance(held.get(name), Mapping)), held)
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def _complete(missing: set[str], extra: Sequence[str], file: Path) -> None:
    if missing or extra:
        told = [f"lacks {_some(sorted(missing))}"] if missing else []
        told += [f"has {_some(sorted(extra))}, which the tokenizer does not"] if extra else []
        raise ValueError(f"{file} {' and '.join(told)}")


def _fitting(found: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            theirs, ours = (" x ".join(map(str, t.shape)) for t in (tensor, own[name]))
            raise Unfit(f"{name} is {theirs} in {file}, and {ours} in the tokenizer")


def _some(names: Sequence[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def _backbone(
    tokenizer: Tokenizer, own: Mapping[str, Tensor], given: dict[str, Tensor], file: Path
) -> dict[str, Tensor]:
    """The whole state, with the encoder's transformer from timm's file."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    vit: Any = tokenizer.encoder.vit
    fitted = checkpoint_filter_fn(given, vit)
    found = {VIT + name: value for name, value in fitted.items() if not name.startswith("head.")}
    wanted = {name for name in own if name.startswith(VIT)}
    _complete({name.removeprefix(VIT) for name in wanted - set(found)}, [*(set(found) - wanted)], file)
    _fitting(found, own, file)
    return {**own, **found}


def _same(own: Mapping[str, Tensor]) -> Names:
    return {name: (name,) for name in own}


def _renamed(own: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> Names:
    """The names under these prefixes."""
    return {
        name: (theirs + name.removeprefix(ours),)
        for name in own
        for ours, theirs in prefixes.items()
        if name.startswith(ours)
    }


def _ldm(own: Mapping[str, Tensor]) -> Names:
    """Latent diffusion's names, which MAR and VA-VAE have kept."""
    layers = _layers(own, "encoder")
    down = _levels(layers[1:-6], "encoder.down", 0, 1, "downsample")
    ends = ["encoder.norm_out", "encoder.conv_out", "quant_conv"]
    prefixes = ["encoder.conv_in", *down, *_middle("encoder"), *ends]
    return _inside(layers, prefixes) | _decoder(own, ["post_quant_conv", "decoder.conv_in"])


def _dmvae(own: Mapping[str, Tensor]) -> Names:
    return _renamed(own, DMVAE) | _decoder(own, ["decoder.conv_in.0.conv", "decoder.conv_in.1"])


def _softvq(own: Mapping[str, Tensor]) -> Names:
    return _renamed(own, SOFTVQ)


LAYOUTS: dict[str, Callable[[Mapping[str, Tensor]], Names]] = {
    "conv": _ldm,
    "vavae": _ldm,
    "softvq": _softvq,
    "dino": _dmvae,
}


def _decoder(own: Mapping[str, Tensor], first: Sequence[str]) -> Names:
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
    found: dict[int, list[str]] = {}
    for name in own:
        if name.startswith(f"{part}."):
            found.setdefault(int(name.split(".")[1]), []).append(name)
    return [found[index] for index in sorted(found)]


def _kind(names: Sequence[str]) -> str:
    """Of a layer: `block`, `attn`, or nothing if it is plain."""
    inner = {name.split(".")[2] for name in names}
    return "block" if "path" in inner else "attn" if "qkv" in inner else ""


def _levels(layers: Sequence[list[str]], part: str, level: int, step: int, resample: str) -> Iterator[str]:
    """The prefixes of blocks, attentions and what changes the size after them, upwards or downwards."""
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
    """Our names and theirs, of layers whose prefixes are these."""
    found: Names = {}
    for names, prefix in zip(layers, prefixes, strict=True):
        inner = {"block": BLOCK, "attn": ATTENTION, "": {}}[_kind(names)]
        for name in names:
            *where, leaf = name.split(".")[2:]
            place = inner.get(".".join(where), "")
            several = ("q", "k", "v") if place == "qkv" else (place,)
            found[name] = tuple(".".join(filter(None, (prefix, one, leaf))) for one in several)
    return found
