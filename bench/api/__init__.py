"""The vocabulary and the interfaces of latentbench. Read this file first.

    images    (B, c, H, W) float in [-1, 1]
    h         (B, T, C * expansion + extra): the encoder's output, from which a regularizer makes a latent
    z         (B, T, C): the latent, T tokens of C channels; with a grid the tokens lie in row order
    labels    (B,) int64; -1 is "no class" (a dropped label), None is "no class" for the whole batch
    t         time: 0 is noise, 1 is data; x_t = (1 - t) * noise + t * z, velocity = z - noise
    guidance  w: 1 is no guidance, for every generator
    nats      the unit of likelihoods and divergences
    part      a registered class that implements one of the interfaces in this folder
    row       a part with its options in a matrix; a list of values makes one row for each value
    cell      one row of each kind on one dataset with one seed: the unit that is trained and scored
    frame     everything outside the parts: loops, stages, cache, tables

A cell pairs a `Tokenizer`, a `Regularizer` and a `Generator` on a `Dataset`; `Evaluator`s score it. A
`FeatureExtractor` describes images for metrics and teachers; a `ReferenceSource` draws samples of the
distribution that latents should follow.

Parts own modules and formulas. The training loops own optimizers, freezing, autograd switches, adaptive
weights, precision, EMA and checkpoints. A part is a class under `@register("name")`; the arguments of its
constructor, with annotations and defaults, are its options in a matrix. The frame passes some arguments
itself ("facts" such as `spec` and `classes`); each interface lists them.
"""

from __future__ import annotations

from .data import Dataset, Of, Split, from_uint8, to_uint8
from .errors import BrokenContract, Diverged, Unfit
from .evaluator import Bound, Estimate, Evaluator, Metric, Subject
from .features import FeatureExtractor
from .generator import Flow, Generator, Likelihood
from .noise import Noise, seed_for
from .reference import Reference, ReferenceSource
from .regularizer import Regularizer
from .shown import Shown, ShownSizes
from .sizes import SubjectSizes
from .specs import ImageSpec, LatentSpec
from .step import Step
from .tokenizer import FlowTokenizer, Tokenizer

__all__ = [
    "Bound",
    "Dataset",
    "BrokenContract",
    "Diverged",
    "Estimate",
    "Evaluator",
    "FeatureExtractor",
    "Flow",
    "FlowTokenizer",
    "Generator",
    "ImageSpec",
    "KINDS",
    "LatentSpec",
    "Likelihood",
    "Metric",
    "Noise",
    "Of",
    "Part",
    "Reference",
    "ReferenceSource",
    "Regularizer",
    "Shown",
    "ShownSizes",
    "Split",
    "Step",
    "Subject",
    "SubjectSizes",
    "Tokenizer",
    "Unfit",
    "from_uint8",
    "seed_for",
    "to_uint8",
]

# The interface of each kind of part, by the name of the kind.
KINDS: dict[str, type] = {
    "regularizers": Regularizer,
    "tokenizers": Tokenizer,
    "generators": Generator,
    "evaluators": Evaluator,
    "datasets": Dataset,
    "features": FeatureExtractor,
    "references": ReferenceSource,
}

Part = Regularizer | Tokenizer | Generator | Evaluator | Dataset | FeatureExtractor | ReferenceSource
