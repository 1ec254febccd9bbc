"""A tokenizer that latentbench has trained, with the latents that its regularizer makes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..bench.api import Dataset, FlowTokenizer, ImageSpec, Step, Tokenizer, Unfit
from ..bench.models import build
from ..bench.models.normal_draws import normal_moments
from ..bench.models.trained_folder import trained_folder
from ..bench.registry import register


@register("trained")
class Trained(Tokenizer):
    """A tokenizer that was trained here before, from a folder that `bench export` wrote in its own class.

    Its latents are those of the regularizer that it was trained with: `none` takes their means, `kl` draws
    them, with as much noise as in training. That regularizer stays as it is, also if the row trains the
    tokenizer on; with `budget: {tokenizer_steps: 0}` it is scored, or gets a generator, as it is. Images have
    to be of its size and colours, where its weights depend on them. Nothing in the folder is run as code.

    The folder of a tokenizer's artifact, `.bench/artifacts/tokenizer/KEY`, is taken, too. Plugins that it
    needs are loaded as for its training. Latents that depend on their minibatch (`lzn`), and decoders that
    draw images, cannot be had from a folder.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"path", "subfolder", "revision"})

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        dataset: Dataset,
        path: str = "",
        subfolder: str = "",
        revision: str | None = None,
    ) -> None:
        """
        Args:
            path: a folder with config.json and weights, an id at Hugging Face, such as OWNER/NAME, or an
                artifact's folder. Cache keys contain what is in the files, and not where they are.
            subfolder: a folder in it.
            revision: a branch, tag or commit of the repository at Hugging Face.
        """
        super().__init__(image, expansion)
        if not path:
            raise ValueError("the option 'path' is missing: a folder that `bench export` wrote")
        self.folder, self.expansion = trained_folder(path, subfolder, revision), expansion
        own = self.folder.regularizer
        method = build.base_class(own)
        if method.couples == "latent":
            raise Unfit(
                f"latents of {own['name']} depend on their minibatch: only the run that trained it has them"
            )
        if expansion > 2:
            raise Unfit(
                f"its latents have a mean and a variance, and not {expansion} values for each channel"
            )
        self.tokenizer = self.folder.build_tokenizer(image, method, dataset)
        if isinstance(self.tokenizer, FlowTokenizer):
            name = self.folder.tokenizer["name"]
            raise Unfit(f"the decoder of {name} draws images: only the run that trained it has them")
        self.spec, self.decodes = self.tokenizer.spec, self.tokenizer.decodes  # type: ignore[misc]
        self.regrids, self.frozen = self.tokenizer.regrids, self.tokenizer.frozen
        known = build.facts_from(self.folder.facts)
        self.regularizer = build.regularizer(own, self.spec, known).requires_grad_(False)
        self.released_names = self._stored_names  # type: ignore[method-assign]
        self.older_names = self._stored_names  # type: ignore[method-assign]

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        return self.tokenizer.encoder

    @property
    def decoder(self) -> nn.Module:  # type: ignore[override]
        return self.tokenizer.decoder

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        return self.tokenizer.heads

    def fingerprint(self) -> str | None:
        inner, own = self.tokenizer.fingerprint(), self.regularizer.fingerprint()
        if inner is None or own is None:
            return None
        return hashlib.sha256(f"{self.folder.identity()} {inner} {own}".encode()).hexdigest()

    def own_weights(self) -> Path:
        return self.folder.weights

    def memory_bytes(self) -> int:
        return self.tokenizer.memory_bytes()

    def fetch(self) -> None:
        self.folder.fetch()

    def train(self, mode: bool = True) -> Trained:
        super().train(mode)
        self.regularizer.eval()  # its latents are those of the finished tokenizer
        return self

    def encode(self, images: Tensor) -> Tensor:
        h = self.tokenizer.encode(images).float()  # in single precision, as in training
        if self.expansion == 1:
            return self.regularizer.latent(h, None)
        return torch.cat(normal_moments(self.regularizer, h), -1)

    def decode(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.tokenizer.decode(z) if grid is None else self.tokenizer.decode(z, grid=grid)

    def loss(self, images: Tensor, z: Tensor, step: Step) -> dict[str, Tensor] | None:
        return self.tokenizer.loss(images, z, step)

    def _stored_names(self, state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        """The names in the folder's file, where the two parts have prefixes of their own."""
        prefixes = dict(zip(("tokenizer", "regularizer"), self.folder.prefixes, strict=True))
        parts = {name: name.split(".", 1) for name in state}
        return {name: (prefixes[part] + inner,) for name, (part, inner) in parts.items()}
