"""Vision transformers of timm, as tokenizers are made of them."""

from __future__ import annotations

import timm
from timm.models.vision_transformer import VisionTransformer

from ..api import ImageSpec


def transformer(model: str, image: ImageSpec, patch: int) -> VisionTransformer:
    """timm's model of this name, without a head or pooling, for such images; its weights are random.

    Raises:
        ValueError: for a name that timm doesn't know or that is no plain vision transformer, and for a patch
            that does not divide the image.
    """
    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model!r}")
    if image.height % patch or image.width % patch:
        raise ValueError(f"patch {patch} does not divide the image size {image.height} x {image.width}")
    # Asked first: other families don't take these arguments.
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
