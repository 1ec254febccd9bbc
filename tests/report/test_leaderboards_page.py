"""The page of leaderboards: what shares a table, who made each row, and texts from strangers."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from helpers import fabricated_records
from helpers.run import bench_inline

from latentbench.bench.leaderboard.contributions import Contribution, read_contributions
from latentbench.bench.leaderboard.published import figures
from latentbench.bench.leaderboard.results import Results
from latentbench.bench.records.archive import pack
from latentbench.bench.records.files import RecordError, write_record
from latentbench.bench.report.page.leaderboards import html, write_leaderboards
from latentbench.bench.report.places import NotWritable

HOSTILE = "<script>alert(1)</script>\"' onload=x {{ 7 * 7 }}"


class Tables(HTMLParser):
    """The tables of a page by their captions, each row as the texts of its cells, and all tags."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.rows, self.cell, self.caption = {}, [], [], None, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag == "caption":
            self.caption = ""
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data + " "
        elif self.caption is not None and not self.rows:
            self.caption += data

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self.cell is not None:
            self.rows[-1].append(" ".join(self.cell.split()))
            self.cell = None
        elif tag == "table":
            self.tables[self.caption] = self.rows
            self.caption = None


def group(name, regularizers, contributor="", change=lambda record: record, **other):
    records = fabricated_records.records(regularizers, ("mar",), guidances=(1.0,), **other)
    return Contribution(name, contributor, Results.of([change(record) for record in records]))


def with_facts(**facts):
    return lambda record: replace(record, provenance=record.provenance | facts)


def other_protocol(record):
    for entry in record.metrics.values():
        if "features" in entry["protocol"]:
            entry["protocol"]["features"] = entry["protocol"]["features"] | {"resolution": 32}
    return record


def measured(contributions):
    """The rows of each table of measured numbers by header."""
    tables = Tables(html(contributions)).tables
    return [
        [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
        for caption, rows in tables.items()
        if not caption.startswith("Published")
    ]


def test_rows_of_two_groups_share_a_table_with_who_made_them_and_when():
    ours = group(
        "ours",
        ("kl", "none"),
        "Us",
        with_facts(date="2026-01-02", git_commit="a" * 40, latent={"tokens": 16, "channels": 4}),
    )
    theirs = group(
        "theirs", ("repa",), "", with_facts(date="2026-03-04", git_commit="b" * 40, git_dirty=True)
    )
    (table,) = measured([ours, theirs])
    by_name = {row["regularizer"]: row for row in table}
    assert list(by_name) == ["repa", "kl", "none"]  # best first: repa's latents are the easiest here
    assert by_name["kl"]["from"] == "Us ours" and by_name["repa"]["from"] == "theirs"
    assert by_name["kl"]["date, commit"] == "2026-01-02 aaaaaaa"
    assert by_name["repa"]["date, commit"] == "2026-03-04 bbbbbbb, not committed"
    assert by_name["kl"]["latent"] == "16 tokens × 4" and by_name["repa"]["latent"] == "–"
    assert {row["seeds"] for row in table} == {"3"} and {row["parameters"] for row in table} == {"0.3000 M"}
    score = next(name for name in table[0] if re.fullmatch(r"gFD ↓ net n 1,437 [0-9a-f]{6}", name))
    assert re.fullmatch(r"(≈ )?\d+\.?\d* ± \d+\.?\d*( †)?", by_name["repa"][score])
    assert all(row["rank"] for row in table)


@pytest.mark.parametrize(
    "change",
    [other_protocol, with_facts(budget={"tokenizer_steps": 400, "generator_steps": 70_000, "batch": 64})],
)
def test_another_protocol_or_budget_is_ranked_apart(change):
    found = measured([group("ours", ("kl", "none")), group("theirs", ("kl", "none"), change=change)])
    assert [{row["from"] for row in table} for table in found] in (
        [{"ours"}, {"theirs"}],
        [{"theirs"}, {"ours"}],
    )
    assert all([row["rank"][0] for row in table] == ["1", "1"] or table[0]["rank"] == "1" for table in found)


def test_the_same_labels_of_two_groups_stay_two_rows():
    (table,) = measured([group("ours", ("kl",)), group("theirs", ("kl",))])
    assert [row["from"] for row in table] == ["ours", "theirs"] and len(table) == 2


def test_published_numbers_stand_apart_and_are_all_there():
    text = html([group("ours", ("kl",))])
    tables = {name: rows for name, rows in Tables(text).tables.items() if name.startswith("Published")}
    numbers = [cell for rows in tables.values() for row in rows[1:] for cell in row[1:-1] if cell]
    assert len(numbers) == len(figures())
    assert sorted(map(float, numbers)) == sorted(float(f"{one.value:g}") for one in figures())
    assert not any("rank" in rows[0] for rows in tables.values())


def hostile(record):
    cell = record.cell | {"tokenizer": HOSTILE, "regularizer": f"\x1b]0;x\x07\u202e{HOSTILE}" + "y" * 9000}
    cell = record.cell if record.real else cell
    facts = {"date": HOSTILE, "git_commit": "</style>", "budget": {"tokenizer_steps": HOSTILE}}
    metrics = {
        name.replace("gFD[", "gFD\x1b["): entry
        | {"protocol": entry["protocol"] | {"\x1b[2J": f"\x9b{HOSTILE}"}}
        for name, entry in record.metrics.items()
    }
    return replace(
        record, cell=cell, metrics=metrics, provenance=record.provenance | facts | {"latent": HOSTILE}
    )


def test_texts_from_strangers_are_only_texts(tmp_path):
    safe = group("ours", ("kl", "none"))
    tags = [tag for tag, _ in Tables(html([safe])).tags]
    found = group("x", ("kl", "none"), change=hostile)
    for record in found.results.records:
        write_record(tmp_path / "records", record)
    (tmp_path / "submission.json").write_text('{"contributor": "<img src=x onerror=alert(1)>\\u0000"}')
    contributions = read_contributions([tmp_path], ["</title><script>"])
    text = html(contributions)
    page = Tables(text)
    assert (
        sorted(set(tag for tag, _ in page.tags)) == sorted(set(tags))
        and [t for t, _ in page.tags].count("script") == 1
    )
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert (
        not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
        and "\u202e" not in text
        and "y" * 300 not in text
    )
    assert "&lt;img src=x onerror=alert(1)&gt;" in text and "49" not in re.findall(r"load=x ([^<]*)", text)


@pytest.mark.parametrize(
    "entry",
    [
        {"value": True},
        {"n": "360"},
        {"n": [1]},
        {"replicates": ["1", "2"]},
        {"replicates": [1e301, 1.0]},
    ],
)
def test_numbers_that_are_none_are_refused_by_name(tmp_path, entry):
    record = fabricated_records.records(("kl",), ("mar",), ("0",))[1]
    changed = replace(record, metrics=record.metrics | {"PSNR": record.metrics["PSNR"] | entry})
    write_record(tmp_path / "records", changed)
    with pytest.raises(RecordError, match="theirs: digits--vit--kl--mar--0.json: PSNR"):
        read_contributions([tmp_path], ["theirs"])


@pytest.mark.parametrize("curves", [{"guidance": {"w": []}}, {"guidance": {"w": [1], "samples": []}}])
def test_curves_that_make_no_row_are_refused_by_name(tmp_path, curves):
    record = fabricated_records.records(("kl",), ("mar",), ("0",))[1]
    write_record(tmp_path / "records", replace(record, curves=curves))
    with pytest.raises(RecordError, match="theirs: no table can be made of its records"):
        read_contributions([tmp_path], ["theirs"])


def test_another_page_is_not_replaced(tmp_path):
    (tmp_path / "x.html").write_text("<p>mine")
    with pytest.raises(NotWritable, match="would be replaced"):
        write_leaderboards(tmp_path / "x.html", [group("ours", ("kl",))])


def test_the_command_line_reads_folders_and_archives(tmp_path):
    files = {}
    for record in group("ours", ("kl",)).results.records:
        path = write_record(tmp_path / "ours" / "records", record)
        files[f"records/{path.name}"] = path.read_bytes()
    for path in (tmp_path / "ours" / "records" / "metrics").iterdir():
        files[f"records/metrics/{path.name}"] = path.read_bytes()
    (tmp_path / "group-b.zip").write_bytes(
        pack("results", files | {"submission.json": b'{"contributor": "B"}'})
    )
    done = bench_inline("leaderboards", "ours", "group-b.zip", "-o", "all.html", cwd=tmp_path)
    assert done.returncode == 0 and "all.html" in done.stdout, done.stderr
    tables = Tables((tmp_path / "all.html").read_text()).tables
    rows = next(rows for name, rows in tables.items() if name.startswith("digits"))
    assert [row[-1] for row in rows[1:]] == ["ours", "B group-b"]
    missing = bench_inline("leaderboards", "nowhere", cwd=tmp_path)
    assert missing.returncode == 2 and "no records in nowhere" in missing.stderr
