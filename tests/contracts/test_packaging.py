"""A built package: it has the root's matrix as the preset `digits`, and every other file that is read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTS = """
from latentbench.bench.matrix.yaml_text import find, packaged
from latentbench.bench import __file__ as bench
print(bench, find("digits"), *packaged(), sep="\\n")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What setuptools puts into a wheel."""
    folder = tmp_path_factory.mktemp("built")
    build = ["build_py", "--build-lib", str(folder), "egg_info", "--egg-base", str(folder)]
    words = [sys.executable, "-W", "ignore", "setup.py", "-q", *build]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_preset_digits_is_the_matrix_of_the_repository(built, tmp_path):
    copy = built / "latentbench/matrix.yaml"
    assert copy.read_bytes() == (ROOT / "matrix.yaml").read_bytes()
    variables = os.environ | {"PYTHONPATH": str(built)}
    words = [sys.executable, "-c", LISTS]
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True)
    bench, digits, *names = done.stdout.split("\n")
    assert (bench, digits) == (str(built / "latentbench/bench/__init__.py"), str(copy)), done.stderr
    assert {"digits", "lab2d", "imagenet256"} < set(names)


def test_a_built_package_has_all_that_a_checkout_has(built):
    kinds = (".py", ".yaml", ".html", ".css", ".js", ".typed")
    for folder in ("bench", "regularizers", "tokenizers", "generators", "evaluators"):
        ours = {file.relative_to(ROOT) for file in (ROOT / folder).rglob("*") if file.suffix in kinds}
        theirs = (built / "latentbench" / folder).rglob("*")
        assert ours == {file.relative_to(built / "latentbench") for file in theirs if file.suffix in kinds}


def test_a_package_has_its_licence_and_notices_and_its_sources_what_a_project_has(built):
    facts = (built / "latentbench.egg-info/PKG-INFO").read_text(encoding="utf-8")
    assert {"License-File: LICENSE", "License-File: THIRD_PARTY.md"} <= set(facts.splitlines())
    sources = (built / "latentbench.egg-info/SOURCES.txt").read_text(encoding="utf-8").splitlines()
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "THIRD_PARTY.md", "matrix.yaml"} <= set(sources)
    assert not [file for file in sources if file.startswith(("docs/", "results/"))]


def test_a_checkout_has_the_preset_too():
    from latentbench.bench.matrix.yaml_text import find, packaged

    assert find("digits").samefile(ROOT / "matrix.yaml")
    assert packaged()["digits"] == (ROOT / "matrix.yaml").read_text(encoding="utf-8").split("\n")[0].strip(
        "# "
    )
