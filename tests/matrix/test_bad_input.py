"""Bad input ends with exit code 2 and a sentence with file, line and column; nothing is written."""

import os
import re

import pytest
from helpers.run import TINY, bench
from typer.testing import CliRunner

from latentbench.bench.cli import app


def replaced(old, new):
    assert old in TINY
    return TINY.replace(old, new)


CASES = {
    "a misspelt part": (replaced("  kl:", "  kll:"), "13:3", "unknown regularizer 'kll'; did you mean 'kl'?"),
    "a misspelt option": (replaced("{weight:", "{weigth:"), "13:8", "weigth"),
    "a misspelt key": (replaced("seeds:", "seedz:"), "3:1", "did you mean 'seeds'?"),
    "text for a number": (replaced("weight: 1.0e-3", "weight: heavy"), "13:16", "heavy"),
    "a number out of range": (
        replaced("depth: 1, heads: 2, patch", "depth: 0, heads: 2, patch"),
        "10:27",
        "not 0",
    ),
    "an empty axis": (replaced("weight: 1.0e-3", "weight: []"), "13:16", "weight"),
    "a duplicate key": (TINY + "samples: 32\n", "18:1", "samples"),
    "broken YAML": (replaced("[reconstruction,", "[reconstruction,,["), "17:", ""),
    "a list at the top": ("- name: tiny\n", "1:1", "mapping"),
    "a scalar at the top": ("tiny\n", "1:1", "mapping"),
    "an alias": (replaced("seeds: [0]", "seeds: &s [0]"), "3:8", "anchor"),
    "a combination that a constructor refuses": (replaced("patch: 4", "patch: 3"), "10:3", "3"),
}


def messages(folder, *more):
    result = CliRunner().invoke(app, ["run", "--matrix", "matrix.yaml", *more], catch_exceptions=False)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert not (folder / "results").exists() and not (folder / ".bench").exists()
    return result.output


@pytest.mark.parametrize("case", CASES)
def test_a_bad_matrix_is_refused_at_its_line_and_nothing_is_written(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, place, words = CASES[case]
    (tmp_path / "matrix.yaml").write_text(text)
    said = messages(tmp_path)
    assert f"matrix.yaml:{place}" in said
    assert words in said


def test_bytes_that_are_no_text_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matrix.yaml").write_bytes(b"name: \xff\xfe\x00\n")
    assert re.search(r"matrix\.yaml:1:\d+", messages(tmp_path))


def test_all_errors_come_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = replaced("  kl: {weight: 1.0e-3}", "  kll: {}\n  kl: {weigth: 1}").replace(
        "samples: 64", "samples: -1"
    )
    (tmp_path / "matrix.yaml").write_text(text)
    said = messages(tmp_path)
    assert all(word in said for word in ("'kll'", "weigth", "samples", "3 problems"))


def test_a_missing_file_an_unknown_profile_and_a_bad_filter_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "matrix.yaml" in messages(tmp_path)
    (tmp_path / "matrix.yaml").write_text(TINY + "profiles: {smoke: {samples: 32}}\n")
    assert "did you mean 'smoke'?" in messages(tmp_path, "--profile", "smok")
    assert "did you mean 'generator'?" in messages(tmp_path, "--filter", "generatr=mar")
    assert "no cell matches" in messages(tmp_path, "--filter", "generator=mar")
    assert "-j" in messages(tmp_path, "-j", "many")


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
