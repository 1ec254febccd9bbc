"""The rows of a checkpoint's tensor as a reference: a codebook, a language model's tokens (Flow Priors)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..api import Dataset, LatentSpec, Reference, ReferenceSource, Split, seed_for
from ..data.vectors import split_rows, split_sizes
from ..nn.weight_files import read_checkpoint
from ..nn.weights import RANDOM, of_random, sha256
from ..registry import register
from ..store.user_paths import user_path


@register("table")
class Table(ReferenceSource):
    """Each row of a file's tensor, one token a sample, divided by the tensor's standard deviation.

    Every row is one sample, however often it is used. A fifth of the rows are held out from training, as
    fresh samples to compare with; the paper takes all. The paper's tables are `model.embed_tokens.weight` of
    Qwen2.5-0.5B, 151,936 rows of 896, and `quantize.embedding.weight` of LlamaGen's vq_ds16_c2i.pt, 16,384
    rows of 8.
    """

    uses_features = False

    def __init__(
        self,
        file: str = RANDOM,
        key: str = "model.embed_tokens.weight",
        rows: Annotated[int, Field(ge=5)] = 151_936,
        channels: Annotated[int, Field(ge=1)] = 896,
    ) -> None:
        """
        Args:
            file: a safetensors or torch file; "random" is a table of N(0, 1).
            key: the tensor's name in the file.
            rows: the tensor's number of rows. With `rows` and `channels`, a plan needs no file.
            channels: the length of its rows.
        """
        self.file, self.key, self.rows = file, key, rows
        self.spec = LatentSpec(1, channels)

    def fingerprint(self) -> str | None:
        if self.file == RANDOM:
            return of_random("table")
        return sha256(self._path) if self._path.is_file() else None

    def fetch(self) -> None:
        if self.file != RANDOM and not self._path.is_file():
            raise FileNotFoundError(f"there is no file {self._path}")

    def counts(self, images: Mapping[Split, int], classes: int) -> dict[Split, int]:
        return split_sizes(self.rows)

    def memory_bytes(self, images: Mapping[Split, int], classes: int) -> int:
        # The table, the rows of a split, and both splits' samples.
        return 3 * super().memory_bytes(images, classes)

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        table = self._table()
        return Reference((split_rows(table, split, "table") / table.std())[:, None])

    @property
    def _path(self) -> Path:
        return user_path(self.file)

    def _table(self) -> Tensor:
        shape = (self.rows, self.spec.channels)
        if self.file == RANDOM:
            return torch.randn(shape, generator=torch.Generator().manual_seed(seed_for("table", "random")))
        tensors = read_checkpoint(self._path)
        if self.key not in tensors:
            raise ValueError(f"{self.file} has no tensor {self.key!r}")
        table = tensors[self.key]
        if table.shape != shape:
            actual = " x ".join(map(str, table.shape))
            raise ValueError(f"{self.key} of {self.file} is {actual}, not {self.rows} x {shape[1]}")
        return table.float()
