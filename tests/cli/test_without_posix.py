"""Windows, as far as another system can stand for it: without its modules and signals.

What works there works without locks; what needs them says so before it does anything.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.run import TINY, environment

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = """
import os, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # an import raises ImportError
for name in ("SIGHUP", "SIGKILL", "SIGBUS", "pthread_sigmask"):
    delattr(signal, name)
del os.sched_getaffinity
from latentbench.bench.cli import main
main()
"""


def bench(*words, cwd):
    words = [sys.executable, "-c", WITHOUT, *map(str, words)]
    return subprocess.run(words, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "matrix.yaml").write_text(TINY, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "words, says",
    [
        (["list", "datasets"], "digits"),
        (["info", "regularizer", "kl"], "weight"),
        (["plan"], "4 cells"),
        (["report", ROOT / "results/studies/lab2d", "-o", "out"], "leaderboard.html"),
        (["merge", ROOT / "results/studies/lab2d", "-o", "out"], "records of 1 folders"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_without_locks_work(words, says, folder):
    done = bench(*words, cwd=folder)
    assert done.returncode == 0 and says in done.stdout, done.stderr


@pytest.mark.parametrize("words", [["run"], ["run", "--engine", "inline"]])
def test_commands_with_locks_say_where_they_work(words, folder):
    done = bench(*words, cwd=folder)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: Windows has no locks" in done.stderr and "WSL" in done.stderr
    assert not list(folder.rglob("*.json")) and not list(folder.rglob("*.safetensors"))
