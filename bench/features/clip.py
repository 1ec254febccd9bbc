"""CLIP's image embedding (Radford et al., 2021), on which CMMD is defined (Jayasumana et al., 2024)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..api import FeatureExtractor, LatentSpec
from ..api.noise import seeded
from ..data.images import RESIZINGS, in_chunks, prepared
from ..metrics.names import CLIP
from ..models.activations import bytes_of, forward_memory
from ..nn.weights import Weights, hub
from ..registry import register
from ..store.user_paths import user_path

CHUNK = 16
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Each model's sha256 of OpenAI's file; then its embedding, resolution, layers, width and patch.
MODELS = {
    "ViT-L-14-336px": (CLIP, (768, 336, 24, 1024, 14)),
    "ViT-B-32": ("40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", (512, 224, 12, 768, 32)),
}


@cache
def on_meta(model: str) -> Any:
    """The network without weights."""
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    with torch.device("meta"):
        return CLIPVisual(*MODELS[model][1]).eval().requires_grad_(False).visual


@cache
def memory(model: str) -> int:
    """Bytes of a network and of its pass on a chunk of images, on the meta device."""
    network, side = on_meta(model), MODELS[model][1][1]
    chunk = torch.empty(CHUNK, 3, side, side, device="meta")
    return bytes_of(network) + chunk.nbytes + forward_memory(network, chunk)


@register("clip")
class Clip(FeatureExtractor):
    """OpenAI's CLIP ViT-L/14 at 336 pixels, whose embeddings are scaled to unit length, as in CMMD's code.

    `weights` is OpenAI's file, `random`, or null: the file in the cache of torch-fidelity or of OpenAI's
    package, or else downloaded. CMMD is defined with the default model; the other model is a small one.
    """

    cmmd = True

    def __init__(
        self,
        model: Literal["ViT-L-14-336px", "ViT-B-32"] = "ViT-L-14-336px",
        weights: str | None = None,
        verify: bool = True,
    ) -> None:
        """
        Args:
            model: OpenAI's name of the model; CMMD is defined with the default.
            weights: a file, `random`, or null for the published file: in a cache of this machine, or
                downloaded.
            verify: whether the file must be the published one, by its sha256.
        """
        published, (self.channels, self.resolution, _, width, patch) = MODELS[model]
        self.model, side = model, self.resolution // patch
        self.spec = LatentSpec(side * side, width, (side, side))
        kept = [
            hub(f"clip-{model.lower()}-{published}.pt"),  # torch-fidelity's
            user_path(f"~/.cache/clip/{model}.pt"),  # OpenAI's
        ]
        url = f"https://openaipublic.azureedge.net/clip/models/{published}/{model}.pt"
        self.weights = Weights(weights, verify, url, published, kept)
        base = "clip" if published == CLIP else f"clip:{model}"
        self.name = base + self.weights.suffix(model)

    def fingerprint(self) -> str | None:
        return self.weights.fingerprint(self.model)

    def fetch(self) -> None:
        self.weights.file()

    def memory_bytes(self) -> int:
        return memory(self.model)

    def protocol(self) -> dict[str, Any]:
        return {
            "extractor": self.name,
            "network": f"OpenAI CLIP {self.model}, float32",
            "weights_sha256": self.fingerprint(),
            "rounding": "8 bits" if self.rounds else "none",
            "resize": RESIZINGS[self.resizing],
            "resolution": self.resolution,
            "pooled": "projected image embedding, of unit length",
        }

    def describe(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        return in_chunks(self._describe, images, CHUNK, outputs)

    def _describe(self, images: Tensor) -> dict[str, Tensor]:
        network: Any = on_meta(self.model) if images.is_meta else self._network.to(images.device)
        # The paper's code resizes by JAX's bicubic filter, which is anti-aliased, as PIL's is.
        resized = prepared(images, self.resolution, self.resizing, self.rounds) / 255
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        blocks: list[Tensor] = []  # the last block's output
        with network.transformer.register_forward_hook(lambda _, __, output: blocks.append(output)):
            embedded = network((resized - mean) / std)
        tokens = blocks[0][1:].transpose(0, 1)  # (1 + N, B, G) without the class token
        return {"pooled": nn.functional.normalize(embedded, dim=1), "tokens": tokens}

    @cached_property
    def _network(self) -> nn.Module:
        from torch_fidelity.feature_extractor_clip import CLIPVisual, build_model

        if self.weights.random:
            with seeded():
                network = CLIPVisual(*MODELS[self.model][1]).eval().requires_grad_(False)
        else:
            # OpenAI's files are TorchScript archives of half precision, a format that PyTorch deprecates.
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                stored = torch.jit.load(self.weights.file(), map_location="cpu").state_dict()
            with seeded():
                network = build_model(stored, torch.float32)
        return network.visual
