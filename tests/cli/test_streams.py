"""A run ends as it should whatever reads its output, in whatever letters."""

import subprocess
from pathlib import Path

import pytest
from helpers.run import TINY, command, environment, results

PLUGIN = """
from latentbench.bench.api import LatentSpec, Regularizer
from latentbench.bench.registry import register

@register("talking")
class Talking(Regularizer):
    def loss(self, z, h, step):
        print("loss \\u2193", "x" * 10_000)
        return {"size": 0.1 * z.square().mean()}
"""
# A plugin that prints in the worker, and labels of letters that only UTF-8 has.
SMALL = TINY.replace("  lightningdit", "  # lightningdit").replace(", density", "")
ODD = SMALL.replace("  none: {}\n  kl: {weight: 1.0e-3}", "  größe: {use: none}\n  łódź: {use: talking}")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    (folder / "m.yaml").write_text(ODD, encoding="utf-8")
    (folder / "talking.py").write_text(PLUGIN, encoding="utf-8")
    return folder


def run(folder, shell, out, **variables):
    """A run in a shell, with the errors of all its processes; what is made stays cached for the next test."""
    words = command("run", "-m", "m.yaml", "--plugin", "talking.py", "-j", "1", "-o", out)
    return subprocess.run(
        ["sh", "-c", f'"$@" {shell}', "sh", *words],
        cwd=folder,
        env=environment() | variables,
        capture_output=True,
        timeout=300,
    )


def whole(folder, out):
    """Whether a results folder has all of a finished run."""
    made = results(folder / out)
    page = (folder / out / "leaderboard.html").read_text(encoding="utf-8")
    return len(made) == 3 and all(r["status"] == "done" for r in made.values()) and "größe" in page


@pytest.mark.parametrize(
    "name, variables",
    [
        ("c", ASCII),
        ("c-utf8-output", ASCII | {"PYTHONIOENCODING": "utf-8"}),
        pytest.param("latin-1", {"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.nightly),
        pytest.param("ascii", {"PYTHONIOENCODING": "ascii:strict"}, marks=pytest.mark.nightly),
    ],
)
def test_a_run_in_another_locale_says_what_it_can_and_writes_utf8(folder, name, variables):
    done = run(folder, "", name, **variables)
    assert done.returncode == 0, done.stderr
    assert whole(folder, name) and b"leaderboard: " in done.stdout and b"Error" not in done.stderr
    if name != "c-utf8-output":
        assert b"?" in done.stdout and not set(done.stdout) & set("↓".encode())
    truth = (folder / "c" / "leaderboard.csv").read_bytes()
    assert (folder / name / "leaderboard.csv").read_bytes() == truth


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize("shell, word", [("> /dev/full", b"incomplete: No space left"), (">&- 2>&-", b"")])
def test_a_run_ends_with_its_own_exit_code_where_nothing_can_be_printed(folder, shell, word):
    done = run(folder, shell, "unread")
    assert done.returncode == 0 and word in done.stderr and b"Traceback" not in done.stderr
    assert whole(folder, "unread")


def test_a_run_goes_on_after_its_reader_has_gone(folder):
    """The shell's status is that of `head`; the run's own shows in its folder."""
    done = run(folder, "--rerun | head -1", "piped")
    assert done.stdout.startswith(b"digits: ") and done.stdout.count(b"\n") == 1
    assert not done.stderr
    assert whole(folder, "piped")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize("words", [["list"], ["plan", "-m", "m.yaml", "--plugin", "talking.py", "--json"]])
def test_a_command_that_only_prints_fails_on_a_full_disk_and_not_on_a_closed_pipe(folder, words):
    for shell, code in (("> /dev/full", "1"), ("| head -c 1", "0")):
        script = f'{{ "$@"; echo "exit $?" >&2; }} {shell}'
        done = subprocess.run(["sh", "-c", script, "sh", *command(*words)], cwd=folder, capture_output=True)
        assert f"exit {code}".encode() in done.stderr, done.stderr
        assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_the_package_runs_as_the_command(tmp_path):
    words = command("--version")
    assert words[-2] == "latentbench.bench.cli"
    words[-2] = "latentbench.bench"
    ends = [subprocess.run(w, cwd=tmp_path, capture_output=True) for w in (words, command("--version"))]
    assert ends[0].stdout == ends[1].stdout != b"" and ends[0].returncode == 0
