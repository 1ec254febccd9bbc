"""The latents of another tokenizer, trained by this suite (Flow Priors' VAE prior; DMVAE's `VAE`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from torch import Tensor

from ..api import Dataset, LatentSpec, Reference, ReferenceSource, Regularizer, Split, Tokenizer
from ..registry import Use, register


@register("latents")
class Latents(ReferenceSource):
    """Latents of the split's images by a tokenizer and a regularizer, which are trained as in a row.

    The frame trains them under the matrix's budget (in a stage that a row with the same options shares), and
    passes their latents in place of a teacher's tokens. `row`, the label of a tokenizer of the matrix,
    replaces `tokenizer` and has its own optimizer and budget.
    """

    labelled = True

    def __init__(
        self,
        teacher_spec: LatentSpec,
        tokenizer: Annotated[Use, Tokenizer] = "vit",
        regularizer: Annotated[Use, Regularizer] = "kl",
        row: str | None = None,
    ) -> None:
        """
        Args:
            tokenizer: the tokenizer that is trained for the reference.
            regularizer: the regularizer that it is trained with.
            row: label of a tokenizer of the matrix, which then takes the place of `tokenizer`.
        """
        self.spec = teacher_spec

    def memory_bytes(self, images: Mapping[Split, int], classes: int) -> int:
        # Both splits' latents, and the same in the order of the images.
        return 2 * super().memory_bytes(images, classes)

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        return Reference(tokens, dataset.labels(split), self.spec.grid)
