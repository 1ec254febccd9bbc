"""The sections of a matrix that are no parts: budget, probes, optimizers and other settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ..options.types import Count, Decay, Scale


@dataclass(frozen=True)
class Budget:
    """Updates, and images in each."""

    tokenizer_steps: Annotated[int, Field(ge=0)] = 600  # 0 takes tokenizers as they are
    generator_steps: Count = 800
    batch: Count = 64
    prior_steps: Count = 1000  # of a regularizer's prior, before the tokenizer
    refine_steps: Annotated[int, Field(ge=0)] = 0  # of the decoder alone, after the others


@dataclass(frozen=True)
class Probes:
    """What is kept and scored along training."""

    every: Count | None = None  # tokenizer updates between two looks at the latents, for evaluators
    images: Count = 1024  # the first so many of the training images, of whose latents
    generator: tuple[Count, ...] = ()  # generator updates after which samples are scored
    samples: Annotated[int, Field(ge=4)] = 500  # of those

    @property
    def latents(self) -> dict[str, int] | None:
        """What the tokenizer's loop is to keep."""
        return None if self.every is None else {"every": self.every, "images": self.images}


@dataclass(frozen=True)
class Settings:
    """The keys of a matrix that are one value each."""

    samples: Annotated[int, Field(ge=4)] = 1000  # fewer have no distances
    normalise: Literal["channel", "scalar", "none"] = "channel"
    threads: Count = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False  # the repeated layers of networks in training, by torch.compile
    checkpointing: bool = False  # their forward passes anew for the backward pass: less memory


@dataclass(frozen=True)
class Group:
    """Optimizer settings of a group of parameters; what isn't given is the loop's default."""

    lr: Annotated[float, Field(gt=0)] | None = None
    betas: tuple[Decay, Decay] | None = None
    weight_decay: Scale | None = None
    decayed: Literal["all", "matrices"] | None = None  # biases and gains, which are no matrices, or not
    warmup: Annotated[int, Field(ge=0)] | None = None  # updates
    schedule: Literal["constant", "cosine"] | None = None
    hold: Annotated[int, Field(ge=0)] | None = None  # updates before the cosine starts
    floor: Scale | None = None  # the learning rate that the cosine ends at
    steps: Count | None = None  # updates after which the group stays as it is


@dataclass(frozen=True)
class Critic(Group):
    """Optimizer settings of a critic."""

    clip: Scale | None = None  # of the gradient's norm; 0 is none


@dataclass(frozen=True)
class Optimizer(Critic):
    """Optimizer settings of a row."""

    ema: Decay | None = None  # decay; 0 is none
