"""The keys of a matrix and of its rows: their names, and what each takes and means."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .settings import Settings


@dataclass(frozen=True)
class Key:
    """A key as readers of the documentation see it; settings of one value describe themselves."""

    takes: str  # in words
    default: str  # in words, or "required"
    meaning: str


PART = "a name, or `{use: NAME, OPTION: VALUE}`"
SECTION_KEYS: dict[str, Key] = {
    "name": Key("text", "the file's name", "name of the matrix; results go to results/NAME."),
    "dataset": Key(f"{PART}; or a list of them", "required", "images to train on and to compare with."),
    "seeds": Key(
        "a number, a list, or `{tokenizer: N, generator: N, sampling: N}`",
        "[0]",
        "seeds of every cell; numbers for single steps are multiplied out.",
    ),
    "budget": Key("a mapping", "{}", "numbers of updates and of images in each."),
    "features": Key(
        f"{PART}; or a list of them",
        "required",
        "networks whose features metrics compare; rows are ranked by the first.",
    ),
    "teacher": Key(PART, "the first of `features`", "network whose features rows learn from."),
    "reference": Key(PART, "teacher", "distribution that regularizers draw latents to."),
    "reconstruction": Key(
        "a mapping from losses to weights or options", "{l1: 1.0}", "losses of a reconstruction."
    ),
    "tokenizers": Key("a mapping from labels to options", "required", "rows: networks to and from latents."),
    "regularizers": Key("a mapping from labels to options", "required", "rows: losses on latents."),
    "generators": Key("a mapping from labels to options", "required", "rows: models of latents."),
    "evaluators": Key("a list of names or of `{NAME: {OPTION: VALUE}}`", "required", "what is measured."),
    "probes": Key("a mapping", "null", "latents and samples that are kept and scored during training."),
    "skip": Key("a list of mappings", "[]", "cells that are not run, each with its reason."),
    "profiles": Key(
        "a mapping from names to keys of a matrix",
        "{}",
        "keys that `--profile NAME` lays over the others; a budget is merged key by key.",
    ),
    "plugins": Key("a list of paths", "[]", "files or packages with further parts."),
    "augment": Key(
        "a mapping", "null", "random changes of training images, alike for all rows; {} is SimCLR's."
    ),
}
KEYS = (*SECTION_KEYS, *(field.name for field in fields(Settings)))
# Keys of a row beside its part's own options.
ROW_KEYS: dict[str, Key] = {
    "use": Key("a part's name", "the label", "the part, where the label isn't its name."),
    "optimizer": Key("a mapping", "{}", "settings of AdamW that differ from the loop's defaults."),
    "budget": Key("a mapping", "{}", "numbers of updates and of images that differ from the matrix's."),
    "weights": Key("a path or `random`", "null", "file that the tokenizer's training starts from."),
    "start": Key("a label", "null", "another tokenizer, trained with `none`, that training starts from."),
    "reference": Key(PART, "the matrix's", "the row's own reference."),
    "teacher": Key(PART, "the matrix's", "the row's own teacher."),
    "init": Key(
        "one of fresh, joint",
        "fresh",
        "`joint` starts from the generator that the regularizer has trained along.",
    ),
    "guidance": Key(
        "a number, a list, or `{sweep: [W, …], samples: N}`",
        "1.0",
        "strength of classifier-free guidance, 1 being none: each of a list is a row, of a sweep the best is "
        "chosen by other samples.",
    ),
    "autoguidance": Key(
        "`{row: LABEL}`, `{snapshot: UPDATES}` or both",
        "null",
        "worse model whose velocities stand in guidance for those without a label: another generator of the "
        "matrix, trained on the same latents, or the weights after so many updates.",
    ),
    "sampler": Key("a mapping", "{}", "options of sampling."),
    "images": Key("an integer >= 2", "all", "number of images that the reference is made of."),
    "label": Key("text", "the part's name", "the dataset's name in tables."),
    "size": Key("a published size", "none", "stands for the options of that size; options beside it win."),
}
