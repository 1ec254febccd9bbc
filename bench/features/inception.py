"""Inception-v3 as FID uses it (Heusel et al., 2017): torch-fidelity's port from TensorFlow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..api import FeatureExtractor, LatentSpec
from ..api.noise import seeded
from ..data.images import RESIZINGS, in_chunks, prepared
from ..metrics.names import INCEPTION
from ..models.activations import bytes_of, forward_memory
from ..nn.weight_files import read_checkpoint
from ..nn.weights import Weights, hub
from ..registry import register

FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
KEPT = (FILE, "pt_inception-2015-12-05-6726825d.pth")  # the second is pytorch-fid's name for the same file
CHUNK = 32
OWN = "tensorflow"
GRID = 4  # the last 8 x 8 map is averaged to 4 x 4: 64 tokens of 2,048 would take half a megabyte an image


@register("inception")
class Inception(FeatureExtractor):
    """FID's Inception-v3: 2,048 pooled channels, 1,008 logits and sFID's map of 2,023 values.

    `weights` is a file, null for the published file (in torch.hub's cache, or downloaded) or `random`.
    """

    resizing = OWN
    outputs = ("pooled", "tokens", "logits", "spatial")
    channels = 2048
    widths = {"logits": 1008, "spatial": 2023}  # noqa: RUF012
    spec = LatentSpec(tokens=GRID * GRID, channels=2048, grid=(GRID, GRID))

    def __init__(self, weights: str | None = None, verify: bool = True) -> None:
        """
        Args:
            weights: a file, `random`, or null for the published file: in torch.hub's cache, or downloaded.
            verify: whether the file must be the published one, by its sha256.
        """
        self.weights = Weights(weights, verify, URL, INCEPTION, [hub(name) for name in KEPT])
        self.name = "inception" + self.weights.suffix("inception")

    def fingerprint(self) -> str | None:
        return self.weights.fingerprint("inception")

    def fetch(self) -> None:
        self.weights.file()

    def memory_bytes(self) -> int:
        return memory()

    def protocol(self) -> dict[str, Any]:
        return {
            "extractor": self.name,
            "network": "torch-fidelity inception-v3-compat",
            "weights_sha256": self.fingerprint(),
            "rounding": "8 bits" if self.rounds else "none",
            "resize": RESIZINGS.get(self.resizing, "TensorFlow 1 bilinear, not anti-aliased"),
            "resolution": 299,
            "pooled": "2048",
            "logits": "logits_unbiased",
            "spatial": "mixed_6/conv, the first 7 channels of 17 x 17",
        }

    def describe(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        return in_chunks(self._describe, images, CHUNK, outputs)

    def _describe(self, images: Tensor) -> dict[str, Tensor]:
        network: Any = on_meta() if images.is_meta else self._network.to(images.device)
        maps = self._prepared(images)
        for name, block in network.named_children():
            if name == "AvgPool":
                break
            if name == "Mixed_6d":
                # ADM's mixed_6/conv (Dhariwal & Nichol, 2021, evaluations/evaluator.py), after its ReLU.
                spatial = block.branch1x1(maps)[:, :7].flatten(1)
            maps = block(maps)
        pooled = network.AvgPool(maps).flatten(1)
        tokens = nn.functional.adaptive_avg_pool2d(maps, GRID).flatten(2).transpose(1, 2)
        logits = pooled.mm(network.fc.weight.T)
        return {"pooled": pooled, "tokens": tokens, "logits": logits, "spatial": spatial}

    def _prepared(self, images: Tensor) -> Tensor:
        """(B, c, H, W) in [-1, 1] -> (B, 3, 299, 299) in [-1, 1), as torch-fidelity's forward does."""
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

        if self.resizing == OWN:
            levels = prepared(images, None, rounds=self.rounds)
            levels = interpolate_bilinear_2d_like_tensorflow1x(levels, size=(299, 299), align_corners=False)
        else:
            levels = prepared(images, 299, self.resizing, self.rounds)
        return (levels - 128) / 128

    @cached_property
    def _network(self) -> nn.Module:
        with seeded():
            network = built()
            if self.weights.random:
                for module in network.modules():
                    if isinstance(module, nn.Conv2d):  # keeps the scale of features through the depth
                        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if not self.weights.random:
            nn.Module.load_state_dict(network, read_checkpoint(self.weights.file()))
        return network


def built() -> nn.Module:
    """The network with random weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Network(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args: Any, **options: Any) -> None:
            """Does nothing: the constructor would unpickle any object. Tensors alone are loaded later."""

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    return Network("inception-v3-compat", ["2048", "logits_unbiased"], empty)


def last_maps(network: Any, maps: Tensor) -> Tensor:
    """The maps (B, 2048, 8, 8) that features are means of, from prepared images."""
    for name, block in network.named_children():
        if name == "AvgPool":
            break
        maps = block(maps)
    return maps


@cache
def on_meta() -> nn.Module:
    """The network without weights."""
    with torch.device("meta"):
        return built()


@cache
def memory() -> int:
    """Bytes of the network and of its pass on a chunk of images, on the meta device."""
    network, chunk = on_meta(), torch.empty(CHUNK, 3, 299, 299, device="meta")
    return bytes_of(network) + 3 * chunk.nbytes + forward_memory(lambda x: last_maps(network, x), chunk)
