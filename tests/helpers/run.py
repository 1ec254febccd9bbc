"""The command line as users run it, in a process of its own or in this one, and matrices for it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from unittest import mock

from typer.testing import CliRunner

from latentbench.bench import registry
from latentbench.bench.cli import app
from latentbench.bench.records.files import read_record
from latentbench.bench.records.record import comparable, named_fields

TINY = """\
name: tiny
dataset: {use: digits}
seeds: [0]
budget: {tokenizer_steps: 12, generator_steps: 12, batch: 16}
features: {use: effnet_lite0, resolution: 32}
reference: {use: teacher}
reconstruction: {l1: 1.0}
samples: 64
tokenizers:
  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}
regularizers:
  none: {}
  kl: {weight: 1.0e-3}
generators:
  gaussian: {}
  lightningdit: {width: 32, depth: 1, heads: 2, guidance: [1.0, 1.5], sampler: {steps: 4}}
evaluators: [reconstruction, generation, density, cost]
"""


def bench(*arguments, cwd, home=None, timeout=300):
    """Runs `bench ARGUMENTS` to its end and returns the finished process, with text output."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(home), capture_output=True, text=True, timeout=timeout
    )


def bench_inline(*arguments, cwd, home=None):
    """Runs `bench ARGUMENTS` in this process, stages too; returns the exit code and texts as `bench` does."""
    words = [str(word) for word in arguments]
    if words[0] == "run":
        words += ["--engine", "inline"]
    variables = mock.patch.dict(os.environ, environment(home), clear=True)
    with contextlib.chdir(cwd), variables, registry.plugins_of_this_block():  # a process forgets them too
        result = CliRunner().invoke(app, words)
    stderr = result.stderr
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        stderr += "".join(traceback.format_exception(result.exception))
    return subprocess.CompletedProcess(words, result.exit_code, result.stdout, stderr)


def ran(folder, text):
    """Writes a matrix into a folder and runs it in this process; returns the folder."""
    (folder / "matrix.yaml").write_text(text)
    done = bench_inline("run", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def command(*arguments):
    return [sys.executable, "-m", "latentbench.bench.cli", *map(str, arguments)]


def environment(home=None):
    env = {k: v for k, v in os.environ.items() if k not in ("CI", "GITHUB_ACTIONS", "FORCE_COLOR")}
    if home is not None:
        env["LATENTBENCH_HOME"] = str(home)
    return env


def start(*arguments, cwd, home=None, group=False):
    """Starts `bench ARGUMENTS`, whose errors are among its output; `group`: in a process group of its own."""
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=group,
        preexec_fn=_heed_signals,
    )


def _heed_signals():
    """Undoes what a shell's background job and `nohup` ignore, which all that they start would ignore too."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def until(process, words, times=1):
    """Reads a process's output up to a line that has these words, or up to the last of so many such lines."""
    said = ""
    for line in process.stdout:
        said += line
        times -= words in line
        if not times:
            return said
    raise AssertionError(said)


def killed_at_work(seconds, *arguments, cwd, home=None):
    """Starts `bench ARGUMENTS` and kills it with SIGKILL some seconds into its first stage.

    True if it was still running then.
    """
    process = start(*arguments, cwd=cwd, home=home)
    until(process, "start  ")
    try:
        process.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True


def results(folder):
    """What two runs of the same cells must agree on, by file."""
    found = {}
    for file in sorted(Path(folder, "records").glob("*.json")):
        found[file.name] = comparable(read_record(file))
    return found


def fields_of(file):
    """The fields of the record in a file by name, in whichever form it was written."""
    return dict(named_fields(read_record(Path(file))))


def workers_of(pid):
    """Process ids of the live descendants of a process."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True).stdout
    children: dict[int, list[int]] = {}
    for line in listed.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, waiting = [], [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found


def stage_workers_of(pid):
    """Process ids of a run's workers: the children of its fork server."""
    descendants = workers_of(pid)
    servers = [one for one in descendants if "forkserver" in cmdline(one) and parent_of(one) == pid]
    return [one for one in descendants if parent_of(one) in servers]


def parent_of(pid):
    """The process id of a process's parent; None if the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def cmdline(pid):
    """The command line of a process, or nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def gone_within(seconds, pids):
    """Whether all of these processes are gone, or zombies, within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(_alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
