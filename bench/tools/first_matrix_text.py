"""A first matrix as a commented YAML file, in which choices are lines with a `#` and no space before them."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping
from typing import Any

from ..matrix.yaml_text import dump_inline, parse
from ..plan.forecast import span
from .first_matrix import FEATURES, TEACHER, FirstMatrix
from .first_rows import SECTIONS, Row

WIDTH = 110  # of comments
HEADS = {
    "tokenizers": "Tokenizers: from images to latents and back. More: bench list tokenizers. Options: bench "
    "info tokenizer NAME.",
    "regularizers": "Regularizers: what shapes the latents. More: bench list regularizers. A list of values "
    "makes a row of each: {weight: [1.0e-5, 1.0e-3]}.",
    "generators": "Generators: they learn the latents of each tokenizer with each regularizer. More: bench "
    "list generators.",
}
UNTRAINED = (
    "A tokenizer that has weights is scored as it is: its own budget says `tokenizer_steps: 0`, and the one "
    "below is that of the others. `none` takes the mean of its latents, `kl` draws from them."
)
FEW = 100  # held-out images
MANY = 5_000  # images whose features take longer than all else in the profile `smoke`


def first_matrix_text(first: FirstMatrix, file: str) -> str:
    """The text of a matrix for a file of that name; it reads as `first.data()`."""
    lines = [*_head(first, file), *_images(first)]
    for section in SECTIONS:
        lines += ["", *comment(HEADS[section])]
        if section == "tokenizers" and first.untrained:
            lines += comment(UNTRAINED)
        lines.append(f"{section}:")
        for row in first.rows[section]:
            lines += _row(row)
    lines += [*_skips(first), *_numbers(first), *_measures(first), *_profiles(first)]
    text = "\n".join(lines) + "\n"
    assert parse(text, file).data == first.data()  # which is what was planned
    return text


def commands(file: str) -> tuple[str, str, str]:
    """The commands that plan the matrix in a file, try it, and run it."""
    name = shlex.quote(f"./{file}" if file.startswith("-") else file)
    return f"bench plan -m {name}", f"bench run -m {name} --profile smoke", f"bench run -m {name}"


def comment(text: str, indent: str = "") -> list[str]:
    """A text as lines of a comment, whatever is in it."""
    width = WIDTH - len(indent) - 2
    lines = textwrap.wrap(_printable(text), width, break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in lines]


def _printable(text: str) -> str:
    """A text on one line, with what cannot be printed escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def entry(key: str, value: Any, note: str = "", spare: bool = False, indent: str = "") -> list[str]:
    """A key and its value on one line, with a note behind it or, if it is too long, above it."""
    line = f"{indent}{'#' if spare else ''}{dump_inline(key)}: {dump_inline(value)}"
    together = f"{line}  # {_printable(note)}"
    if not note:
        return [line]
    return [together] if len(together) <= WIDTH else [*comment(note, indent), line]


def _row(row: Row) -> list[str]:
    return entry(row.label, row.options, row.note, row.spare, "  ")


def _head(first: FirstMatrix, file: str) -> list[str]:
    plan, smoke, run = map(_printable, commands(file))
    width = max(map(len, (plan, smoke, run)))
    trial = "the same path in a few minutes, with numbers that mean nothing"
    if first.train_images > MANY and not first.smoke_count:
        trial += ", after the features of all images"
    told = [
        (plan, "what a run would make, and what that costs; runs nothing"),
        (smoke, trial),
        (run, f"all of it: about {span(first.hours)} on one CPU core, more with metrics"),
    ]
    cells = f"{first.cells} cell{'s' if first.cells > 1 else ''}"
    return [
        *comment(f"A first matrix, made by `bench init`, to run and then to edit: {cells}."),
        *(f"#   {command:<{width}}   {text}" for command, text in told),
        *comment(
            "The time is `bench plan`'s estimate of networks alone: reading images and metrics come on top, "
            "and small networks take longer. Several cores share the work; `--device cuda` takes a GPU."
        ),
        *comment(
            "Lines with a `#` and no space after it are choices to try: remove the `#`. Paths begin in the "
            "folder where the command runs."
        ),
        "",
        *entry("name", first.name, f"results will be in results/{first.name}"),
    ]


def _images(first: FirstMatrix) -> list[str]:
    lines = ["", *comment("Images: " + "; ".join(first.description) + ".")]
    if first.picture_side is not None:
        lines += comment(
            f"The smaller side of pictures is {first.picture_side:g} pixels at the median; they are cut to "
            "squares of `size`, of which twice as much takes at least four times as long. `label` is "
            "the name in tables."
        )
    if first.picture_side is not None and first.val_images < FEW:
        lines += comment(
            f"{first.val_images} held-out images tell little. If no file or folder is `val`, "
            "`held_out: 0.3` holds out three tenths of all."
        )
    lines += entry("dataset", first.dataset)
    if first.plugins:
        lines += ["", *comment("Files with further parts."), *entry("plugins", list(first.plugins))]
    return lines


def _skips(first: FirstMatrix) -> list[str]:
    head = ["", *comment("Cells that are left out: losses of tokenizers that aren't trained.")]
    if not first.skips():
        spare = first.skips(spares=True)
        return [*head, *entry("skip", spare, spare=True)] if spare else []
    lines = [*head, "skip:"]
    for skip in first.skips():
        for number, (key, value) in enumerate(skip.items()):
            lines += entry(key, value, indent="    " if number else "  - ")
    return lines


def _numbers(first: FirstMatrix) -> list[str]:
    lines = [
        "",
        *comment(
            "One seed names no winner; [0, 1, 2] tell differences from chance, in about three times the time."
        ),
        *entry("seeds", [0]),
        "",
        *comment("Updates of each network, and the images in each update."),
        "budget:",
    ]
    notes = {"prior_steps": "of regularizers that train a prior first, such as flow_prior"}
    for key, value in first.budget.items():
        lines += entry(key, value, notes.get(key, ""), indent="  ")
    return lines


def _measures(first: FirstMatrix) -> list[str]:
    lines: list[str] = []
    if first.trains:
        lines += [
            "",
            *comment("Weights of the losses by which tokenizers learn to reconstruct: l1, l2, lpips, gan."),
            *entry("reconstruction", {"l1": 1.0}),
        ]
    lines += [
        "",
        *comment(
            f"The network whose features compare images: gFD[{FEATURES}] is no FID, for which there is "
            "`features: inception`. More: bench list features. Regularizers learn from another, the teacher."
        ),
        *entry("features", FEATURES),
        *entry("teacher", TEACHER),
        "",
        *comment("Images that each generator makes, to be compared with the training images."),
        *entry("samples", first.samples),
        "",
        *comment("What is measured. More: bench list evaluators."),
        "evaluators:",
        *(f"  - {name}" for name in first.evaluators),
        *(f"  #- {name}" for name in first.spare_evaluators),
    ]
    return lines


def _profiles(first: FirstMatrix) -> list[str]:
    lines = ["", *comment("What `bench run --profile NAME` replaces of the above."), "profiles:"]
    profiles: list[tuple[str, Mapping[str, Any], bool]] = [("smoke", first.smoke, False)]
    profiles += [(name, profile, True) for name, profile in first.spare_profiles.items()]
    for name, profile, spare in profiles:
        lines += entry(name, profile, spare=spare, indent="  ")
    return lines
