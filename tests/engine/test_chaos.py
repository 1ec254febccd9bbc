"""Whatever happens to a run and its cache, the records end as those of a run that nothing happened to."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
from helpers.run import (
    TINY,
    bench,
    command,
    environment,
    gone_within,
    results,
    stage_workers_of,
    start,
    workers_of,
)
from PIL import Image

LIMIT = 20_000  # bytes of a file: less than any tensors take

MATRIX = (
    TINY.replace("seeds: [0]", "seeds: [0, 1]")
    .replace("_steps: 12", "_steps: 400")
    .replace("  kl: {weight: 1.0e-3}\n", "  kl: {weight: 1.0e-3}\n  repa: {weight: 0.1}\n")
    .replace("guidance: [1.0, 1.5], ", "")
)


class Chaos:
    """Runs in one folder, to which everything happens that a seed says."""

    def __init__(self, folder, seed, kills, means, words):
        self.folder, self.moments, self.kills = folder, random.Random(seed), kills
        self.means, self.words = means, words
        self.killed = {"worker": 0, "parent": 0, "SIGTERM": 0}
        self.broken, self.noticed = [], 0

    def run(self):
        """One run, in which workers are killed, until it ends or is killed itself; its exit code."""
        process = start(*self.words, cwd=self.folder)
        said, started = [], threading.Event()

        def listen():
            for line in process.stdout:
                said.append(line)
                if line.startswith("start"):
                    started.set()

        reader = threading.Thread(target=listen)
        reader.start()
        while process.poll() is None and not started.wait(0.1):
            pass
        workers = []
        while process.poll() is None and sum(self.killed.values()) < self.kills:
            try:
                process.wait(self.moments.uniform(0.3, 8))
            except subprocess.TimeoutExpired:
                workers = workers_of(process.pid)
                self.kill(process, stage_workers_of(process.pid))
        process.wait(timeout=900)
        reader.join()
        assert gone_within(60, workers)
        text = "".join(said)
        assert "Traceback" not in text, text
        self.noticed += text.count("corrupt/")
        return process.returncode

    def kill(self, process, workers):
        what = self.moments.choice(self.means)
        pid = self.moments.choice(workers) if what == "worker" and workers else process.pid
        try:
            os.kill(pid, signal.SIGTERM if what == "SIGTERM" else signal.SIGKILL)
        except ProcessLookupError:
            return
        self.killed[what] += 1
        if pid == process.pid:
            process.wait(timeout=60)

    def corrupt(self, most):
        """Flips a bit of, or truncates, some artifacts and checkpoints."""
        files = sorted((self.folder / ".bench").glob("artifacts/*/*/*"))
        files += sorted((self.folder / ".bench").glob("work/*/checkpoint-*"))
        for file in self.moments.sample(files, min(most, len(files))):
            content = bytearray(file.read_bytes())
            place = self.moments.randrange(len(content))
            if self.moments.random() < 0.3:
                content = content[:place]
            else:
                content[place] ^= 1 << self.moments.randrange(8)
            file.write_bytes(content)
            time.sleep(0.01)  # a clock's tick: what is told apart by its time was written at another
            self.broken.append(file)

    def fill(self):
        """A run that finds the disk full: it says so, and leaves nothing half-written."""

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))

        done = subprocess.run(
            command(*self.words),
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            preexec_fn=limit,
            timeout=900,
        )
        text = done.stdout + done.stderr
        assert done.returncode == 1, text
        assert "than is allowed here (ulimit -f) in " in text and "free" in text
        assert "Traceback" not in text
        assert not list((self.folder / ".bench").glob("work/*/artifact"))
        assert not list((self.folder / ".bench").glob("work/*/checkpoint.writing"))
        assert not list((self.folder / "results").rglob("*.tmp"))


def survives(tmp_path, text, kills, breaks, *, seed, jobs, means, fill=False, options=()):
    """The records of an undisturbed and of a disturbed run, and what happened to the latter."""
    words = ("run", "-j", jobs, *options)
    folders = [tmp_path / name for name in ("undisturbed", "disturbed")]
    for folder in folders:
        folder.mkdir()
        (folder / "matrix.yaml").write_text(text)
    done = bench(*words, cwd=folders[0], timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    chaos, ended = Chaos(folders[1], seed, kills, means, words), False
    while not ended:
        code = chaos.run()
        ended = code == 0 and sum(chaos.killed.values()) >= kills and len(chaos.broken) >= breaks
        if fill and sum(chaos.killed.values()) >= kills // 2:
            chaos.fill()
            fill = False
        if not ended and breaks:
            chaos.corrupt(6 if code == 0 else 3)
        elif not ended and code == 0:  # all is made, and kills are left: it is made once more
            shutil.rmtree(folders[1] / ".bench")
    print(chaos.killed, f"{len(chaos.broken)} files broken, {chaos.noticed} noticed")
    assert not fill
    return results(folders[0] / "results/tiny"), results(folders[1] / "results/tiny"), chaos


@pytest.mark.nightly  # tests/engine/test_run.py kills a run, test_durability.py breaks its artifacts
def test_a_run_that_is_killed_and_finds_files_broken_ends_with_the_same_records(tmp_path):
    text = TINY.replace("samples: 64", "samples: 32").replace(
        "[reconstruction, generation, density, cost]", "[cost]"
    )
    truth, found, chaos = survives(tmp_path, text, 1, 1, seed=0, jobs=1, means=["parent"], fill=False)
    assert found == truth and len(truth) == 5
    assert chaos.broken and chaos.noticed


@pytest.mark.nightly
def test_twenty_kills_broken_artifacts_and_a_full_disk_change_no_value_of_twelve_cells(tmp_path):
    means = ["worker", "worker", "parent", "SIGTERM"]
    truth, found, chaos = survives(tmp_path, MATRIX, 24, 18, seed=1, jobs=2, means=means, fill=True)
    assert found == truth and len(truth) == 13
    assert sum(chaos.killed.values()) >= 20 and min(chaos.killed.values()) > 0
    assert len(chaos.broken) >= 18 and chaos.noticed >= 10
    folder = tmp_path / "disturbed"
    last = bench("run", cwd=folder, timeout=900)
    assert last.returncode == 0 and "start" not in last.stdout, last.stdout + last.stderr
    # What no record needs may still be broken: the doctor finds it.
    found = json.loads(bench("doctor", "--cache", "--json", cwd=folder).stdout)
    wrong = {check["name"] for check in found if check["ok"] is False}
    assert wrong <= {f"{file.parents[1].name} {file.parent.name[:12]}" for file in chaos.broken}


@pytest.mark.nightly
def test_fifty_kills_of_a_run_over_a_folder_of_jpegs_with_loaders_change_no_value(tmp_path):
    draw = np.random.default_rng(0)
    for split, count in (("train", 60), ("val", 20)):
        for kind in ("cat", "dog"):
            folder = tmp_path / "pictures" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                levels = draw.integers(0, 256, (4, 4, 3), np.uint8)
                Image.fromarray(levels).resize((120, 90), Image.Resampling.BICUBIC).save(
                    folder / f"{number}.jpg"
                )
    pictures = f"dataset: {{use: imagefolder, root: {tmp_path / 'pictures'}, size: 16}}"
    text = MATRIX.replace("dataset: {use: digits}", pictures)
    options, means = ("--loaders", 2), ["worker", "parent", "SIGTERM"]
    truth, found, chaos = survives(tmp_path, text, 50, 0, seed=2, jobs=2, means=means, options=options)
    assert found == truth and len(truth) == 13
    assert sum(chaos.killed.values()) >= 50 and min(chaos.killed.values()) >= 10
