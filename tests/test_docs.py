"""Texts for users: links lead somewhere, blocks run, numbers are those of the committed tables."""

import importlib.util
import re

import pandas as pd
import pytest
from helpers.page_blocks import PageRun
from helpers.pages import ROOT, blocks, broken_links, pages, text_of
from helpers.run import TINY, bench_inline

README_WORDS, README_LINES = 1000, 150
WITH_BLOCKS = [
    page for page in pages() if re.search("^ *```(?:sh|bash|yaml|python)", text_of(page), re.MULTILINE)
]
SLOW = [page for page in WITH_BLOCKS if re.search("<!-- (?:needs:.*time|nightly)", text_of(page))]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache that all pages share."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("page", pages())
def test_every_link_of_a_page_leads_to_a_file_and_every_anchor_to_a_heading(page):
    assert not broken_links(page)


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_every_block_of_a_page_runs_or_is_marked(page, tmp_path, home):
    run_blocks(page, tmp_path, home, frozenset())


@pytest.mark.nightly
@pytest.mark.parametrize("page", SLOW)
def test_blocks_that_take_their_time_run_too(page, tmp_path, home):
    run_blocks(page, tmp_path, home, frozenset({"time"}))


def run_blocks(page, folder, home, allowed):
    run = PageRun(folder, home, allowed)
    for block in blocks(text_of(page), page):
        run.run(block)


def test_the_plugin_of_the_readme_runs_and_appears_in_the_table(tmp_path, home):
    (plugin,) = [b.text for b in blocks(text_of("README.md")) if "@register" in b.text]
    assert len(plugin.splitlines()) <= 25
    row = re.search(r"`regularizers: \{none: \{\}, (shell: \{.*?\})\}`", text_of("README.md")).group(1)
    (tmp_path / "shell.py").write_text(plugin, encoding="utf-8")
    text = TINY.replace("  none: {}\n  kl: {weight: 1.0e-3}", f"  {row}")
    text = text.replace("  lightningdit", "  # lightningdit")
    (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
    done = bench_inline("run", "--matrix", "my.yaml", "--plugin", "shell.py", cwd=tmp_path, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "results/tiny/leaderboard.csv")
    assert {"shell[weight=0.1]", "shell[weight=1]"} <= set(table.regularizer)
    assert "shell[weight=0.1]" in (tmp_path / "results/tiny/leaderboard.md").read_text(encoding="utf-8")


def test_the_readme_is_short_enough_to_be_read_to_its_end():
    text = text_of("README.md")
    assert len(text.splitlines()) <= README_LINES
    assert len(text.split()) <= README_WORDS


def test_the_reference_is_what_the_code_says():
    file = ROOT / "docs/make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", file)
    make_reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_reference)
    old = [
        name
        for name, make in make_reference.PAGES.items()
        if not (file.parent / "reference" / name).is_file() or text_of(f"docs/reference/{name}") != make()
    ]
    assert not old, f"out of date: {', '.join(old)}; run `{make_reference.COMMAND}`"
    assert {f"{name}" for name in make_reference.PAGES} == {
        f.name for f in (file.parent / "reference").glob("*.md")
    }


def test_every_study_is_linked_to_from_the_text_that_reads_it_and_every_table_that_it_names_is_there():
    text, studies = text_of("results/README.md"), ROOT / "results/studies"
    read = [text, *(page.read_text(encoding="utf-8") for page in studies.glob("*/README.md"))]
    for study in studies.glob("*/"):
        table = study / "leaderboard.md"
        page = table if table.exists() else study / "PLAN.md"  # of one that isn't run yet
        assert f"](studies/{study.name}/{page.name})" in text
    named = re.findall(r"`([\w/@*.-]+/[\w@*.-]+\.(?:csv|md|html|png))`", "\n".join(read))
    assert named
    for file in named:  # as seen from results/, or from the study that is read
        assert [*(ROOT / "results").glob(file), *studies.glob(f"*/{file}")], file
