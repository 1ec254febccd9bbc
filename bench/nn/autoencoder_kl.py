"""diffusers' `AutoencoderKL` that is the same network as `conv` or `vavae`: config and names of weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from ..api import ImageSpec, Unfit

LOWEST_LOG_VARIANCE = -30.0  # what diffusers clamps to: a standard deviation of 3e-7
# Latent diffusion's names of layers and diffusers' names; {n} is the number of a level, turned round if [n].
LAYERS = (
    (r"(en|de)coder\.mid\.block_1", r"\1coder.mid_block.resnets.0"),
    (r"(en|de)coder\.mid\.block_2", r"\1coder.mid_block.resnets.1"),
    (r"(en|de)coder\.mid\.attn_1", r"\1coder.mid_block.attentions.0"),
    (r"(en|de)coder\.(down|up)\.(\d+)\.block", r"\1coder.\2_blocks.\3.resnets"),
    (r"(en|de)coder\.(down|up)\.(\d+)\.attn", r"\1coder.\2_blocks.\3.attentions"),
    (r"(en|de)coder\.(down|up)\.(\d+)\.(down|up)sample\.", r"\1coder.\2_blocks.\3.\4samplers.0."),
    (r"(en|de)coder\.norm_out", r"\1coder.conv_norm_out"),
    (r"nin_shortcut", "conv_shortcut"),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.(q|k|v)\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
)


def config(
    image: ImageSpec,
    channels: int,
    widths: Sequence[int],
    blocks: int,
    modules: Iterable[nn.Module],
    decoder_attention: bool,
) -> dict[str, Any]:
    """The config of the `AutoencoderKL` with attention in the encoder's lowest level, as in MAR.

    Args:
        channels: of a latent.
        widths: channels of each level, from the image's size down.
        modules: the layers, whose group norms must have one number of groups.
        decoder_attention: whether the decoder's lowest level has attention, too.

    Raises:
        Unfit: its layers have several numbers of groups.
    """
    groups = {module.num_groups for module in modules if isinstance(module, nn.GroupNorm)}
    if len(groups) > 1:
        several = " and ".join(map(str, sorted(groups)))
        raise Unfit(f"its group norms have {several} groups, and AutoencoderKL has one number for all")
    plain, lowest = len(widths) - 1, "AttnUpDecoderBlock2D" if decoder_attention else "UpDecoderBlock2D"
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": image.channels,
        "out_channels": image.channels,
        "down_block_types": ["DownEncoderBlock2D"] * plain + ["AttnDownEncoderBlock2D"],
        "up_block_types": [lowest] + ["UpDecoderBlock2D"] * plain,
        "block_out_channels": list(widths),
        "layers_per_block": blocks,
        "latent_channels": channels,
        "norm_num_groups": groups.pop(),
        "sample_size": image.height if image.height == image.width else [image.height, image.width],
    }


def diffusers_state(state: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """A state dict by diffusers' names.

    Args:
        names: latent diffusion's names of each of the state's tensors, which several are concatenated to.
    """
    levels = 1 + max(
        int(m[1]) for several in names.values() for m in [re.search(r"up\.(\d+)", several[0])] if m
    )
    found: dict[str, Tensor] = {}
    for name, several in names.items():
        for theirs, tensor in zip(several, state[name].chunk(len(several)), strict=True):
            renamed = _renamed(theirs, levels)
            linear = ".attentions." in renamed and tensor.ndim == 4
            found[renamed] = (tensor[:, :, 0, 0] if linear else tensor).contiguous().clone()
    return found


def constant_log_variance(std: float) -> float:
    """The log-variance of noise of a standard deviation; diffusers' least one for 0."""
    return max(2 * log(std), LOWEST_LOG_VARIANCE) if std else LOWEST_LOG_VARIANCE


def with_posterior(state: Mapping[str, Tensor], std: float) -> dict[str, Tensor]:
    """The state of an encoder that gives latents alone, with rows for a constant log-variance.

    Args:
        std: the standard deviation of noise on latents; with 0, diffusers' draws are the latents.
    """
    conv_out, quant = "encoder.conv_out", "quant_conv"
    found = dict(state)
    for layer in (conv_out, quant):
        weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        if layer == quant:  # reads twice as many channels, too
            weight = torch.cat([weight, torch.zeros_like(weight)], 1)
        value = constant_log_variance(std) if layer == quant else 0.0
        found[f"{layer}.weight"] = torch.cat([weight, torch.zeros_like(weight)])
        found[f"{layer}.bias"] = torch.cat([bias, torch.full_like(bias, value)])
    return found


def _renamed(name: str, levels: int) -> str:
    for pattern, replacement in LAYERS:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{levels - 1 - int(match[1])}", name)
