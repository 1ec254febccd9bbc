"""Bad input ends with exit code 2 and a sentence with file, line and column; nothing is written."""

import os
import re

import pytest
from helpers.matrices import refused, tiny_with
from helpers.run import TINY, bench
from typer.testing import CliRunner

from latentbench.bench.cli import app

DIGITS = "9" * 900
BOMB = "\n".join(["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)])

CASES = {
    "a misspelt part": (
        tiny_with("  kl:", "  kll:"),
        "13:3: ",
        "unknown regularizer 'kll'; did you mean 'kl'?",
    ),
    "a misspelt option": (tiny_with("{weight:", "{weigth:"), "13:8: ", "weigth"),
    "a misspelt key": (tiny_with("seeds:", "seedz:"), "3:1: ", "did you mean 'seeds'?"),
    "text for a number": (tiny_with("weight: 1.0e-3", "weight: heavy"), "13:16: ", "heavy"),
    "a number out of range": (
        tiny_with("depth: 1, heads: 2, patch", "depth: 0, heads: 2, patch"),
        "10:27: ",
        "not 0",
    ),
    "an empty axis": (tiny_with("weight: 1.0e-3", "weight: []"), "13:16: ", "weight"),
    "a duplicate key": (TINY + "samples: 32\n", "18:1: ", "samples"),
    "broken YAML": (tiny_with("[reconstruction,", "[reconstruction,,["), "17:"),
    "a list at the top": ("- name: tiny\n", "1:1: ", "mapping"),
    "a scalar at the top": ("tiny\n", "1:1: ", "mapping"),
    "an alias": (tiny_with("seeds: [0]", "seeds: &s [0]"), "3:8: ", "anchor"),
    "a combination that a constructor refuses": (tiny_with("patch: 4", "patch: 3"), "10:3: ", "3"),
    "bytes that are no text": (b"name: \xff\xfe\x00\n", "1:7: "),
    "several mistakes": (
        tiny_with("  kl: {weight: 1.0e-3}", "  kll: {}\n  kl: {weigth: 1}").replace(
            "samples: 64", "samples: -1"
        ),
        *("'kll'", "weigth", "samples", "3 problems"),
    ),
    # Hostile ones.
    "an alias bomb": (BOMB, "the alias *a0 is not supported"),
    "nesting in a line": ("a: " + "[" * 3000 + "]" * 3000, "nested deeper than 20 levels"),
    "nesting in lines": ("\n".join(" " * i + "a:" for i in range(1000)), "nested deeper than 20 levels"),
    "a billion cells": (
        tiny_with("width: 16, depth: 1", f"width: {[*range(1000)]}, depth: {[*range(1000)]}").replace(
            "seeds: [0]", "seeds: 1000"
        ),
        "too many cells",
    ),
    "a billion seeds": (
        tiny_with("seeds: [0]", "seeds: 1000000000"),
        "seeds must be a number of seeds from 1",
    ),
    "a billion layers": (
        tiny_with("width: 16, depth: 1", "width: 16, depth: 1000000000"),
        "10:3: it has more than 10,000 modules",
    ),
    "a billion channels": (tiny_with("channels: 4", "channels: 1000000000000"), "15:3: "),
    "digits of samples": (tiny_with("samples: 64", f"samples: {DIGITS}"), "8:10: an integer of 900 digits"),
    "digits of steps": (tiny_with("tokenizer_steps: 12", f"tokenizer_steps: {DIGITS}"), "4:27: an integer"),
    "digits of a seed": (tiny_with("[0]", f"[{DIGITS}]"), "3:9: an integer"),
    "digits of guidance": (tiny_with("[1.0, 1.5]", f"[1.0, {DIGITS}]"), "an integer of 900 digits"),
    "digits of a weight": (tiny_with("1.0e-3", DIGITS), "13:16: an integer"),
    "digits beyond Python's": (tiny_with("samples: 64", f"samples: {'9' * 5000}"), "8:10: "),
    "a path in the name": (tiny_with("name: tiny", "name: ../../tiny"), "must not contain a path"),
    "a path in a label": (tiny_with("  vit:", "  ../vit:"), "must not contain a path"),
    "a NUL byte": (tiny_with("name: tiny", "name: ti\0ny"), "1:9: the control character U+0000"),
    "a written NUL byte": (tiny_with("name: tiny", 'name: "ti\\0ny"'), "must be printable"),
    "an escape in a label": (tiny_with("  vit:", '  "\\e[31mvit":'), "must be printable"),
    "a NUL byte in a path": (TINY + 'plugins: ["a\\0b"]\n', "18:11: "),
    "a plugin that is a circle of links": (TINY + "plugins: [circle.py]\n", "no plugin file"),
    "an object": (tiny_with("name: tiny", "name: !!python/object/apply:os.system [echo]"), "the tag"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circle.py").symlink_to("circle.py")
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    return tmp_path


def nothing_written(folder):
    return {file.name for file in folder.iterdir()} <= {"circle.py", "circle.yaml", "matrix.yaml"}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_matrix_is_refused_at_its_place_and_nothing_is_written(case, here):
    """A case is a matrix and words of the output, the first of which may begin with a line and column."""
    text, *words = CASES[case]
    (here / "matrix.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refused("run")
    if re.match(r"\d+:", words[0]):
        words[0] = f"matrix.yaml:{words[0]}"
    assert all(word in message for word in words), message
    assert nothing_written(here)


def test_missing_and_special_files_unknown_profiles_and_bad_filters_are_refused(here):
    assert "matrix.yaml" in refused("run")
    with open("matrix.yaml", "wb") as file:
        file.truncate(100 * 2**20)
    assert "104,857,600 bytes are no matrix" in refused("plan")
    assert "unknown matrix" in refused("plan", "--matrix", "circle.yaml")
    assert "unknown matrix" in refused("plan", "--matrix", "/dev/zero")
    (here / "matrix.yaml").write_text(TINY + "profiles: {smoke: {samples: 32}}\n")
    assert "did you mean 'smoke'?" in refused("run", "--profile", "smok")
    assert "did you mean 'generator'?" in refused("run", "--filter", "generatr=mar")
    assert "no cell matches" in refused("run", "--filter", "generator=mar")
    assert "-j" in refused("run", "-j", "many")
    assert nothing_written(here)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs a POSIX system")
def test_an_output_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matrix.yaml").write_text(TINY)
    (tmp_path / "file").write_text("in the way")
    result = CliRunner().invoke(app, ["run", "-o", "file/results"], catch_exceptions=False)
    assert result.exit_code == 2
    assert "cannot write to file/results" in result.output
    assert not (tmp_path / ".bench").exists()


RAISES = """
from latentbench.bench.api import Regularizer
from latentbench.bench.registry import register

@register("hopeful")
class Hopeful(Regularizer):
    pass

raise RuntimeError("no such device")
"""


def test_a_plugin_that_raises_on_import_is_named_with_its_cause_when_it_is_asked_for(tmp_path):
    (tmp_path / "plugin.py").write_text(RAISES)
    (tmp_path / "matrix.yaml").write_text(TINY.replace("  kl: {weight: 1.0e-3}", "  hopeful: {}"))
    refused = bench("plan", "--plugin", "plugin.py", cwd=tmp_path)
    assert refused.returncode == 2
    assert "matrix.yaml:13:3" in refused.stderr
    assert "RuntimeError: no such device" in refused.stderr and "plugin.py:9" in refused.stderr
    assert "Traceback" not in refused.stderr
    listed = bench("list", "regularizers", "--plugin", "plugin.py", cwd=tmp_path)
    assert listed.returncode == 0
    assert "hopeful" in listed.stdout and "no such device" in listed.stdout and "kl" in listed.stdout
    (tmp_path / "matrix.yaml").write_text(TINY)  # it hides only itself
    assert bench("plan", "--plugin", "plugin.py", cwd=tmp_path).returncode == 0
