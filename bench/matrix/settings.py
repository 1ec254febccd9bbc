"""The sections of a matrix that are no parts: budget, probes, optimizers and settings of one value each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ..options.types import Count, Decay, Scale


@dataclass(frozen=True)
class Budget:
    """Numbers of updates, and of images in each update.

    Args:
        tokenizer_steps: updates of a tokenizer; 0 scores tokenizers without training.
        generator_steps: updates of a generator.
        batch: images in each update.
        prior_steps: updates of a regularizer's prior, which is trained before the tokenizer.
        refine_steps: updates of the decoder alone, after `tokenizer_steps`.
    """

    tokenizer_steps: Annotated[int, Field(ge=0)] = 600
    generator_steps: Count = 800
    batch: Count = 64
    prior_steps: Count = 1000
    refine_steps: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Probes:
    """Latents and samples that are kept and scored during training.

    Args:
        every: tokenizer updates between two sets of latents for evaluators; null keeps none.
        images: latents in a set: those of a fixed random choice of training images.
        generator: generator updates after which samples are scored.
        samples: samples in each such set.
    """

    every: Count | None = None
    images: Count = 1024
    generator: tuple[Count, ...] = ()
    samples: Annotated[int, Field(ge=4)] = 500

    @property
    def latents(self) -> dict[str, int] | None:
        """The probes of the tokenizer's loop, if there are any."""
        return None if self.every is None else {"every": self.every, "images": self.images}


@dataclass(frozen=True)
class Autoguidance:
    """The worse model by which samples are guided (Karras et al., 2024, arXiv 2406.02507).

    Args:
        row: label of another generator of the matrix, which is trained on the same latents; null is the row
            itself.
        snapshot: updates after which that generator's averaged weights are taken; null is its last.
    """

    row: str | None = None
    snapshot: Count | None = None


@dataclass(frozen=True)
class Settings:
    """The keys of a matrix that are one value each.

    Args:
        samples: samples of each generator at each ranked guidance; distances need at least 4.
        normalise: how latents are scaled before a generator sees them: each channel, all by one number, each
            channel of each position, as in RAE, or not.
        threads: threads of each worker on a CPU.
        precision: number format of training.
        compile: whether torch.compile compiles the repeated layers of networks in training and, on a GPU,
            those of generators in sampling.
        checkpointing: whether the backward pass computes those layers again, which saves memory and changes
            no key.
    """

    samples: Annotated[int, Field(ge=4)] = 1000
    normalise: Literal["channel", "scalar", "position", "none"] = "channel"
    threads: Count = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    checkpointing: bool = False


@dataclass(frozen=True)
class GroupOptimizer:
    """Optimizer settings of a group of parameters; None takes the default in `training/optimizers.py`.

    Args:
        lr: largest learning rate.
        betas: decays of AdamW's two averages.
        weight_decay: AdamW's weight decay.
        decayed: which parameters decay; `matrices` spares biases and gains.
        warmup: updates over which the learning rate rises from 0.
        schedule: what the learning rate does after the warm-up.
        hold: updates before the cosine schedule starts.
        floor: the learning rate that the cosine ends at.
        steps: updates after which the group is frozen; null: never.
    """

    lr: Annotated[float, Field(gt=0)] | None = None
    betas: tuple[Decay, Decay] | None = None
    weight_decay: Scale | None = None
    decayed: Literal["all", "matrices"] | None = None
    warmup: Annotated[int, Field(ge=0)] | None = None
    schedule: Literal["constant", "cosine"] | None = None
    hold: Annotated[int, Field(ge=0)] | None = None
    floor: Scale | None = None
    steps: Count | None = None


@dataclass(frozen=True)
class CriticOptimizer(GroupOptimizer):
    """Optimizer settings of a critic.

    Args:
        clip: largest norm of the gradient; 0 is no clipping.
    """

    clip: Scale | None = None


@dataclass(frozen=True)
class Optimizer(CriticOptimizer):
    """Optimizer settings of a row.

    Args:
        ema: decay of the averaged weights; 0 is no average.
    """

    ema: Decay | None = None
