"""The files that a project has: citation, changelog, templates, and what of others is shipped."""

import re
import tomllib

import pytest
import yaml
from helpers.pages import ROOT, text_of

import latentbench.bench as lb

PROJECT = tomllib.loads(text_of("pyproject.toml"))["project"]
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md"))


def test_the_version_is_the_same_in_the_package_the_project_the_citation_and_the_changelog():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["version"] == PROJECT["version"] == lb.__version__
    assert f"\n## [{lb.__version__}]" in text_of("CHANGELOG.md")


def test_the_citation_has_what_its_schema_asks_for():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert all(citation[key] for key in ("message", "title", "authors"))
    assert citation["license"] == PROJECT["license"]["text"] == text_of("LICENSE").split()[0]


def test_the_citation_is_valid_by_its_schema():
    cffconvert = pytest.importorskip("cffconvert", reason="cffconvert isn't installed")
    cffconvert.Citation(text_of("CITATION.cff")).validate()


def test_the_changelog_has_versions_from_the_latest_on_and_the_kinds_of_keep_a_changelog():
    text = text_of("CHANGELOG.md")
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    numbers = [tuple(map(int, version.split("."))) for version in versions[1:]]
    assert numbers == sorted(numbers, reverse=True)
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= KINDS


def test_every_template_of_an_issue_has_a_name_and_says_what_it_is_for():
    assert {file.stem for file in TEMPLATES} >= {"bug", "new-method", "new-row"}
    for file in TEMPLATES:
        _, head, body = file.read_text(encoding="utf-8").split("---\n", 2)
        assert {"name", "about"} <= yaml.safe_load(head).keys() and body.strip()


def test_files_that_templates_name_are_there():
    for file in (*TEMPLATES, ROOT / ".github/pull_request_template.md"):
        for name in re.findall(r"\b(?:docs|bench|results)/[\w/-]+\.\w+", file.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{file.name}: {name}"


def test_the_images_of_every_committed_study_have_their_source_and_licence():
    text = text_of("THIRD_PARTY.md")
    for study in (ROOT / "results/studies").glob("*/"):
        assert f"`{study.name}`" in text, study.name


def test_files_of_code_that_texts_name_are_there():
    for page in ("THIRD_PARTY.md", "AGENTS.md"):
        named = re.findall(r"`((?:bench|tokenizers|tests|regularizers)/[\w/]+\.\w+)`", text_of(page))
        assert named and not [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
