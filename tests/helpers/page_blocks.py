"""Runs the code blocks of a page in a folder, or reads those that cannot run here."""

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import typer
import yaml
from helpers.pages import ROOT, Block
from helpers.run import bench_inline, environment

from latentbench.bench import registry
from latentbench.bench.cli import app
from latentbench.bench.matrix.keys import KEYS
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.matrix.parts import EXAMPLES
from latentbench.bench.plan.make import make_plan
from latentbench.bench.runtime.standard_settings import standard_settings

# Commands that install, serve or test: their words are read, and they don't run.
NOT_RUN = {"apt-get", "git", "mkdocs", "mypy", "pip", "pytest", "ruff", "torchrun"}
SHELL = [
    f'bench() {{ {shlex.quote(sys.executable)} -m latentbench.bench.cli "$@"; }}',
    *(f"{name}() {{ :; }}" for name in sorted(NOT_RUN)),
]
LIMIT = 180  # seconds of a block by day, on a busy core
WHOLE = {  # what a fragment of a matrix is laid over
    "dataset": "digits",
    "features": "effnet_lite0",
    "tokenizers": {"vit": {}},
    "regularizers": {"none": {}},
    "generators": {"gaussian": {}},
    "evaluators": ["reconstruction"],
}


class PageRun:
    """The blocks of a page, one after the other, beside the root's matrix and the studies they name."""

    def __init__(self, folder: Path, home: Path, allowed: frozenset[str] = frozenset()) -> None:
        self.folder, self.home, self.allowed = folder, home, allowed
        shutil.copy(ROOT / "matrix.yaml", folder)
        self.names: dict[str, object] = {}  # of Python blocks, for those after them

    def run(self, block: Block) -> None:
        """Runs a block, or reads it if it needs what isn't allowed.

        Raises:
            AssertionError: naming the block's place, what it did, and what it said.
        """
        for study in re.findall(r"results/studies/([\w-]+)", block.text):
            if not (copy := self.folder / "results/studies" / study).exists():
                shutil.copytree(ROOT / "results/studies" / study, copy)
        if block.file:
            (self.folder / block.file).write_text(block.text, encoding="utf-8")
        reads = block.fragment or bool(block.needs - self.allowed)
        does = {"sh": self._shell, "yaml": self._matrix, "python": self._python}[block.language]
        if self.allowed:
            does(block, reads)
            return
        with within(LIMIT, f"{block.place} takes more than {LIMIT} s: mark it as `<!-- needs: time -->`"):
            does(block, reads)

    def _shell(self, block: Block, reads: bool) -> None:
        commands = simple_commands(block.text)
        for words in commands or ():
            if fault := fault_of(words):
                raise AssertionError(f"{block.place}: {shlex.join(words)}: {fault}")
        if reads:
            return
        if commands is None:
            script = "\n".join([*SHELL, block.text])
            self._process(block, ["bash", "-euo", "pipefail", "-c", script])
            return
        for words in commands:
            if words[0] == "bench":
                done = bench_inline(*words[1:], cwd=self.folder, home=self.home)
                assert done.returncode == 0, f"{block.place}: {shlex.join(words)}\n{done.stdout}{done.stderr}"
            elif words[0] not in NOT_RUN:
                command = [sys.executable, *words[1:]] if words[0] in ("python", "python3") else words
                self._process(block, command)

    def _process(self, block: Block, command: list[str]) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment(self.home),
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, f"{block.place}:\n{done.stdout}{done.stderr}"

    def _matrix(self, block: Block, reads: bool) -> None:
        """A whole matrix goes through loader and planner, a fragment of one through the loader."""
        data = yaml.safe_load(block.text)
        keys = set(data) if isinstance(data, dict) else set()
        whole = (set(EXAMPLES) - {"reference"}) <= keys
        if not reads:
            assert whole, f"{block.place}: no whole matrix: mark it as `<!-- fragment -->`"
        elif not keys or not keys <= set(KEYS) or "…" in block.text:
            return  # it stands for something else, or leaves something out
        with contextlib.chdir(self.folder), registry.plugins_of_this_block():
            plugins = [file for file in sorted(self.folder.glob("*.py")) if _has_part(file)]
            matrix = load_matrix(data if whole else WHOLE | data, plugins=plugins)
            if not reads:
                with standard_settings():
                    make_plan(matrix)

    def _python(self, block: Block, reads: bool) -> None:
        file = self.folder / (block.file or f"block_{block.line}.py")
        file.write_text(block.text, encoding="utf-8")
        compile(block.text, block.place, "exec")
        if reads:
            return
        said = io.StringIO()
        with contextlib.chdir(self.folder), mock.patch.dict(os.environ, environment(self.home), clear=True):
            if block.file:
                if not _has_part(file):
                    return  # a script, which a command after it runs
                with registry.plugins_of_this_block():
                    faults = [source.problem for source in registry.load_plugin(file) if source.problem]
                assert not faults, f"{block.place}: {faults}"
                return
            with contextlib.redirect_stdout(said):
                self.names |= runpy.run_path(str(file), init_globals=self.names, run_name="__main__")


class _TooLong(BaseException):
    """The end of a block's time. A run takes any other exception for that of one cell, and goes on."""


@contextlib.contextmanager
def within(seconds: int, message: str) -> Iterator[None]:
    """Raises AssertionError where the block goes on for longer."""

    def end(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    except _TooLong:
        raise AssertionError(message) from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def simple_commands(text: str) -> list[list[str]] | None:
    """The words of each command of a shell block; None if it has more than commands joined by `&&`."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    found: list[list[str]] = []
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>()")
        lexer.whitespace_split, lexer.commenters = True, "#"
        command: list[str] = []
        for word in [*lexer, "&&"]:
            if word == "&&":
                found += [command] if command else []
                command = []
            elif (
                set(word) <= set("&|;<>()") or word.startswith("$") or (not command and not _is_command(word))
            ):
                return None
            else:
                command.append(word)
    return found


def _has_part(file: Path) -> bool:
    """Whether a Python file registers a part, so that it is a plugin."""
    return "@register" in file.read_text(encoding="utf-8")


def _is_command(word: str) -> bool:
    return word in {"bench", "python", "python3", "cat", "cp", "ls", "mkdir", *NOT_RUN}


def fault_of(words: list[str]) -> str | None:
    """The reason why a command cannot be right, found without running it."""
    if words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        named = {name for found in re.findall(r"\[([\w,]+)\]", " ".join(words)) for name in found.split(",")}
        unknown = named - set(extras["optional-dependencies"])
        return f"pyproject.toml has no extra {', '.join(sorted(unknown))}" if unknown else None
    if words[0] == "torchrun" and "latentbench.bench.cli" in words:
        words = ["bench", *words[words.index("latentbench.bench.cli") + 1 :]]
    if words[0] != "bench" or words[1:2] in ([], ["--help"], ["--version"]):
        return None
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if words[1] not in commands:
        return f"bench has no command {words[1]!r}"
    if "--help" in words:
        return None
    try:
        commands[words[1]].make_context(words[1], words[2:])
    except Exception as error:  # a usage error, of click or of what Typer has in its place
        return error.format_message() if hasattr(error, "format_message") else str(error)
    return None
