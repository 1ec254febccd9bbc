"""What the tutorial on reading a leaderboard prints of a committed study is what its commands print today."""

import contextlib
import io
import re

import pytest
from helpers.pages import ROOT, blocks, text_of
from helpers.run import bench_inline

PAGE = "docs/tutorials/read-a-leaderboard.md"
PRINTED = re.compile(r"```(python|sh)\n(.*?)```(.*?)```text\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def printed():
    """The commands of the page with the output that stands after each: language, text, output."""
    found = [match.groups() for match in PRINTED.finditer(text_of(PAGE))]
    assert all("```" not in between for _, _, between, _ in found)
    return [(language, text, output) for language, text, _, output in found]


def test_every_python_block_prints_what_stands_below_it(printed, monkeypatch):
    monkeypatch.chdir(ROOT)
    python = [(text, output) for language, text, output in printed if language == "python"]
    assert len(python) == sum(block.language == "python" for block in blocks(text_of(PAGE)))
    names = {}
    for text, output in python:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(text, names)
        assert said.getvalue().split() == output.split()


def test_every_line_of_the_comparison_is_printed(printed, tmp_path):
    (text, output), *others = [(text, output) for language, text, output in printed if language == "sh"]
    assert not others
    commands = re.sub(r"\\\n", " ", text).strip().splitlines()
    said = []
    for command in commands:
        words = [word.strip("'") for word in command.split()]
        done = bench_inline(*words[1:], cwd=ROOT, home=tmp_path)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    head, *lines = output.strip().splitlines()
    for line in lines:
        name, *cells = re.split(r" {2,}", line)
        (printed_line,) = [known for known in said[0].splitlines() if known.startswith(name)]
        assert set(cells) <= set(re.split(r" {2,}", printed_line))
    assert said[1].count("no difference shown") == 4  # as the text says
