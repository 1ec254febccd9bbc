"""The index of results folders: a card for each, links that open from disk, and nobody's file replaced."""

import shutil
from urllib.parse import unquote

import pytest
from helpers.fabricated_records import records
from helpers.run import bench_inline

from latentbench.bench.records.files import RecordError, write_record
from latentbench.bench.report.page.index import results_folders, write_index
from latentbench.bench.report.places import NotWritable

FEW = {"generators": ("mar", "tarflow"), "guidances": (1.0,), "seeds": ("0", "1", "2")}


def study(folder, *regularizers, report="leaderboard.html"):
    for record in records(regularizers or ("none", "repa"), **FEW):
        write_record(folder / "records", record)
    if report:
        (folder / report).write_text("a page")
    return folder


@pytest.fixture
def root(tmp_path):
    for name in ("b", "a 10", "a 9", "deeper/c", ".hidden/d", "b/set-aside/1"):
        study(tmp_path / name)
    (tmp_path / "empty/records").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    return tmp_path


def links(text):
    return [unquote(part.split('"')[0]) for part in text.split('href="')[1:] if not part.startswith("data:")]


def test_every_folder_has_a_card_and_a_link_that_leads_to_its_report(root):
    assert [place.relative_to(root).as_posix() for place in results_folders(root)] == [
        "a 9",
        "a 10",
        "b",
        "deeper/c",
    ]
    file = write_index(root)
    found = links(file.read_text())
    assert found == [f"{name}/leaderboard.html" for name in ("a 9", "a 10", "b", "deeper/c")]
    assert all((root / link).is_file() for link in found)
    assert file.read_text().count('class="card"') == 4


def test_a_card_says_the_answer_the_date_and_the_seeds(root):
    text = write_index(root).read_text()
    assert text.count("By gFD[net], mar works best with repa") == 4
    assert text.count("2026-01-01") == 4 and text.count("12 cells, 3 seeds") == 4
    assert "<script" not in text and "http" not in text.split("</head>")[1]


def test_the_index_is_the_same_when_it_is_made_twice_and_where_it_is_moved_to(root, tmp_path_factory):
    before = write_index(root).read_bytes()
    assert write_index(root).read_bytes() == before
    moved = tmp_path_factory.mktemp("elsewhere") / "results"
    shutil.copytree(root, moved)
    assert write_index(moved).read_bytes() == before


def test_a_folder_without_a_page_links_to_its_table_or_says_how_to_make_one(tmp_path):
    study(tmp_path / "table", report="leaderboard.md")
    study(tmp_path / "bare", report="")
    text = write_index(tmp_path).read_text()
    assert links(text) == ["table/leaderboard.md"] and "bench report bare" in text


def test_names_cannot_become_markup(tmp_path):
    study(tmp_path / "<b>&", "<i>x</i>", "none")
    text = write_index(tmp_path).read_text()
    assert "<i>" not in text and "<b>" not in text
    assert links(text) == ["<b>&/leaderboard.html"]


def test_a_page_of_somebody_else_is_kept(root):
    (root / "index.html").write_text("my homepage")
    with pytest.raises(NotWritable, match=r"index\.html is no index of results"):
        write_index(root)
    assert (root / "index.html").read_text() == "my homepage"


def test_where_there_are_no_results_the_folder_is_named(tmp_path):
    with pytest.raises(RecordError, match=f"no results folder below {tmp_path}"):
        write_index(tmp_path)


def test_the_command_writes_it_and_refuses_what_it_would_ignore(root):
    done = bench_inline("report", ".", "--index", cwd=root)
    assert done.returncode == 0 and "index.html" in done.stdout and (root / "index.html").is_file()
    for words in (("a 9", "b"), (".", "-o", "x")):
        done = bench_inline("report", *words, "--index", cwd=root)
        assert done.returncode == 2 and "--index takes one folder" in done.stderr
    done = bench_inline("report", "b", "--index", cwd=root)
    assert done.returncode == 2 and "no results folder below b" in done.stderr
