"""The function of each kind of stage.

A stage computes a `Result` from its config and its parents' artifacts; no other input changes a number.
"""

from __future__ import annotations

from collections.abc import Callable

from ..store.artifacts import Result
from ..training.context import Context
from .features import features
from .generator import generator
from .guidance import guidance
from .inputs import Config, Inputs
from .latents import latents
from .prior import prior
from .reference import reference
from .samples import samples
from .scores import scores
from .tokenizer import tokenizer

STAGES: dict[str, Callable[[Config, Inputs, Context], Result]] = {
    "features": features,
    "reference": reference,
    "prior": prior,
    "tokenizer": tokenizer,
    "latents": latents,
    "generator": generator,
    "samples": samples,
    "guidance": guidance,
    "scores": scores,
}
