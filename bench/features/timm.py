"""Any pretrained backbone of timm, such as DINOv2, on which FD agrees with people (Stein et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import Field
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from ..api import FeatureExtractor, LatentSpec
from ..api.noise import seeded
from ..data.images import RESIZINGS, in_chunks, prepared
from ..models.activations import bytes_of, forward_memory
from ..nn.weight_files import is_safetensors
from ..nn.weights import RANDOM, first_existing, of_random, refuse_offline, sha256
from ..registry import register
from ..store.user_paths import user_path

CHUNK = 32
Layer = Annotated[int, Field(ge=0)]
RESOLUTION = 224  # the resolution of FD on DINOv2 (Stein et al., 2023)


@register("timm")
class Timm(FeatureExtractor):
    """A backbone of timm: its own pooling, a grid of tokens, and logits if it has a classifier.

    `weights` is a file, null for timm's own (in Hugging Face's cache or downloaded) or `random`. Tokens are
    the output of block `layer`, or of that stage in a convolutional network; null is the last. Of several
    blocks they are the mean, each after the network's last norm.

    `norm: plain` leaves out the weight and the bias of that norm, as RAE does, so that each token of one
    block has mean 0 and variance 1 over its channels. RAEv2 has several layers, and `add_mean` for DINOv3
    and SigLIP2 (its code; its paper has the sum of the layers). These options change the tokens alone.

    Papers: Zheng et al., "Diffusion Transformers with Representation Autoencoders" (RAE), 2025 (arXiv
    2510.11690); RAEv2, 2026 (arXiv 2605.18324).
    """

    later = frozenset({"norm", "add_mean"})

    def __init__(
        self,
        model: str = "vit_small_patch14_dinov2.lvd142m",
        weights: str | None = None,
        resolution: Annotated[int, Field(ge=16)] = RESOLUTION,
        layer: Layer | Annotated[tuple[Layer, ...], Field(min_length=1)] | None = None,
        norm: Literal["affine", "plain"] = "affine",
        add_mean: bool = False,
    ) -> None:
        """
        Args:
            model: timm's name of a model with pretrained weights; `timm:NAME` is short for it.
            weights: a file, `random`, or null for timm's own: in Hugging Face's cache, or downloaded.
            resolution: side in pixels to which images are resized.
            layer: block, or stage of a convolutional network, whose output the tokens are, or a list of
                blocks whose mean they are; null is the last.
            norm: whether tokens have the weight and the bias of the network's last layer norm.
            add_mean: whether the mean over positions of the last of the layers is added to every token.
        """
        if get_pretrained_cfg(model) is None:
            near = get_close_matches(model, timm.list_models(pretrained=True), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"timm has no pretrained model {model!r}{hint}")
        self.model, self.weights, self.resolution, self.layer = model, weights, resolution, layer
        if weights not in (None, RANDOM) and (file := self._file()):
            is_safetensors(file)  # raises if the file is no weight file
        layers = () if layer is None else (layer,) if isinstance(layer, int) else tuple(layer)
        if len({*layers}) < len(layers):
            raise ValueError(f"layer {list(layers)} names a layer twice")
        self.tokens = Tokens(tuple(sorted(layers)), norm == "plain", add_mean)
        shapes = layout(model, resolution, self.tokens)
        self.outputs = ("pooled", "tokens", "logits") if shapes.classes else ("pooled", "tokens")
        self.channels, self.spec, self.widths = shapes.pooled, shapes.spec, {"logits": shapes.classes}
        name = ["timm", model]
        if resolution != RESOLUTION:
            name.append(str(resolution))
        if layers:
            name.append("layer" + "+".join(map(str, self.tokens.layers)))
        name += ["plain"] * self.tokens.plain + ["mean"] * add_mean
        if weights == RANDOM:
            name.append(RANDOM)
        self.name = ":".join(name)

    def fingerprint(self) -> str | None:
        if self.weights == RANDOM:
            return of_random(self.model)
        file = self._file()
        return sha256(file) if file else None

    def fetch(self) -> None:
        if self.weights != RANDOM and not self._file():
            self._downloaded()

    def protocol(self) -> dict[str, Any]:
        return {
            "extractor": self.name,
            "network": f"timm {self.model}",
            "weights_sha256": self.fingerprint(),
            "rounding": "8 bits" if self.rounds else "none",
            "resize": RESIZINGS[self.resizing],
            "resolution": self.resolution,
            "pooled": "the model's own",
            "layer": "last" if self.layer is None else self.layer,
            **({"norm": "without weight and bias"} if self.tokens.plain else {}),
            **({"tokens": "with the mean over positions added"} if self.tokens.add_mean else {}),
        }

    def memory_bytes(self) -> int:
        return memory(self.model, self.resolution)

    def describe(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        network = on_meta(self.model, self.resolution) if images.is_meta else self._network.to(images.device)
        return in_chunks(
            lambda chunk: described(network, self._prepared(chunk), self.tokens), images, CHUNK, outputs
        )

    def _prepared(self, images: Tensor) -> Tensor:
        """(B, c, H, W) in [-1, 1] -> (B, 3, r, r), standardised as in the model's training."""
        config: Any = get_pretrained_cfg(self.model)
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (config.mean, config.std))
        return (prepared(images, self.resolution, self.resizing, self.rounds) / 255 - mean) / std

    def _file(self) -> Path | None:
        """The file `weights`, or timm's in Hugging Face's cache; None if it is missing."""
        from huggingface_hub import try_to_load_from_cache

        if self.weights is not None:
            return first_existing([user_path(self.weights)])
        repository, name = published(self.model)
        kept = try_to_load_from_cache(repository, name) if repository else None
        return Path(kept) if isinstance(kept, str) else None

    def _downloaded(self) -> Path:
        from huggingface_hub import hf_hub_download

        repository, name = published(self.model)
        if self.weights is not None or not repository:
            raise FileNotFoundError(
                f"there is no file {self.weights or 'at Hugging Face'} for timm's {self.model}"
            )
        refuse_offline(f"{repository}/{name}", f"https://huggingface.co/{repository}")
        return Path(hf_hub_download(repository, name))

    @cached_property
    def _network(self) -> nn.Module:
        if self.weights == RANDOM:
            with seeded():
                return built(self.model, self.resolution)
        return built(self.model, self.resolution, self._file() or self._downloaded())


def published(model: str) -> tuple[str | None, str]:
    """The repository of a model at Hugging Face, if any, and the file in it."""
    config: Any = get_pretrained_cfg(model)
    return config.hf_hub_id, config.hf_hub_filename or "model.safetensors"


@dataclass(frozen=True)
class Tokens:
    """A choice of a model's tokens: the layers whose mean they are, in order, or none for the last layer."""

    layers: tuple[int, ...] = ()
    plain: bool = False  # normalised without the weight and the bias of the last norm
    add_mean: bool = False  # with the mean over positions of the last of the layers


@dataclass(frozen=True)
class Layout:
    """The sizes of a model's outputs for one image."""

    pooled: int
    spec: LatentSpec
    classes: int


@cache
def layout(model: str, resolution: int, tokens: Tokens) -> Layout:
    """Computes the sizes of a model's outputs on the meta device, without weights.

    Raises:
        ValueError: if the model cannot be built for images of this size, or has no such tokens.
    """
    image = torch.zeros(1, 3, resolution, resolution, device="meta")
    try:
        network = on_meta(model, resolution)
        maps = described(network, image, tokens, grid=True)
    except (AssertionError, RuntimeError, IndexError) as error:
        layers = ", ".join(map(str, tokens.layers)) or None
        raise ValueError(f"timm's {model} at {resolution} pixels, layer {layers}: {error}") from error
    channels, *grid = maps["tokens"].shape[1:]
    spec = LatentSpec(grid[0] * grid[1], channels, (grid[0], grid[1]))
    return Layout(maps["pooled"].shape[1], spec, network.num_classes)


@cache
def on_meta(model: str, resolution: int) -> Any:
    """The network for square images of this size, without weights."""
    with torch.device("meta"):
        return built(model, resolution)


@cache
def memory(model: str, resolution: int) -> int:
    """Bytes of a network and of its pass on a chunk of images, on the meta device."""
    network, chunk = on_meta(model, resolution), torch.empty(CHUNK, 3, resolution, resolution, device="meta")
    forward = forward_memory(lambda x: described(network, x, Tokens()), chunk)
    return bytes_of(network) + chunk.nbytes + forward


def built(model: str, resolution: int, file: Path | None = None) -> Any:
    """The network for square images of this size, frozen, with weights from a file or without."""
    config: Any = get_pretrained_cfg(model)
    # Only models with a fixed number of positions take the image size.
    size: dict[str, Any] = {"img_size": resolution} if config.fixed_input_size else {}
    overlay = {"file": str(file), "custom_load": file.suffix == ".npz"} if file else None
    network = timm.create_model(model, pretrained=file is not None, pretrained_cfg_overlay=overlay, **size)
    return network.eval().requires_grad_(False)


def described(network: Any, images: Tensor, tokens: Tokens, grid: bool = False) -> dict[str, Tensor]:
    """(B, 3, r, r) -> pooled (B, F), logits (B, K) and tokens (B, N, G), with `grid` as (B, G, h, w)."""
    last, maps = network.forward_intermediates(
        images, indices=list(tokens.layers) or 1, norm=not tokens.plain, output_fmt="NCHW"
    )
    if tokens.plain:
        maps = [plain_norm(layer, network) for layer in maps]
    chosen = maps[0] if len(maps) == 1 else torch.stack(maps).mean(0)
    if tokens.add_mean:
        chosen = chosen + maps[-1].mean((2, 3), keepdim=True)
    return {
        "pooled": network.forward_head(last, pre_logits=True),
        "tokens": chosen if grid else chosen.flatten(2).transpose(1, 2),
        "logits": network.forward_head(last),
    }


def plain_norm(maps: Tensor, network: Any) -> Tensor:
    """The network's last layer norm without weight and bias: (B, G, h, w) -> (B, G, h, w).

    Raises:
        AssertionError: the network has no such norm.
    """
    norm = getattr(network, "norm", None)
    assert isinstance(norm, nn.LayerNorm), "norm 'plain' needs a last layer norm of its tokens"
    return nn.functional.layer_norm(maps.movedim(1, -1), norm.normalized_shape, eps=norm.eps).movedim(-1, 1)
