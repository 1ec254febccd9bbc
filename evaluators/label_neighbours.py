"""Whether the nearest latents are of the same class (LNC)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ..bench.api import Evaluator, Metric, Subject, SubjectSizes
from ..bench.data.fixed_order import random_rows
from ..bench.metrics import bootstrap
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.metrics.proxies import CHUNK, label_shares
from ..bench.registry import register


@register("label_neighbours")
class LabelNeighbours(Evaluator):
    """LNC: how many of a held-out latent's nearest others have its label, by the cosine of mean tokens.

    The paper takes the mean of foreground tokens, by ImageNet-S's masks, and names neither the number of
    neighbours nor the distance. Here the mean is over all tokens. Images without labels have no value.

    Paper: arXiv 2606.03578, 2026.
    """

    metrics = {
        "LNC": Metric("tokenizer", None, "", "Share of a latent's nearest others that are of its class.")
    }

    def __init__(
        self, k: Annotated[int, Field(ge=1)] = 10, images: Annotated[int, Field(ge=2)] = 50_000
    ) -> None:
        """
        Args:
            k: number of neighbours.
            images: largest number of held-out images, a fixed random choice; operations grow as its square.
        """
        self.k, self.images = k, images

    def run(self, subject: Subject) -> dict[str, float]:
        z, labels = subject.latents("val"), subject.labels("val")
        if labels is None or len(labels.unique()) < 2:
            return {}
        chosen = random_rows(len(z), self.images)
        z, labels = z[chosen], labels.cpu()[chosen]
        if self.k >= len(z):
            subject.left_out["LNC"] = f"{self.k} neighbours need more held-out images than {len(z)}"
            return {}
        return {"LNC": mean_estimate("LNC", label_shares(z, labels, self.k), labels)}

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        n, tokens, channels = sizes.latents("val")
        n = min(n, self.images)
        chunk = 8 * min(n, CHUNK) * max(tokens * channels, 3 * n)
        return chunk + n * channels * (4 * tokens + 3 * 8) + bootstrap.memory_bytes(n)

    def flops(self, sizes: SubjectSizes) -> int:
        n, _, channels = sizes.latents("val")
        return 2 * min(n, self.images) ** 2 * channels

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return {
            "n": min(self.images, subject.dataset.size("val")),
            "latents": "of val, drawn, mean over all tokens",
            "distance": "cosine",
            "k": self.k,
        }
