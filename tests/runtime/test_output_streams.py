"""A process's output never ends it: the stream's letters, its reader and its disk are others' business."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAYS = r"""
import sys
from latentbench.bench.runtime.output_streams import make_lasting
output = make_lasting()
print("gFD \u2193 \xe9 \udcff")
print("x" * 100_000)
sys.stdout.flush()
print("error \u2193", file=sys.stderr)
print("lost:", output.lost, "failed:", output.failure is not None, file=sys.stderr)
"""


def said(stdout=subprocess.PIPE, shell="", **variables):
    """The process of the program above, with bytes for output."""
    words = [sys.executable, "-c", SAYS]
    if shell:
        words = ["sh", "-c", f'"$@" {shell}', "sh", *words]
    environment = {**os.environ, **variables}
    return subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, env=environment, timeout=60)


@pytest.mark.parametrize(
    "encoding, text",
    [
        ("utf-8", "gFD ↓ é ?".encode()),  # half a surrogate pair, as of a file name that isn't UTF-8
        ("latin-1", b"gFD ? \xe9 ?"),
        ("cp1252", b"gFD ? \xe9 ?"),
        ("ascii", b"gFD ? ? ?"),
    ],
)
def test_what_an_encoding_lacks_becomes_a_question_mark(encoding, text):
    done = said(PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(b"\n")[0] == text
    assert done.stderr.startswith("error ↓".encode(encoding, "replace"))


def test_the_c_locale_is_ascii_and_fails_no_more():
    done = said(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0 and done.stdout.startswith(b"gFD ? ? ?\n")


def test_a_closed_pipe_is_no_loss_and_no_error():
    done = said(shell="| head -c 3")
    assert done.stdout == b"gFD"
    assert b"lost: None failed: True" in done.stderr and b"Exception" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_a_loss_and_no_error():
    with open("/dev/full", "wb") as full:
        done = said(stdout=full)
    assert done.returncode == 0
    assert b"lost: No space left on device" in done.stderr and b"Exception" not in done.stderr


@pytest.mark.parametrize("shell", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_opened_on_nothing(shell):
    done = said(shell=shell)
    assert done.returncode == 0
    if "2>" not in shell:
        assert b"lost: None failed: False" in done.stderr


def test_a_stream_in_memory_stays_as_it_is():
    program = SAYS.replace("import sys\n", "import sys, io\nsys.stdout = memory = io.StringIO()\n", 1)
    program = program.replace('print("lost:', "#").replace(
        "sys.stdout.flush()", "assert 'gFD' in memory.getvalue()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == 0 and not done.stdout, done.stderr
