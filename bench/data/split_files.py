"""The files of a set that are its splits, where a file holds many images: by their names, or by `splits`.

`data/train-00000-of-00004.parquet` is a shard of `data/train`. As with folders nothing is guessed: names that
leave a doubt are a problem that says how `splits` ends it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from ..options.words import listed, visible_name
from .image_folders import ImagesError, entries, folders_below, is_folder
from .split_folders import (
    FILLERS,
    TEST,
    TRAIN,
    VAL,
    WHOLE,
    SplitFolders,
    in_yaml,
    meaning,
    role_of,
    roles_in,
)

OF_SHARDS = re.compile(r"[-_.]?(\d+)-of-(\d+)(-[0-9a-f]{6,})?$")  # with the hash of older writers
COUNTED = re.compile(r"(^|[-_.])\d+$")
MANY = 3  # digits and a sign before them: shards have such numbers, whatever their name
PIECES = FILLERS | {"part", "shard", "chunk"}  # words that stand before a number and say nothing of a split


@dataclass(frozen=True)
class SplitFiles:
    """The files of the splits in order; without `val` it is held out of `train`."""

    train: tuple[Path, ...]
    val: tuple[Path, ...]
    names: SplitFolders = WHOLE
    left_out: Mapping[str, int] = field(default_factory=dict)  # names of other splits, with numbers of files

    @property
    def all(self) -> tuple[Path, ...]:
        return self.train + self.val


def split_files(root: Path, suffix: str, splits: Mapping[str, str] | None = None) -> SplitFiles:
    """The files of a set's splits below a root, or the root itself if it is a file.

    Args:
        splits: {train: NAME} or {train: NAME, val: NAME}: a name is that of a file, of a folder or of files
            without the shards' numbers, or a pattern with `*`, relative to the root.

    Raises:
        ImagesError: there are none, shards are missing, or names leave a doubt.
    """
    if root.is_file():
        return SplitFiles((root,), ())
    files = _files_below(root, suffix)
    if not files:
        raise ImagesError(f"no {suffix} files in {root}")
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(_group_of(root, file), []).append(file)
    chosen = _as_told(root, files, splits) if splits else _by_names(root, groups)
    for split, own in ((TRAIN, chosen.train), (VAL, chosen.val)):
        if "-of-" not in (splits or {}).get(split, ""):  # shards may be chosen by their numbers
            _check_shards(own)
    rest = {name: sum(file not in chosen.all for file in own) for name, own in groups.items()}
    left_out = {name: count for name, count in rest.items() if count}
    return SplitFiles(chosen.train, chosen.val, chosen.names, left_out)


def _files_below(root: Path, suffix: str) -> list[Path]:
    """The visible files of a type below a folder, in the order of their names' bytes."""
    top = os.fsencode(root)
    found = [
        one.path
        for folder in folders_below(top, [top]).entered.values()
        for one in entries(folder)
        if one.name.lower().endswith(suffix.encode()) and not one.name.startswith(b".") and not is_folder(one)
    ]
    return [Path(os.fsdecode(path)) for path in sorted(found)]


def _group_of(root: Path, file: Path) -> str:
    """The name that the shards of a split share: `data/train`; the folder's where theirs are numbers."""
    relative = PurePosixPath(file.relative_to(root).as_posix())
    stem = relative.name[: -len(file.suffix)]
    shards = OF_SHARDS.search(stem)
    name = stem[: shards.start()] if shards else stem
    if not shards and (counted := COUNTED.search(stem)):
        before = stem[: counted.start()]
        words = re.findall(r"[A-Za-z]+", before.lower())
        long = len(stem) - len(before) > MANY
        if role_of(before.encode()) or PIECES.issuperset(words) or long:
            name = before
    parent = "" if str(relative.parent) == "." else f"{relative.parent}/"
    return (parent + name).rstrip("/")


def _role(group: str) -> str | None:
    """The split that a group's name stands for: its own, or that of the innermost folder that has one."""
    return next((role for part in reversed(group.split("/")) if (role := role_of(part.encode()))), None)


def _by_names(root: Path, groups: Mapping[str, list[Path]]) -> SplitFiles:
    """
    Raises:
        ImagesError: names leave a doubt.
    """
    of = {role: [name for name in groups if _role(name) == role] for role in (TRAIN, VAL, TEST)}
    others = [name for name in groups if _role(name) is None]
    train, val, test = of[TRAIN], of[VAL], of[TEST]
    for role, names in ((TRAIN, train), (VAL, val)):
        if len(names) > 1:
            pairs = _pairs(groups, role, names)
            raise _problem(root, f"has {_shown(names)}, which may all be {role}", *pairs)
    if train and val:
        return _chosen(groups, train[0], val[0])
    if train:
        if rivals := test + others:
            text = f"has {_shown([*train, *rivals])}, and none that is val"
            raise _problem(root, text, {TRAIN: train[0], VAL: rivals[0]}, {TRAIN: train[0]})
        return _chosen(groups, train[0])
    names = val + test + others
    if val or test or len(others) > 1 or roles_in(names[0].encode()):
        text = f"has {_shown(names)}, and none that is train"
        if not val and not test:
            first = next((name for name in names if TRAIN in roles_in(name.encode())), names[0])
            rest = [name for name in names if name != first]
            choice = {TRAIN: first, VAL: rest[0]} if rest else {TRAIN: first}
            raise _problem(root, text, choice, {TRAIN: "*"})
        raise _problem(root, text, {TRAIN: (others or ["NAME"])[0], VAL: names[0]})
    return _chosen(groups, others[0])


def _pairs(groups: Mapping[str, list[Path]], role: str, names: Sequence[str]) -> list[dict[str, str]]:
    """Values of `splits` where several groups stand for one split: each group with its neighbours."""
    other = VAL if role == TRAIN else TRAIN
    pairs = []
    for name in names:
        folder = name.rpartition("/")[0]
        near = [one for one in groups if _role(one) == other and one.rpartition("/")[0] == folder]
        pair = {role: name} | ({other: near[0]} if near else {} if role == TRAIN else {other: "NAME"})
        pairs.append({split: pair[split] for split in (TRAIN, VAL) if split in pair})
    return pairs


def _chosen(groups: Mapping[str, list[Path]], train: str, val: str = "") -> SplitFiles:
    own = tuple(groups[val]) if val else ()
    return SplitFiles(tuple(groups[train]), own, SplitFolders(train.encode(), val.encode()))


def _as_told(root: Path, files: Sequence[Path], splits: Mapping[str, str]) -> SplitFiles:
    """
    Raises:
        ImagesError: a name fits no file, or both splits have a file.
    """
    found: dict[str, tuple[Path, ...]] = {TRAIN: (), VAL: ()}
    for split, name in splits.items():
        found[split] = tuple(file for file in files if _fits(root, file, name))
        if not found[split]:
            there = listed(sorted({_group_of(root, file) for file in files}))
            raise ImagesError(f"`splits` says that {split} is {name}, which fits no file in {root}: {there}")
    both = [file for file in found[VAL] if file in found[TRAIN]]
    if both:
        raise ImagesError(f"`splits` puts {both[0]} into train and into val")
    return SplitFiles(found[TRAIN], found[VAL], SplitFolders(*(splits.get(s, "").encode() for s in found)))


def _fits(root: Path, file: Path, name: str) -> bool:
    """Whether a name of `splits` means a file: its path, its group, a folder above it, or a pattern."""
    path, name = file.relative_to(root).as_posix(), name.strip("/")
    return name in (path, _group_of(root, file)) or path.startswith(f"{name}/") or fnmatchcase(path, name)


def _check_shards(files: Sequence[Path]) -> None:
    """
    Raises:
        ImagesError: of shards that say how many they are some are missing, or there are two such sets.
    """
    sets: dict[tuple[Path, str, int], dict[int, str]] = {}
    for file in files:
        stem = file.name[: -len(file.suffix)]
        if shards := OF_SHARDS.search(stem):
            key = file.parent, stem[: shards.start()], int(shards[2])
            sets.setdefault(key, {})[int(shards[1])] = file.name
    for (folder, name, count), there in sets.items():
        if missing := [str(i) for i in range(count) if i not in there]:
            there_are = f"{folder} has {len(there)} of {count} files {name}-…-of-{count}"
            raise ImagesError(
                f"{there_are}; missing: {listed(missing)}; if these are all that you want, name them by "
                "`splits` with a pattern that has `-of-` in it"
            )
    twice = [key for key in sets if sum(key[:2] == other[:2] for other in sets) > 1]
    if twice:
        counts = " and ".join(f"-of-{count}" for _, _, count in twice)
        raise ImagesError(f"{twice[0][0]} has shards {twice[0][1]} of two sets, {counts}: remove one")


def _problem(root: Path, text: str, *choices: Mapping[str, str]) -> ImagesError:
    """An error with what to write in the matrix instead."""
    as_bytes = [{split: name.encode() for split, name in choice.items()} for choice in choices]
    ways = [f"`splits: {in_yaml(choice)}` {meaning(choice)}" for choice in as_bytes]
    return ImagesError(f"{root} {text}: {'; '.join(ways)}")


def _shown(names: Sequence[str]) -> str:
    return listed([visible_name(name.encode()) or "files without a name" for name in names])
