"""The sections of a matrix that are no parts: budget, probes, optimizers and settings of one value each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ..options.types import Count, Decay, Scale


@dataclass(frozen=True)
class Budget:
    """Numbers of updates, and of images in each update."""

    tokenizer_steps: Annotated[int, Field(ge=0)] = 600  # 0 scores tokenizers without training
    generator_steps: Count = 800
    batch: Count = 64
    prior_steps: Count = 1000  # of a regularizer's prior, which is trained before the tokenizer
    refine_steps: Annotated[int, Field(ge=0)] = 0  # of the decoder alone, after `tokenizer_steps`


@dataclass(frozen=True)
class Probes:
    """Latents and samples that are kept and scored during training."""

    every: Count | None = None  # tokenizer updates between two sets of latents for evaluators
    images: Count = 1024  # latents in a set: those of a fixed random choice of training images
    generator: tuple[Count, ...] = ()  # generator updates after which samples are scored
    samples: Annotated[int, Field(ge=4)] = 500  # in each such set of samples

    @property
    def latents(self) -> dict[str, int] | None:
        """The probes of the tokenizer's loop, if there are any."""
        return None if self.every is None else {"every": self.every, "images": self.images}


@dataclass(frozen=True)
class Settings:
    """The keys of a matrix that are one value each."""

    samples: Annotated[int, Field(ge=4)] = 1000  # distances need at least 4
    normalise: Literal["channel", "scalar", "none"] = "channel"
    threads: Count = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False  # whether torch.compile compiles the repeated layers of networks in training
    checkpointing: bool = False  # whether the backward pass recomputes those layers, which saves memory


@dataclass(frozen=True)
class GroupOptimizer:
    """Optimizer settings of a group of parameters; None takes the default in `training/optimizers.py`."""

    lr: Annotated[float, Field(gt=0)] | None = None
    betas: tuple[Decay, Decay] | None = None
    weight_decay: Scale | None = None
    decayed: Literal["all", "matrices"] | None = None  # "matrices": biases and gains do not decay
    warmup: Annotated[int, Field(ge=0)] | None = None  # updates
    schedule: Literal["constant", "cosine"] | None = None
    hold: Annotated[int, Field(ge=0)] | None = None  # updates before the cosine schedule starts
    floor: Scale | None = None  # the learning rate that the cosine ends at
    steps: Count | None = None  # updates after which the group is frozen


@dataclass(frozen=True)
class CriticOptimizer(GroupOptimizer):
    """Optimizer settings of a critic."""

    clip: Scale | None = None  # largest norm of the gradient; 0 is no clipping


@dataclass(frozen=True)
class Optimizer(CriticOptimizer):
    """Optimizer settings of a row."""

    ema: Decay | None = None  # decay of the averaged weights; 0 is no average
