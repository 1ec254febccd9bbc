"""The folders of an image set that are its splits: by their names, or by the option `splits`.

Nothing is guessed: folders whose names leave a doubt are a problem that says how `splits` ends it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..options.words import visible_name
from .image_folders import ImagesError, entries, is_folder, is_hidden, is_image

TRAIN, VAL, TEST = "train", "val", "test"
WORDS = {
    TRAIN: ("train", "training", "trainset", "trainval", "trn"),
    VAL: ("val", "valid", "validation", "valset", "dev", "devset", "holdout", "heldout"),
    TEST: ("test", "testing", "testset", "tst", "eval", "evaluation"),
}
# Words that may stand beside a split's in a folder's name: `train_images`, `val2017`, `Test Set`.
FILLERS = frozenset("set data dataset split folder images image imgs img photos pictures files".split())


@dataclass(frozen=True)
class SplitFolders:
    """Folders of the splits, relative to the root, as they are named there."""

    train: bytes = b""  # empty: all of the root
    val: bytes = b""  # empty: held out of `train`

    @property
    def tops(self) -> list[bytes]:
        return [name for name in (self.train, self.val) if name]


WHOLE = SplitFolders()


class _Names:
    """The visible folders of a root, by what their names say that they are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.all = _folders_in(os.fsencode(root))
        self.of = {role: [name for name in self.all if role_of(name) == role] for role in WORDS}
        self.others = [name for name in self.all if role_of(name) is None]
        self.doubtful = [name for name in self.others if roles_in(name)]

    def shown(self, names: Sequence[bytes]) -> str:
        return " and ".join(map(visible_name, names))

    def problem(self, text: str, *choices: Mapping[str, bytes]) -> ImagesError:
        """An error with what to write in the matrix instead."""
        ways = [f"`splits: {in_yaml(choice)}` {meaning(choice)}" for choice in choices]
        return ImagesError(f"{self.root} {text}: {'; '.join(ways)}")


def split_folders(root: Path, splits: Mapping[str, str] | None = None) -> SplitFolders:
    """The folders of a set's splits.

    Args:
        splits: {train: FOLDER}, {train: FOLDER, val: FOLDER}, or {} where all folders are classes; without,
            names decide, such as `Train`, `training`, `train2017`, `val`, `valid` and `validation`.

    Raises:
        ImagesError: names leave a doubt.
    """
    if splits is not None:
        return _as_told(root, splits)
    names = _Names(root)
    train, val, test = (names.of[role] for role in (TRAIN, VAL, TEST))
    if len(train) > 1:
        choices = [{TRAIN: name} for name in train]
        raise names.problem(f"has {names.shown(train)}, which may both be train", *choices)
    if len(val) > 1:
        choices = [{TRAIN: (train or [b"NAME"])[0], VAL: name} for name in val]
        raise names.problem(f"has {names.shown(val)}, which may both be val", *choices)
    if train and val:
        return SplitFolders(train[0], val[0])
    if train:
        _check_alone(names, train[0])
        return SplitFolders(train[0])
    held_out = val + [name for name in test if entries(os.path.join(os.fsencode(root), name))]
    if held_out:
        raise names.problem(
            f"has {names.shown(held_out)}, and no folder that is train",
            {TRAIN: b"NAME", VAL: held_out[0]},
            {},
        )
    _check_classes(names)
    return SplitFolders()


def _as_told(root: Path, splits: Mapping[str, str]) -> SplitFolders:
    for split, name in splits.items():
        if not (root / name).is_dir():
            raise ImagesError(f"`splits` says that {split} is {name}, and there is no folder {root / name}")
    named = {split: os.path.normpath(os.fsencode(name)) for split, name in splits.items()}
    return SplitFolders(named.get(TRAIN, b""), named.get(VAL, b""))


def _check_alone(names: _Names, train: bytes) -> None:
    """A folder train without val: what lies beside it is no split and no class.

    Raises:
        ImagesError: it may be.
    """
    root = os.fsencode(names.root)
    rivals = [name for name in names.of[TEST] + names.doubtful if entries(os.path.join(root, name))]
    if rivals:
        raise names.problem(
            f"has the folders {names.shown([train, *rivals])}, and none that is val",
            {TRAIN: train, VAL: rivals[0]},
            {TRAIN: train},
        )
    siblings = [name for name in names.others if _holds_images(os.path.join(root, name))]
    if siblings and _holds_images(os.path.join(root, train)):
        both = f"{names.shown([train])} and in {names.shown(siblings[:1])}"
        raise names.problem(
            f"has images in {both}, which may be splits or classes",
            {TRAIN: train},
            {},
        )


def _check_classes(names: _Names) -> None:
    """Folders none of which is surely a split.

    Raises:
        ImagesError: they may be splits, or hold them.
    """
    said = {role for name in names.doubtful for role in roles_in(name)}
    if names.doubtful and (len(names.doubtful) == len(names.all) or TRAIN in said and len(said) > 1):
        first = next((name for name in names.doubtful if TRAIN in roles_in(name)), b"NAME")
        rest = [name for name in names.doubtful if name != first]
        choice = {TRAIN: first, VAL: rest[0]} if rest else {TRAIN: first}
        raise names.problem(f"has folders named as splits, {names.shown(names.doubtful[:3])}", choice, {})
    for name in names.all:
        inner = _folders_in(os.path.join(os.fsencode(names.root), name))
        roles = {role: one for one in inner if (role := role_of(one))}
        if len(roles) > 1 or (TRAIN in roles and len(inner) == 1):
            where = visible_name(name)
            raise ImagesError(
                f"{names.root} has the folders of splits, {names.shown(list(roles.values()))}, in {where}, "
                f"which would be one class: let `root` be {names.root / where}, or lay images into "
                "SPLIT/CLASS/, or write `splits: {}` if all folders of the root are classes"
            )


def role_of(name: bytes) -> str | None:
    """The split that a folder's name stands for, alone or beside words such as `images` and years."""
    words = [word for word in _words(name) if word not in FILLERS]
    return next((role for role, own in WORDS.items() if len(words) == 1 and words[0] in own), None)


def roles_in(name: bytes) -> set[str]:
    """The splits that a folder's name mentions: train in `ILSVRC2012_img_train`."""
    return {role for role, own in WORDS.items() if not set(own).isdisjoint(_words(name))}


def _words(name: bytes) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", os.fsdecode(name))]


def _folders_in(folder: bytes) -> list[bytes]:
    return sorted(one.name for one in entries(folder) if is_folder(one) and not is_hidden(one.name))


def _holds_images(folder: bytes) -> bool:
    return any(is_image(entry.name) and not is_folder(entry) for entry in entries(folder))


def in_yaml(choice: Mapping[str, bytes]) -> str:
    """A value of `splits` as a matrix writes it."""
    plain = re.compile(r"[A-Za-z][\w.-]*")
    texts = {split: visible_name(name) for split, name in choice.items()}
    quoted = {split: one if plain.fullmatch(one) else json.dumps(one) for split, one in texts.items()}
    return "{" + ", ".join(f"{split}: {name}" for split, name in quoted.items()) + "}"


def meaning(choice: Mapping[str, bytes]) -> str:
    """The effect of a value of `splits`, in words."""
    if not choice:
        return "takes all folders for classes"
    train = visible_name(choice[TRAIN])
    if VAL not in choice:
        return f"holds images out of {train}, and reads nothing else"
    return f"scores on {visible_name(choice[VAL])}"
