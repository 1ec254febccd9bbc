"""Whatever writers do to a store, and wherever they are killed, an artifact is whole or not there."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from latentbench.bench.store.artifacts import Result, Store
from latentbench.bench.store.hashes import Corrupt
from latentbench.bench.store.stage import Stage

STAGES = [Stage(kind, kind, {}, {}, key * 64, True) for kind, key in (("latents", "a"), ("scores", "b"))]
ACTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "fcntl.flock", "shutil.rmtree")
KILLED = 9

stages = st.sampled_from(STAGES)
values = st.integers(0, 3)


def result(value):
    """Its value is in every part of it: tensors of one artifact that differ are of two writers."""
    tensors = {name: torch.full((50,), float(value)) for name in ("a", "b")}
    return Result({"value": value}, tensors if value else {}, cost={"seconds": float(value)})


def apart(act: Callable[[], None], after: int | None = None) -> int:
    """Starts a process that acts, and is killed at that many of its acts on files."""
    process = os.fork()
    if process:
        return process
    left = after

    def count(event, arguments):
        nonlocal left
        if left is not None and event in ACTS:
            left -= 1
            if left < 0:
                os._exit(KILLED)

    try:
        sys.addaudithook(count)
        act()
        os._exit(0)
    except BaseException:
        os._exit(1)


def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class Writers(RuleBasedStateMachine):
    """What `written` says may be there; what is not in `unsure` is what the last writer left."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder / "cache")
        self.written: dict[str, set[int | None]] = {stage.id: {None} for stage in STAGES}

    def make(self, stage, value):
        """As a worker does."""
        with self.store.lock(stage):
            self.store.quarantine_if_corrupt(stage, contents=False)
            if not self.store.has(stage):
                self.store.put(stage, result(value))

    @rule(stage=stages, value=values)
    def put(self, stage, value):
        with self.store.lock(stage):
            self.store.put(stage, result(value))
        self.written[stage.id] = {value}

    @rule(stage=stages)
    def discard(self, stage):
        self.store.discard(stage)
        assert not self.store.has(stage)
        self.written[stage.id] = {None}

    @rule()
    def clear(self):
        self.store.clear()
        assert not self.store.root.exists()
        self.written = {stage.id: {None} for stage in STAGES}

    @rule(stage=stages, value=values, after=st.integers(0, 40), what=st.sampled_from(["put", "discard"]))
    def die(self, stage, value, after, what):
        """A writer is killed before one of its acts."""
        put = what == "put"
        act = (lambda: self.store.put(stage, result(value))) if put else (lambda: self.store.discard(stage))
        code = ended(apart(act, after))
        assert code in (0, KILLED)
        new = value if put else None
        before = self.written[stage.id] if code else set()
        # Where an artifact is replaced the old one goes before the new one comes.
        self.written[stage.id] = before | {new} | ({None} if code else set())

    @rule(stage=stages, first=values, second=values, after=st.integers(0, 60))
    def race(self, stage, first, second, after):
        """Two workers take one stage, one of them is killed somewhere; then a third comes."""
        acts = [(first, after), (second, None)]
        codes = [ended(one) for one in [apart(lambda v=value: self.make(stage, v), at) for value, at in acts]]
        assert codes[0] in (0, KILLED) and codes[1] == 0
        there = self.written[stage.id]
        self.written[stage.id] = (there - {None}) | ({first, second} if None in there else set())
        self.make(stage, first)
        assert self.store.has(stage)

    @rule(
        stage=stages, where=st.integers(0, 10**6), file=st.sampled_from(["stage.json", "tensors.safetensors"])
    )
    def flip(self, stage, where, file):
        """A bit of a file turns: the artifact is set aside, and is never read as another."""
        path = self.store.path(stage) / file
        if path.is_file():
            content = bytearray(path.read_bytes())
            content[where % len(content)] ^= 1
            path.write_bytes(bytes(content))
            said = self.store.quarantine_if_corrupt(stage)
            assert said and not self.store.has(stage)
            self.written[stage.id] = {None}

    @invariant()
    def every_artifact_is_whole(self):
        for stage in STAGES:
            assert self.store.quarantine_if_corrupt(stage) is None
            found = self.read(stage)
            assert found in self.written[stage.id]
            self.written[stage.id] = {found}

    def read(self, stage):
        if not self.store.has(stage):
            return None
        artifact = self.store.get(stage)
        value = artifact.info["value"]
        assert artifact.cost == {"seconds": value} and artifact.error is None
        assert set(artifact.tensors) == ({"a", "b"} if value else set())
        assert all((tensor == value).all() and len(tensor) == 50 for tensor in artifact.tensors.values())
        return value

    def teardown(self):
        """What died leaves nothing that the next writers stumble over."""
        for stage in STAGES:
            self.put(stage, 1)
            assert self.read(stage) == 1
        self.store.clear()
        assert not self.store.root.exists()
        shutil.rmtree(self.folder)


Writers.TestCase.settings = settings(
    deadline=None,
    derandomize=True,
    max_examples=25,
    stateful_step_count=12,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWriters = Writers.TestCase


def test_a_truncated_artifact_is_set_aside_at_every_length(tmp_path):
    store, stage = Store(tmp_path / "cache"), STAGES[0]
    for file in ("stage.json", "tensors.safetensors"):
        store.put(stage, result(1))
        size = (store.path(stage) / file).stat().st_size
        for length in sorted({0, 1, size // 3, size - 1}):
            store.put(stage, result(1))
            os.truncate(store.path(stage) / file, length)
            try:
                store.get(stage).check()
                raise AssertionError(f"{file} of {length} bytes was taken for whole")
            except Corrupt:
                assert store.quarantine_if_corrupt(stage) and not store.has(stage)
