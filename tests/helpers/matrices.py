"""Matrices with a mistake, and what is said about them."""

import time

import pytest
from helpers.run import TINY
from typer.testing import CliRunner

from latentbench.bench.cli import app
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.plan.make import make_plan

# The first lines of a matrix of tokenizers that aren't trained.
UNTRAINED = """\
name: tiny
dataset: {use: digits}
seeds: [0]
budget: {tokenizer_steps: 0, generator_steps: 2, batch: 16}
features: {use: effnet_lite0, resolution: 32}
"""


def tiny_with(old, new):
    """The tiny matrix with a piece of its text replaced."""
    assert old in TINY
    return TINY.replace(old, new)


def problems(path, **options):
    """The problems of a matrix file, each as a line, in order."""
    with pytest.raises(MatrixError) as caught:
        load_matrix(path, **options)
    assert caught.value.problems == tuple(sorted(caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def planned(folder, text, **options):
    """The plan of a matrix that is written into a folder."""
    (folder / "matrix.yaml").write_text(text)
    return make_plan(load_matrix(folder / "matrix.yaml"), **options)


def refused(*arguments):
    """The output of a command that ends with exit code 2, without a traceback and within 10 seconds."""
    started = time.process_time()
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and time.process_time() - started < 10
    return result.output
