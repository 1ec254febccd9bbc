"""Any autoencoder in the format of Hugging Face's diffusers library, from a folder or from the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.api import ImageSpec, LatentSpec, Tokenizer, Unfit
from ..bench.nn.diffusers_model import Half, Layout, built, identity, layout, scaling
from ..bench.nn.model_folder import ModelFolder
from ..bench.registry import register

# The names of an attention's layers in files of older versions of diffusers, such as Stable Diffusion's.
OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def older(name: str) -> str:
    """The name of a tensor in files of older versions."""
    module, _, leaf = name.rpartition(".")
    ends = [new for new in OLDER if ".attentions." in name and module.endswith(f".{new}")]
    return f"{module.removesuffix(ends[0])}{OLDER[ends[0]]}.{leaf}" if ends else name


class Encoder(Half):
    """Images (B, c, H, W) -> h (B, T, C), or (B, T, 2C) with a posterior; grey images are repeated."""

    def __init__(self, model: nn.Module, plan: Layout, posterior: bool, patch: int) -> None:
        super().__init__(model, lambda name: name in plan.encoder)
        self.plan, self.posterior, self.patch = plan, posterior, patch

    def forward(self, images: Tensor) -> Tensor:
        x = images if images.shape[1] == self.plan.colours else images.repeat(1, self.plan.colours, 1, 1)
        z, parameters = self.plan.interface.encode(self.model, x)
        h = parameters if self.posterior and parameters is not None else z
        return F.pixel_unshuffle(h, self.patch).flatten(2).transpose(1, 2)


class Decoder(Half):
    """z (B, T, C) -> (B, c, H, W); of grey images, the mean of the decoded colours."""

    def __init__(self, model: nn.Module, plan: Layout, grey: bool, patch: int) -> None:
        super().__init__(model, lambda name: name not in plan.encoder)
        self.plan, self.grey, self.patch = plan, grey, patch

    def forward(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        sides = grid or [side // self.patch for side in self.plan.grid]
        maps = F.pixel_shuffle(z.transpose(1, 2).unflatten(2, sides), self.patch)
        images = self.plan.interface.decode(self.model, maps)
        return images.mean(1, keepdim=True) if self.grey else images


@register("diffusers")
class Diffusers(Tokenizer):
    """An autoencoder in diffusers' format: the class and the options are those of its config.json.

    `kl` draws the posterior of models that have one, exactly as diffusers does; other regularizers get its
    mean. The model's own scaling (scaling_factor, shift_factor, latents_mean, latents_std, FLUX.2's batch
    norm) is not used: `normalise` of the matrix does that, for all tokenizers alike. AutoencoderRAE alone
    normalises within.

    Training starts from the weights beside the config, or from the row's `weights`: a file, or `random`.
    With `budget: {tokenizer_steps: 0}` the model is scored as it is. Grey images are repeated to three
    colours, and decoded ones averaged. Models of videos encode an image as one frame.

    Needs `pip install "latentbench[diffusers]"`; AutoencoderRAE needs transformers, too.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"path", "subfolder", "revision"})

    encoder: Encoder
    decoder: Decoder

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        path: str = "",
        subfolder: str = "",
        revision: str | None = None,
        patch: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        """
        Args:
            path: a folder with config.json and weights, or an id at Hugging Face, such as OWNER/NAME. Cache
                keys contain what is in the files, and not where they are.
            subfolder: a folder in it, such as `vae` of a pipeline.
            revision: a branch, tag or commit of the repository at Hugging Face.
            patch: side of the squares of positions that become one token; SiT and FLUX.2 take 2.
        """
        super().__init__(image, expansion)
        if not path:
            raise ValueError("the option 'path' is missing: a folder with config.json, or an id OWNER/NAME")
        self.folder = ModelFolder(path, subfolder, revision)
        config = self.folder.config()
        self.identity = identity(config)
        plan = layout(self.identity, image)
        height, width = plan.grid
        if height % patch or width % patch:
            raise Unfit(
                f"patch {patch} does not divide the grid {height} x {width} of {plan.name}: the sides of "
                f"images must be multiples of {image.height // height * patch}"
            )
        if expansion > 1 and not plan.posterior:
            raise Unfit(f"{plan.name} encodes an image as a point: there is no posterior to draw from")
        if expansion > 2:
            raise Unfit(f"{plan.name} has a mean and a variance, and not {expansion} values for each channel")
        grid = (height // patch, width // patch)
        self.spec = LatentSpec(grid[0] * grid[1], plan.channels * patch**2, grid)
        self.plan, self.regrids, model = plan, plan.regrids, built(config)
        self.scaling = scaling(model)
        for name, parameter in model.named_parameters():
            if name in plan.idle:
                parameter.requires_grad_(False)
        self.encoder = Encoder(model, plan, expansion == 2, patch)
        self.decoder = Decoder(model, plan, image.channels != plan.colours, patch)

    @classmethod
    def first_options(cls, image: ImageSpec, tokens: int, given: Mapping[str, Any]) -> dict[str, Any]:
        with torch.device("meta"):
            height, width = cls(image, 1, **given).plan.grid
        patch = 1
        while height * width // patch**2 > tokens and height % (2 * patch) == 0 == width % (2 * patch):
            patch *= 2
        return {"patch": patch} if patch > 1 else {}

    def decode(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.decoder(z, grid)

    def notes(self) -> list[str]:
        if not self.scaling:
            return []
        own = ", ".join(self.scaling)
        return [
            f"its own scaling ({own}) is not used: the matrix's `normalise` (channel, scalar, none) holds "
            "for all tokenizers alike"
        ]

    def fingerprint(self) -> str:
        return hashlib.sha256(self.identity.encode()).hexdigest()

    def own_weights(self) -> Path:
        return self.folder.weights()

    def fetch(self) -> None:
        self.folder.fetch()

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        encoder, decoder = self.plan.heads
        return {
            "encoder": self.encoder.model.get_parameter(encoder),
            "decoder": self.decoder.model.get_parameter(decoder),
        }

    def as_diffusers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        own = self.state_dict()
        names = {theirs: ours for ours, (theirs,) in self.released_names(own).items()}  # halves share buffers
        return json.loads(self.identity), {theirs: own[ours] for theirs, ours in names.items()}

    @staticmethod
    def released_names(state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        return {name: (name.split(".", 2)[2],) for name in state}  # without "encoder.model."

    @classmethod
    def older_names(cls, state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        return {name: (older(theirs),) for name, (theirs,) in cls.released_names(state).items()}
