"""Vision transformers of timm, for tokenizers and discriminators."""

from __future__ import annotations

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ..api import ImageSpec


def transformer(model: str, image: ImageSpec, patch: int) -> VisionTransformer:
    """A randomly initialised timm model for images of this shape, without a head or pooling.

    Raises:
        ValueError: if timm doesn't know the model, if it is no plain vision transformer, or if the patch does
            not divide the image.
    """
    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model!r}")
    if image.height % patch or image.width % patch:
        raise ValueError(f"patch {patch} does not divide the image size {image.height} x {image.width}")
    # Checked before the model is built: other families don't take these arguments.
    if not timm.models.model_entrypoint(model).__module__.endswith(".vision_transformer"):
        raise ValueError(f"timm's {model} is no plain vision transformer")
    network = timm.create_model(
        model,
        in_chans=image.channels,
        img_size=(image.height, image.width),
        patch_size=patch,
        num_classes=0,
        global_pool="",
        dynamic_img_size=False,
    )
    assert isinstance(network, VisionTransformer)
    return network


def add_positions(network: VisionTransformer, patches: Tensor) -> Tensor:
    """Patch tokens (B, N, D) with P prefix tokens and positions: (B, P + N, D), as in timm's forward pass."""
    prefix = [token for token in (network.cls_token, network.reg_token) if token is not None]
    expanded = [token.expand(len(patches), -1, -1) for token in prefix]
    if network.pos_embed is None:
        return torch.cat([*expanded, patches], 1)
    if network.no_embed_class:
        return network.pos_drop(torch.cat([*expanded, patches + network.pos_embed], 1))
    return network.pos_drop(torch.cat([*expanded, patches], 1) + network.pos_embed)
