"""The contents of a cache: which of them the results at hand need, and whether they are intact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from ..matrix.load import load_matrix
from ..matrix.yaml_text import MatrixError
from ..plan.make import make_plan
from ..store.artifacts import TRASH, Artifact, Store, locked
from ..store.disk import size_text
from ..store.hashes import CORRUPT, Corrupt
from ..store.stage import stage_id
from ..training import checkpoint
from ..user_error import UserError
from .doctor import Check
from .merge import LOCK

DEVICES = ("cpu", "cuda")  # a lock file doesn't say which device its stages were made on


class CleanError(UserError):
    """Results whose stages cannot be determined."""


@dataclass(frozen=True)
class Holding:
    """Something in a cache that can be freed; `needed` are the listed results folders that it is for."""

    path: Path
    kind: str  # of the stage, or checkpoints, corrupt, trash, locks
    key: str
    bytes: int
    needed: tuple[str, ...] = ()


def lock_files(folders: Iterable[Path] = ()) -> list[Path]:
    """The lock files of results/NAME here, and of the named results folders or of the folders in them."""
    locks = set(Path("results").glob(f"*/{LOCK}"))
    for folder in folders:
        named = {*folder.glob(LOCK), *folder.glob(f"*/{LOCK}")}
        if not named:
            raise CleanError(f"no {LOCK} in {folder}")
        locks |= named
    return sorted(locks)


def needs(lock: Path) -> set[str]:
    """The keys of the stages that a results folder's numbers were made of, or may still be.

    Raises:
        CleanError: its matrix cannot be planned, or its data is not on this machine.
    """
    problem = f"cannot determine which artifacts {lock.parent} needs"
    try:
        matrix = load_matrix(lock)
        stages = [stage for device in DEVICES for stage in make_plan(matrix, device=device).stages.values()]
    except MatrixError as error:
        raise CleanError(f"{problem}: {error.problems[0]}") from error
    for stage in stages:
        if not stage.known:
            raise CleanError(f"{problem}: data or weights of {stage.label} are not on this machine")
    return {stage.key for stage in stages}


def holdings(store: Store, needed: dict[str, set[str]]) -> Iterator[Holding]:
    """Everything in the store's folder; `needed` has the keys that each results folder needs, by its name."""

    def holding(path: Path, kind: str, key: str = "") -> Holding:
        names = tuple(name for name, keys in needed.items() if key in keys)
        return Holding(path, kind, key, _bytes(path), names)

    artifacts = sorted(store.root.glob("artifacts/*/*"))
    for path in artifacts:
        yield holding(path, path.parent.name, path.name)
    finished = {path.name for path in artifacts}
    for path in sorted(store.root.glob("work/*")):
        yield holding(path, "checkpoints", "" if path.name in finished else path.name)
    for part in (CORRUPT, TRASH, "locks"):
        for path in sorted((store.root / part).glob("*")):
            yield holding(path, part)


def by_kind(items: Iterable[Holding]) -> dict[str, list[Holding]]:
    """The holdings by kind, in their order."""
    kinds: dict[str, list[Holding]] = {}
    for holding in items:
        kinds.setdefault(holding.kind, []).append(holding)
    return kinds


def total(items: Iterable[Holding]) -> int:
    """The bytes of all holdings."""
    return sum(holding.bytes for holding in items)


def free(store: Store, holding: Holding) -> bool:
    """Removes a holding, unless a process works on it now; returns whether it is removed."""
    if holding.kind in (CORRUPT, TRASH):
        store.remove(holding.path)
        return True
    lock = store.root / "locks" / holding.path.name
    lock.parent.mkdir(exist_ok=True)
    with locked(lock, wait=False) as held:
        if held:
            if holding.path != lock:
                store.remove(holding.path)
            lock.unlink(missing_ok=True)  # while it is held: a process that waits for it makes another
        return held


def checks(store: Store) -> Iterator[Check]:
    """Checks that artifacts are as they were written, with the keys of their configs and finite numbers.

    Then what is unfinished, checkpoints included, and what was left behind. Nothing is changed.
    """
    artifacts = sorted(store.root.glob("artifacts/*/*"))
    for path in artifacts:
        yield from _check_artifact(path)
    for path in sorted(store.root.glob("work/*")):
        yield from _check_unfinished(store, path)
    for part, what in ((CORRUPT, "corrupt"), (TRASH, "half removed")):
        left = list((store.root / part).glob("*"))
        if left:
            amount = size_text(sum(map(_bytes, left)))
            yield Check(part, None, f"{len(left)} {what}, {amount}; bench clean --yes frees them")
    locks = list(store.root.glob("locks/*"))
    held = [path.name[:12] for path in locks if _held(path)]
    names = f": {', '.join(held)}" if held else ""
    yield Check("locks", True, f"{len(locks) - len(held)} free, {len(held)} held{names}")
    amount = size_text(sum(map(_bytes, artifacts)))
    yield Check("cache", True, f"{len(artifacts)} artifacts, {amount} in {store.root}")


def _check_artifact(path: Path) -> Iterator[Check]:
    artifact, name = Artifact(path), f"{path.parent.name} {path.name[:12]}"
    try:
        artifact.check()
        meta = artifact.meta
        key = stage_id(meta["kind"], meta["config"], meta["parents"])
        infinite = [tensor for tensor, values in artifact.tensors.items() if not finite(values)]
    except (Corrupt, ValueError, KeyError, OSError, SafetensorError) as error:
        yield Check(name, False, f"{error}; the next run that needs it makes it again")
        return
    if key != path.name:
        yield Check(name, False, f"was made by another config: its key would be {key[:12]}")
    if infinite:
        yield Check(name, False, f"not finite: {', '.join(infinite)}")


def _check_unfinished(store: Store, path: Path) -> Iterator[Check]:
    name, files = f"unfinished {path.name[:12]}", checkpoint.checkpoint_files(path)
    for file in files:
        try:
            checkpoint.check(file)
        except Corrupt as error:
            yield Check(name, False, f"{error}; the next run resumes from an earlier one")
    busy = "somebody works on it" if _held(store.root / "locks" / path.name) else "nobody works on it"
    names = ", ".join(file.name for file in files) or "no checkpoint"
    yield Check(name, None, f"{names}, {size_text(_bytes(path))}; {busy}")


def finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _held(lock: Path) -> bool:
    """Whether another process holds the lock."""
    if not lock.is_file():
        return False
    with locked(lock, wait=False) as free:
        return not free


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
