"""Artifacts and checkpoints that break, disks that fill up, folders that cannot be written, signals."""

import dataclasses
import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.run import (
    TINY,
    bench_inline,
    command,
    environment,
    gone_within,
    ran,
    results,
    start,
    until,
    workers_of,
)
from torch import nn

from latentbench.bench.store import hashes
from latentbench.bench.store.artifacts import Artifact, Result, Store, locked
from latentbench.bench.store.disk import DiskFull, explain_disk_full, size_text
from latentbench.bench.store.hashes import Corrupt
from latentbench.bench.store.stage import Stage, stage_id
from latentbench.bench.tools import cleaning
from latentbench.bench.training import checkpoint
from latentbench.bench.training.checkpoint import State
from latentbench.bench.training.context import Context
from latentbench.bench.training.steps import run_steps

CONFIG = {"seed": 3}
STAGE = Stage("latents", "vit · none", CONFIG, {}, stage_id("latents", CONFIG, {}), True)
TENSORS = {"h": torch.arange(1000.0), "labels": torch.arange(10)}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / ".bench")
    store.put(STAGE, Result({"curves": {"l1": [0.5, float("nan")]}, "é": "ü"}, TENSORS))
    return store


SMALL = re.sub(r"  lightningdit: .*\n|  kl: .*\n|(?<=evaluators: .).*(?=cost)", "", TINY)


def flip(file, place, bit=0):
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def test_every_flipped_bit_of_an_artifact_is_found(store):
    for name in ("stage.json", "tensors.safetensors"):
        file = store.path(STAGE) / name
        whole = file.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 100)):
            flip(file, place, bit=place % 8)
            with pytest.raises(Corrupt):
                store.get(STAGE).check()
            file.write_bytes(whole)
    store.get(STAGE).check()


def test_every_flipped_bit_of_the_first_lines_is_found(store):
    file = store.path(STAGE) / "stage.json"
    whole = file.read_bytes()
    for place in range(140):
        for bit in range(8):
            flip(file, place, bit)
            with pytest.raises(Corrupt):
                _ = store.get(STAGE).meta
            file.write_bytes(whole)


def test_a_truncated_a_missing_and_an_unreadable_file_are_found(store):
    file = store.path(STAGE) / "tensors.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(Corrupt, match=f"has {len(whole) - 1} of {len(whole)} bytes"):
        _ = store.get(STAGE).tensors
    file.unlink()
    with pytest.raises(Corrupt, match="No such file"):
        store.get(STAGE).tensor("h")
    file.mkdir()
    with pytest.raises(Corrupt):
        store.get(STAGE).check()


def test_an_artifact_of_another_key_is_found(store):
    other = store.root / "artifacts" / "latents" / ("0" * 64)
    store.path(STAGE).rename(other)
    with pytest.raises(Corrupt, match="artifact of latents"):
        _ = Artifact(other).meta


def test_stage_json_is_json_whose_hashes_sha256sum_confirms(store):
    folder = store.path(STAGE)
    meta = json.loads((folder / "stage.json").read_text())
    said = subprocess.run(
        ["sha256sum", folder / "tensors.safetensors"], capture_output=True, text=True
    ).stdout
    assert said.startswith(meta["files"]["tensors.safetensors"]["sha256"])
    rest = subprocess.run(
        f"tail -n +3 {folder}/stage.json | sha256sum", shell=True, capture_output=True, text=True
    ).stdout
    assert rest.startswith(meta["sha256"])


def old(store):
    """The artifact as it was written before hashes were kept."""
    file = store.path(STAGE) / "stage.json"
    meta = json.loads(file.read_text())
    del meta["sha256"], meta["files"]
    file.write_text(json.dumps(meta, indent=1))
    return store


def test_artifacts_from_before_hashes_stay_valid_and_truncated_ones_are_found(store):
    file = old(store).path(STAGE) / "tensors.safetensors"
    assert store.quarantine_if_corrupt(STAGE) is None
    assert torch.equal(store.get(STAGE).tensors["h"], TENSORS["h"])
    file.write_bytes(file.read_bytes()[:-8])
    assert "broken" in store.quarantine_if_corrupt(STAGE)


def test_a_broken_artifact_is_set_aside_and_said_in_one_line(store):
    assert store.quarantine_if_corrupt(STAGE) is None
    for n in (1, 2):
        flip(store.path(STAGE) / "tensors.safetensors", -1)
        said = store.quarantine_if_corrupt(STAGE)
        assert f"corrupt/{STAGE.key}.{n}" in said and "another hash" in said and "\n" not in said
        assert not store.has(STAGE) and store.quarantined_keys() == {STAGE.key}
        assert store.quarantine_if_corrupt(STAGE) is None
        store.put(STAGE, Result({}, TENSORS))
    assert len(list((store.root / "corrupt").iterdir())) == 2


def test_contents_are_hashed_once_per_process_and_file(store, monkeypatch):
    hashed = []
    real = hashes.sha256
    monkeypatch.setattr(hashes, "sha256", lambda file: hashed.append(file) or real(file))
    for _ in range(3):
        store.get(STAGE).check()
    assert hashed == []  # it was when it was written
    file = store.path(STAGE) / "tensors.safetensors"
    os.utime(file, ns=(1, 1))
    for _ in range(3):
        store.get(STAGE).check()
    assert len(hashed) == 1


def test_a_folder_that_was_removed_halfway_does_not_stop_another_removal_with_its_process_id(store):
    trash = store.root / "trash" / f"{STAGE.key}.{os.getpid()}"
    trash.mkdir(parents=True)
    (trash / "left").touch()
    store.discard(STAGE)
    assert not store.has(STAGE)


# Checkpoints


def trained(folder, steps, notes=None):
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    state = State({"net": net}, {"main": optimizer}, {})
    seen = []

    def update(step):
        seen.append(step)
        loss = (net(torch.randn(4, 3)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    run_steps(state, steps, update, Context(folder, note=(notes if notes is not None else []).append), "test")
    return net.weight.detach().clone(), seen


def test_training_goes_on_from_the_checkpoint_before_a_broken_one_with_the_same_numbers(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("latentbench.bench.training.steps.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("latentbench.bench.training.steps.CHECKPOINT_SHARE", 0)
    work = tmp_path / "work" / "key"
    work.mkdir(parents=True)
    straight, _ = trained(work, 12)
    first, second = checkpoint.checkpoint_files(work)
    assert [file.name.split("-")[1] for file in (first, second)] == ["11", "10"]
    for broken, begins in ((first, 10), (second, 0)):
        flip(broken, -1)
        (note,) = checkpoint.quarantine_corrupt(work, tmp_path)
        assert "corrupt/checkpoint.key." in note
        for file in (work).glob("checkpoint-*"):
            if file.name not in (first.name, second.name):
                file.unlink()
        again, seen = trained(work, 12)
        assert seen[0] == begins and torch.equal(again, straight)
        for file in checkpoint.checkpoint_files(work):
            if file != second:
                file.unlink()
    assert Store(tmp_path).quarantined_keys() == {"checkpoint.key"}  # which is no artifact's


def test_a_checkpoint_that_cannot_be_written_is_said_once_and_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("latentbench.bench.training.steps.CHECKPOINT_SECONDS", 0.0)
    straight, _ = trained(tmp_path, 6)
    for file in checkpoint.checkpoint_files(tmp_path):
        file.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    notes = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
    try:
        weights, _ = trained(tmp_path, 6, notes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(weights, straight)
    assert len(notes) == 1 and "no checkpoint of step 1" in notes[0] and "ulimit -f" in notes[0]
    assert not list(tmp_path.iterdir())


# A full disk


def test_a_full_disk_leaves_nothing_half_written_and_says_what_is_free_and_needed(tmp_path):
    store = Store(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(DiskFull, match=r"ulimit -f\) in .* \([\d.]+ GiB free, 4.0 KiB needed\)"):
            store.put(STAGE, Result({}, TENSORS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    store.put(STAGE, Result({}, TENSORS))
    store.get(STAGE).check()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_device_and_a_used_up_quota_are_told_apart_from_other_errors(number, tmp_path):
    with (
        pytest.raises(DiskFull, match="space is left" if number == errno.ENOSPC else "quota"),
        explain_disk_full(tmp_path),
    ):
        raise OSError(number, os.strerror(number))
    with pytest.raises(PermissionError), explain_disk_full(tmp_path):
        raise OSError(errno.EACCES, "no")
    assert [size_text(n) for n in (0, 1023, 1024, 3 * 2**30, 2**50)] == [
        "0 bytes",
        "1023 bytes",
        "1.0 KiB",
        "3.0 GiB",
        "1048576.0 GiB",
    ]


# Locks


def test_a_lock_file_that_is_removed_while_somebody_waits_still_locks(tmp_path):
    file = tmp_path / "lock"
    waiting = (
        "import sys, time; from pathlib import Path; from latentbench.bench.store.artifacts import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('mine', flush=True); time.sleep(60)"
    )
    with locked(file) as held:
        assert held
        other = subprocess.Popen(
            [sys.executable, "-c", waiting, file], stdout=subprocess.PIPE, text=True, env=environment()
        )
        time.sleep(3)
        file.unlink()
    assert other.stdout.readline() == "mine\n"
    with locked(file, wait=False) as held:
        assert not held
    other.kill()
    other.wait()


# Runs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a small matrix, run once."""
    return ran(tmp_path_factory.mktemp("made"), SMALL)


def test_what_is_broken_is_found_by_doctor_and_made_again_by_a_run_with_the_same_records(made):
    truth = results(made / "results/tiny")
    (trained,) = (made / ".bench/artifacts/tokenizer").iterdir()
    (latents,) = (made / ".bench/artifacts/latents").iterdir()
    (scores, *_) = (made / ".bench/artifacts/scores").iterdir()
    flip(trained / "stage.json", -99)  # its curves are in the records
    (latents / "tensors.safetensors").write_bytes(b"")  # needed by scores alone
    flip(scores / "stage.json", -9)
    found = bench_inline("doctor", "--cache", "--json", cwd=made)
    wrong = {check["name"] for check in json.loads(found.stdout) if check["ok"] is False}
    assert found.returncode == 1
    assert wrong == {f"{path.parent.name} {path.name[:12]}" for path in (trained, latents, scores)}
    done = bench_inline("run", cwd=made)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("note")]
    assert len(lines) == 3 and all("corrupt/" in line for line in lines), lines
    assert results(made / "results/tiny") == truth
    assert bench_inline("doctor", "--cache", cwd=made).returncode == 0


def test_a_read_only_cache_is_reported_from_and_otherwise_an_error(made, tmp_path, monkeypatch):
    real = Path.mkdir

    def mkdir(self, *arguments, **options):
        if ".bench" in self.parts:
            raise OSError(errno.EROFS, "Read-only file system")
        real(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    done = bench_inline("run", "-o", tmp_path / "elsewhere", cwd=made)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(tmp_path / "elsewhere") == results(made / "results/tiny")
    done = bench_inline("run", "-o", tmp_path / "more", "--seeds", "2", cwd=made)
    assert done.returncode == 2 and "Read-only file system" in done.stderr and "Traceback" not in done.stderr


def test_a_disk_that_is_full_of_results_is_an_error_and_a_later_run_goes_on(made, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    done = subprocess.run(
        command("run", "-j", 1, "-o", tmp_path / "out"),
        cwd=made,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert (
        "error: " in said and str(tmp_path / "out") in said and "needed" in said and "Traceback" not in said
    )
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert bench_inline("run", "-o", tmp_path / "out", cwd=made).returncode == 0
    assert results(tmp_path / "out") == results(made / "results/tiny")


@pytest.mark.parametrize(
    "sign, code", [(signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.nightly)]
)
def test_a_signal_ends_a_run_with_its_code_and_how_to_go_on(tmp_path, sign, code):
    (tmp_path / "matrix.yaml").write_text(SMALL.replace("_steps: 12", "_steps: 100000"))
    process = start("run", "-j", 1, cwd=tmp_path)
    until(process, "tokenizer")
    workers = workers_of(process.pid)
    process.send_signal(sign)
    rest = process.communicate(timeout=120)[0]
    assert process.returncode == code
    assert "bench run -j 1" in rest
    assert workers and gone_within(30, workers)
    assert list((tmp_path / ".bench/work").glob("*/checkpoint-*.safetensors"))


# What is kept


def test_clean_keeps_what_listed_results_need_and_frees_the_rest(made):
    store = Store(made / ".bench")
    needed = {path for path in store.root.glob("artifacts/*/*")}
    store.put(STAGE, Result({}, TENSORS))
    other = dataclasses.replace(STAGE, id="1" * 64)
    checkpoint.save(store.work(other), State({}, {}, {}, step=7))
    (store.root / "trash/x").mkdir(parents=True)
    busy = dataclasses.replace(STAGE, id="2" * 64)
    store.put(busy, Result({}, TENSORS))
    with store.lock(busy):
        shown = bench_inline("clean", cwd=made)
        assert shown.returncode == 0 and "would free" in shown.stdout and "results/tiny keeps" in shown.stdout
        assert store.has(STAGE) and (store.root / "trash/x").exists()
        done = bench_inline("clean", "--yes", cwd=made)
        assert done.returncode == 0 and "1 artifacts are in use" in done.stdout, done.stderr
        assert store.has(busy)
    assert {path for path in store.root.glob("artifacts/*/*")} == needed | {store.path(busy)}
    assert not list((store.root / "work").iterdir()) and not list((store.root / "trash").iterdir())
    assert [file.name for file in (store.root / "locks").iterdir()] == [busy.key]
    again = bench_inline("run", cwd=made)
    assert again.returncode == 0 and "start" not in again.stdout


def test_clean_removes_nothing_where_it_cannot_tell_what_is_needed(tmp_path):
    store = Store(tmp_path / ".bench")
    store.put(STAGE, Result({}, TENSORS))
    lock = tmp_path / "results/x/matrix.lock.yaml"
    lock.parent.mkdir(parents=True)
    lock.write_text("name: x\nregularizers: {gone: {}}\n")
    done = bench_inline("clean", "--yes", cwd=tmp_path)
    assert done.returncode == 2 and "which artifacts results/x needs" in done.stderr and store.has(STAGE)
    assert bench_inline("clean", "--yes", tmp_path / "nowhere", cwd=tmp_path).returncode == 2
    assert bench_inline("clean", "--all", "--yes", cwd=tmp_path).returncode == 0
    assert not store.root.exists()


def test_unfinished_work_is_shown_and_its_broken_checkpoint_found(tmp_path):
    store = Store(tmp_path)
    checkpoint.save(store.work(STAGE), State({"net": nn.Linear(2, 2)}, {}, {}, step=7))
    found = {check.name: check for check in cleaning.checks(store)}
    assert "checkpoint-7-" in found[f"unfinished {STAGE.key[:12]}"].found
    assert found["cache"].ok
    (file,) = checkpoint.checkpoint_files(store.work(STAGE))
    flip(file, -1)
    assert [check.ok for check in cleaning.checks(store) if check.name.startswith("unf")] == [False, None]
