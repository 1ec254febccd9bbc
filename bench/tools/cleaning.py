"""What lies in a cache, what of it the results at hand need, and whether all of it is what was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.artifacts import TRASH, Artifact, Store, locked
from ..store.disk import size_text
from ..store.hashes import CORRUPT, Corrupt
from ..training import checkpoint
from ..user_error import UserError
from .doctor import Check
from .merge import LOCK

if TYPE_CHECKING:
    from torch import Tensor

DEVICES = ("cpu", "cuda")  # stages of either are needed: a lock file doesn't say which


class CleanError(UserError):
    """Results whose stages cannot be told."""


@dataclass(frozen=True)
class Holding:
    """Something in a cache that can be freed; `needed` are the matrices that a listed result has it from."""

    path: Path
    kind: str  # of the stage, or checkpoints, corrupt, trash, locks
    key: str
    bytes: int
    needed: tuple[str, ...] = ()


def listed(folders: Iterable[Path] = ()) -> list[Path]:
    """The lock files of results/NAME here, and of the named results folders or what lies in them."""
    patterns = (LOCK, f"*/{LOCK}")
    found = list(Path("results").glob(f"*/{LOCK}"))
    for folder in folders:
        mine = [file for pattern in patterns for file in folder.glob(pattern)]
        if not mine:
            raise CleanError(f"no {LOCK} in {folder}")
        found += mine
    return sorted(set(found))


def needs(lock: Path) -> set[str]:
    """The keys of the stages that a results folder's numbers were made of, or may still be.

    Raises:
        CleanError: its matrix cannot be planned, or its data is not on this machine.
    """
    from ..matrix.load import load_matrix
    from ..matrix.yaml_text import MatrixError
    from ..plan.make import make_plan

    try:
        loaded = load_matrix(lock)
        stages = [stage for device in DEVICES for stage in make_plan(loaded, device=device).stages.values()]
    except MatrixError as error:
        raise CleanError(f"what {lock.parent} needs cannot be told: {error.problems[0]}") from error
    unknown = next((stage for stage in stages if not stage.known), None)
    if unknown is not None:
        missing = f"data or weights of {unknown.label} are not on this machine"
        raise CleanError(f"what {lock.parent} needs cannot be told: {missing}")
    return {stage.key for stage in stages}


def holdings(store: Store, needed: dict[str, set[str]]) -> Iterator[Holding]:
    """All that the store's folder holds, by what results need, their name -> keys."""

    def one(path: Path, kind: str, key: str) -> Holding:
        mine = tuple(name for name, keys in needed.items() if key in keys)
        return Holding(path, kind, key, _bytes(path), mine)

    made = sorted(store.root.glob("artifacts/*/*"))
    for path in made:
        yield one(path, path.parent.name, path.name)
    finished = {path.name for path in made}
    for path in sorted(store.root.glob("work/*")):
        yield one(path, "checkpoints", "" if path.name in finished else path.name)
    for part in (CORRUPT, TRASH):
        for path in sorted((store.root / part).glob("*")):
            yield one(path, part, "")
    for path in sorted(store.root.glob("locks/*")):
        yield one(path, "locks", "")


def free(store: Store, holding: Holding) -> bool:
    """Removes it, unless somebody works on it now."""
    if holding.kind in (CORRUPT, TRASH):
        store.remove(holding.path)
        return True
    lock = store.root / "locks" / holding.path.name
    lock.parent.mkdir(exist_ok=True)
    with locked(lock, wait=False) as held:
        if held:
            if holding.path != lock:
                store.remove(holding.path)
            lock.unlink(missing_ok=True)  # under the lock: who waits for it makes another
        return held


def checks(store: Store) -> Iterator[Check]:
    """Every artifact: that it is what was written, that its key is its content's, its numbers finite.

    Then what is unfinished, checkpoints included, and what was left behind. Nothing is changed.
    """
    count = total = 0
    for path in sorted(store.root.glob("artifacts/*/*")):
        count, total = count + 1, total + _bytes(path)
        yield from _artifact(path)
    for path in sorted(store.root.glob("work/*")):
        yield from _unfinished(store, path)
    for part, what in ((CORRUPT, "set aside"), (TRASH, "half removed")):
        left = list((store.root / part).glob("*"))
        if left:
            amount = size_text(sum(map(_bytes, left)))
            yield Check(part, None, f"{len(left)} {what}, {amount}; bench clean --yes frees them")
    locks = list(store.root.glob("locks/*"))
    held = [path.name[:12] for path in locks if _held(path)]
    yield Check("locks", True, f"{len(locks) - len(held)} free, {len(held)} held{_names(held)}")
    yield Check("cache", True, f"{count} artifacts, {size_text(total)} in {store.root}")


def _artifact(path: Path) -> Iterator[Check]:
    from safetensors import SafetensorError

    from ..store.stage import stage_id

    artifact, name = Artifact(path), f"{path.parent.name} {path.name[:12]}"
    try:
        artifact.check()
        meta = artifact.meta
        key = stage_id(meta["kind"], meta["config"], meta["parents"])
        broken = [t for t, tensor in artifact.tensors.items() if not finite(tensor)]
    except (Corrupt, ValueError, KeyError, OSError, SafetensorError) as error:
        yield Check(name, False, f"{error}; the next run that needs it makes it again")
        return
    if key != path.name:
        yield Check(name, False, f"was made by another config: its key would be {key[:12]}")
    if broken:
        yield Check(name, False, f"not finite: {', '.join(broken)}")


def _unfinished(store: Store, path: Path) -> Iterator[Check]:
    name = f"unfinished {path.name[:12]}"
    for file in checkpoint.checkpoint_files(path):
        try:
            checkpoint.check(file)
        except Corrupt as error:
            yield Check(name, False, f"{error}; the next run goes on from before it")
    busy = "somebody works on it" if _held(store.root / "locks" / path.name) else "nobody works on it"
    said = ", ".join(file.name for file in checkpoint.checkpoint_files(path)) or "no checkpoint"
    yield Check(name, None, f"{said}, {size_text(_bytes(path))}; {busy}")


def finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _held(lock: Path) -> bool:
    if not lock.is_file():
        return False
    with locked(lock, wait=False) as mine:
        return not mine


def _names(keys: list[str]) -> str:
    return f": {', '.join(keys)}" if keys else ""


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def total(found: Iterable[Holding]) -> int:
    """Bytes."""
    return sum(holding.bytes for holding in found)


def by_kind(found: Iterable[Holding]) -> dict[str, list[Holding]]:
    """In the order in which they were found."""
    kinds: dict[str, list[Holding]] = {}
    for holding in found:
        kinds.setdefault(holding.kind, []).append(holding)
    return kinds
