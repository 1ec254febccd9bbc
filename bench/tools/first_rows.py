"""The rows of a first matrix: those that are asked for, the usual ones, and spare ones to try next."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import registry
from ..api import ImageSpec, Tokenizer
from ..matrix.parts import JOINT, NONE
from ..nn.weights import OfflineError
from .named_rows import check_named_once, full_name, tokenizer_labels, tokenizer_row, usable_label

SECTIONS = ("tokenizers", "regularizers", "generators")
MEAN, DRAWS = "none", "kl"  # regularizers that also make sense of tokenizers that aren't trained
USUAL = {
    "tokenizers": ("vit",),
    "regularizers": (MEAN, DRAWS, "fixed_variance"),
    "generators": ("gaussian", "lightningdit"),
}
TRIED_TOKENIZERS = ("vit", "conv")
# Options with which parts learn something in minutes, where their defaults are for longer runs.
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "tokenizers": {},
    "regularizers": {
        "kl": {"weight": 1e-4},
        "fixed_variance": {"sigma": 0.25},
        "repa": {"weight": 2.0},
        "simflow": {"sigma": 0.25, "weight": 0.03},
        "lzn": {"alpha": 0.25, "steps": 10},
        "flow_prior": {"weight": 0.01},
        "dmvae": {"weight": 0.003, "critic_steps": 3},
    },
    "generators": {
        "lightningdit": {"sampler": {"steps": 20}},
        "sit": {"sampler": {"steps": 20}},
        "mar": {"head": "flow", "head_depth": 2, "sampler": {"steps": 15}},
    },
}
NOTES = {
    "tokenizers": {
        "vit": "a vision transformer, a latent token for each patch",
        "conv": "the convolutional autoencoder of latent diffusion",
    },
    "regularizers": {
        "none": "none at all: what the others are compared with",
        "kl": "pulls latents to N(0, I), as VAEs do, by its weight",
        "fixed_variance": "adds noise of a fixed size to latents of unit size",
        "repa": "aligns latents with the teacher's features",
        "simflow": "trains a flow of the latents along",
        "lzn": "divides N(0, I) among the images of a batch",
        "flow_prior": "pulls latents to the teacher's features by a flow that learned them first",
    },
    "generators": {
        "gaussian": "one Gaussian fitted to the latents: what a generator has to beat",
        "lightningdit": "a diffusion transformer",
        "mar": "a masked autoencoder with a flow for each token",
        "tarflow": "an autoregressive normalizing flow",
        NONE: "no generator: tokenizers are scored alone",
        JOINT: "the generator that a regularizer such as simflow trains along",
    },
}


@dataclass(frozen=True)
class Row:
    """An entry of a section; a spare one is written as a comment."""

    label: str
    options: Mapping[str, Any]
    note: str = ""
    asked: bool = True  # by name; otherwise it is the usual choice, or spare
    spare: bool = False

    @property
    def part(self) -> str:
        return str(self.options.get("use", self.label))


def tokenizer_rows(names: Sequence[str]) -> list[Row]:
    """The rows of tokenizers that are named as `bench score` takes them, or the usual ones.

    Raises:
        MeaninglessName: one is named twice, or is no tokenizer that can be used.
    """
    given = [tokenizer_row(name) for name in names or USUAL["tokenizers"]]
    full = [full_name(row) for row in given]
    check_named_once(full, given)
    rows = []
    for label, options in zip(_plain(tokenizer_labels(full)), given, strict=True):
        part = options["use"]
        own = {key: value for key, value in options.items() if key != "use" or value != label}
        rows.append(Row(label, own, about("tokenizers", part), bool(names)))
    return rows


def part_rows(section: str, names: Sequence[str]) -> list[Row]:
    """The rows of named regularizers or generators, or the usual ones."""
    chosen = dict.fromkeys(names or USUAL[section])
    return [row_of(section, name, asked=bool(names)) for name in chosen]


def row_of(section: str, name: str, **more: Any) -> Row:
    options = OPTIONS[section].get(name, {})
    return Row(name, options, about(section, name), **more)


def about(section: str, name: str) -> str:
    """A part in a few words, by default the first line of its own text."""
    source = registry.sources(section).get(name)
    return NOTES[section].get(name) or (source.about.rstrip(".") if source else "")


def with_first_options(row: Row, image: ImageSpec, tokens: int) -> Row:
    """A tokenizer's row with the options that its part proposes for such images."""
    cls = registry.get("tokenizers", row.part)
    assert issubclass(cls, Tokenizer)
    given = {key: value for key, value in row.options.items() if key != "use"}
    try:
        proposed = cls.first_options(image, tokens, given)
    except (ValueError, registry.PartError, OfflineError):
        return row  # building the tokenizer says what is wrong with it
    return Row(row.label, {**row.options, **proposed}, row.note, row.asked, row.spare)


def spare_rows(
    rows: Mapping[str, Sequence[Row]], untrained: Sequence[str], image: ImageSpec, tokens: int, classes: int
) -> dict[str, list[Row]]:
    """Rows to try next to the given ones, by section; whether they fit is not known."""
    chosen = rows["tokenizers"]
    tokenizers = [
        with_first_options(row_of("tokenizers", name, spare=True), image, tokens) for name in TRIED_TOKENIZERS
    ]
    for row in chosen:
        if row.label in untrained:
            options = {key: value for key, value in row.options.items() if key != "budget"}
            label = f"{row.label}-trained"
            tokenizers.append(Row(label, options, "trained on from its weights", spare=True))
        elif isinstance(row.options.get("channels"), int):
            wider = {"use": row.part} | dict(row.options) | {"channels": 2 * row.options["channels"]}
            tokenizers.append(Row(f"{row.label}-wider", wider, "twice the channels", spare=True))
    regularizers, generators = [], []
    if len(untrained) < len(chosen):
        strengths = {"use": "kl", "weight": [1e-5, 1e-3]}
        regularizers = [Row("kl-strengths", strengths, "two rows, one for each weight", spare=True)]
        names = ("repa", "simflow", "lzn", "flow_prior")
        regularizers += [row_of("regularizers", name, spare=True) for name in names]
    if classes > 1:
        guided = {"use": "lightningdit", "guidance": {"sweep": [1.0, 1.5, 2.0, 3.0]}}
        guided |= OPTIONS["generators"]["lightningdit"]
        note = "each cell chooses the best of four guidances"
        generators = [Row("lightningdit-guided", guided, note, spare=True)]
    generators += [row_of("generators", name, spare=True) for name in ("mar", "tarflow", NONE)]
    spare = {"tokenizers": tokenizers, "regularizers": regularizers, "generators": generators}
    taken = {section: {row.label for row in rows[section]} for section in SECTIONS}
    return {kind: [row for row in spare[kind] if row.label not in taken[kind]] for kind in SECTIONS}


def plain_label(text: str) -> str:
    """A label that is also a pattern for itself alone, and no list of labels, in `skip` and in `--filter`."""
    return usable_label(re.sub(r"[^\w.@+ -]+", "_", text))


def _plain(labels: Sequence[str]) -> list[str]:
    plain = [plain_label(label) for label in labels]
    if len(set(plain)) == len(plain):
        return plain
    return [f"{number}-{label}" for number, label in enumerate(plain, 1)]
