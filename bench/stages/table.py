"""What each kind of stage does: features, reference, prior, tokenizer, latents, generator, samples, scores.

A stage is a function of its config and its parents' artifacts and returns a `Result`; nothing else that it
could read changes a number.
"""

from __future__ import annotations

from collections.abc import Callable

from ..store.artifacts import Result
from ..training.context import Context
from .features import features
from .generator import generator
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
    "scores": scores,
}
