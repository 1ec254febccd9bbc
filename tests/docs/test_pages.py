"""What the tests of pages find: broken links, blocks without a mark, commands and matrices that are wrong."""

import time
from contextlib import suppress

import pytest
from helpers import pages
from helpers.page_blocks import PageRun, fault_of, simple_commands, within
from helpers.pages import Block, anchors, blocks, broken_links, links


def test_links_are_those_of_text_pictures_and_html_and_not_those_of_code():
    text = (
        "[a](a.md#x) ![b](b.png) `[c](c.md)` <img src='d.png'> [e][f]\n\n```\n[g](g.md)\n```\n\n"
        "| [h](h.md) |\n|---|\n| [i](i.md) |\n\n[f]: f.md\n"
    )
    assert [*links(text)] == ["a.md#x", "b.png", "d.png", "f.md", "h.md", "i.md"]


def test_anchors_are_those_of_code_hosts():
    text = "# A `b_c` & d!\n\n## Twice\n\n## Twice\n\n### Straße – ü\n\n<a id='own'></a>\n"
    assert anchors(text) == {"a-b_c--d", "twice", "twice-1", "straße--ü", "own"}


def test_links_to_missing_files_to_missing_headings_and_out_of_the_repository_are_broken(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(pages, "ROOT", tmp_path / "root")
    (tmp_path / "root/docs").mkdir(parents=True)
    (tmp_path / "outside.md").write_text("x", encoding="utf-8")
    (tmp_path / "root/b c.md").write_text("# Here\n", encoding="utf-8")
    right = "[1](../b%20c.md#here) [2](#top) [3](https://x.org/y) [4](mailto:a@b.c) [5](../docs)"
    wrong = "[1](c.md) [2](../b%20c.md#there) [3](#bottom) [4](../../outside.md)"
    page = tmp_path / "root/docs/a.md"
    page.write_text(f"# Top\n\n{right}\n\n{wrong}\n", encoding="utf-8")
    assert broken_links("docs/a.md") == ["c.md", "../b%20c.md#there", "#bottom", "../../outside.md"]


def test_marks_are_read_from_the_lines_before_a_block():
    text = (
        "```sh\na\n```\n\n<!-- needs: data, time -->\n<!-- file: x.py -->\n```python\nb\n```\n\n"
        "<!-- fragment -->\n```yaml\nc\n```\n\n```text\nd\n```\n\n"
        "- e\n\n  <!-- needs: gpu -->\n  ```bash\n  f\n  ```\n"
    )
    found = blocks(text, "p.md")
    assert found == [
        Block("p.md", 1, "sh", "a\n"),
        Block("p.md", 7, "python", "b\n", frozenset({"data", "time"}), False, "x.py"),
        Block("p.md", 12, "yaml", "c\n", fragment=True),
        Block("p.md", 23, "sh", "f\n", frozenset({"gpu"})),
    ]


def test_all_blocks_of_a_nightly_page_need_time():
    text = "# Long\n\n<!-- nightly -->\n\n```sh\na\n```\n\n<!-- needs: gpu -->\n```sh\nb\n```\n"
    assert [block.needs for block in blocks(text)] == [{"time"}, {"time", "gpu"}]
    assert not blocks(text.replace("<!-- nightly -->", "`<!-- nightly -->`"))[0].needs


@pytest.mark.parametrize("mark", ["<!-- needs: money -->", "<!-- need: data -->", "<!-- fragments -->"])
def test_a_mark_that_nothing_reads_is_an_error(mark):
    with pytest.raises(ValueError, match=r"p\.md:"):
        blocks(f"{mark}\n```sh\na\n```\n", "p.md")


def test_simple_commands_are_split_at_lines_and_ands_and_anything_else_is_a_script():
    assert simple_commands("bench plan -k 'a|b' \\\n  --json  # why\n\npip install x && bench list") == [
        ["bench", "plan", "-k", "a|b", "--json"],
        ["pip", "install", "x"],
        ["bench", "list"],
    ]
    for script in (
        "for f in a; do bench list; done",
        "export A=1\nbench list",
        "bench list | head",
        "X=1 bench list",
    ):
        assert simple_commands(script) is None


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("bench run --matrix m.yaml --profile smoke", None),
        ("bench merge a b -o c --allow versions", None),
        ("bench run --help", None),
        ("bench --version", None),
        ("torchrun --standalone --nproc_per_node 8 -m latentbench.bench.cli run --device cuda", None),
        ('pip install -e ".[cpu,test]"', None),
        ("bench rnu", "no command 'rnu'"),
        ("bench run --matrx m.yaml", "--matrx"),
        ("bench merge a b", "-o"),
        ("torchrun -m latentbench.bench.cli run --gpu", "--gpu"),
        ('pip install -e ".[cpu,tests]"', "no extra tests"),
    ],
)
def test_commands_that_don_t_run_are_read_for_what_they_name(command, fault):
    (words,) = simple_commands(command)
    found = fault_of(words)
    assert (found is None) if fault is None else (fault in found)


MATRIX = """\
dataset: digits
features: effnet_lite0
tokenizers: {vit: {}}
regularizers: {none: {}}
generators: {gaussian: {}}
evaluators: [reconstruction]
"""


@pytest.mark.parametrize(
    ("language", "text", "marks", "fault"),
    [
        ("yaml", MATRIX, {}, None),
        ("yaml", MATRIX + "smaples: 10\n", {}, "smaples"),
        ("yaml", MATRIX.replace("vit: {}", "vit: {patch: 3}"), {}, "patch 3 does not divide"),
        ("yaml", "regularizers: {kl: {}}\n", {}, "mark it as"),
        ("yaml", "regularizers: {kl: {}}\n", {"fragment": True}, None),
        ("yaml", "regularizers: {kl: {wieght: 1}}\n", {"fragment": True}, "wieght"),
        ("yaml", "regularizers: {kl: {wieght: …}}\n", {"fragment": True}, None),
        ("yaml", "a: [1\n", {"fragment": True}, "expected"),
        ("python", "assert 1 == 2\n", {}, ""),
        ("python", "assert 1 == 2\n", {"needs": frozenset({"time"})}, None),
        ("python", "def f(:\n", {"needs": frozenset({"time"})}, ""),
        ("sh", "bench plan --matrix none.yaml\n", {}, "none.yaml"),
        ("sh", "cat matrix.yaml\nbench list\n", {}, None),
        ("sh", "false\n", {}, "p.md:1"),
        ("sh", "pip install nothing-of-that-name | cat\nX=1 bench --version\n", {}, None),
    ],
)
def test_a_block_that_is_wrong_fails_and_a_mark_has_it_only_read(tmp_path, language, text, marks, fault):
    run = PageRun(tmp_path, tmp_path / "home")
    block = Block("p.md", 1, language, text, **marks)
    if fault is None:
        run.run(block)
        return
    with pytest.raises(BaseException) as found:
        run.run(block)
    assert fault in str(found.value)


def test_a_script_runs_by_its_command_alone_and_is_no_plugin_of_a_matrix(tmp_path):
    run = PageRun(tmp_path, tmp_path / "home")
    run.run(Block("p.md", 1, "python", "import pathlib\npathlib.Path('made').mkdir()\n", file="make.py"))
    run.run(Block("p.md", 2, "yaml", MATRIX, file="m.yaml"))
    assert not (tmp_path / "made").exists() and (tmp_path / "m.yaml").read_text() == MATRIX
    run.run(Block("p.md", 3, "sh", "python make.py\n"))
    assert (tmp_path / "made").is_dir()


def test_blocks_go_on_with_the_names_and_files_of_those_before_them(tmp_path):
    run = PageRun(tmp_path, tmp_path / "home")
    run.run(Block("p.md", 1, "python", "x = 1\n"))
    run.run(Block("p.md", 2, "python", "x = 2\n", file="y.py"))
    run.run(
        Block("p.md", 3, "python", "import pathlib\nassert x == 1\npathlib.Path('z').write_text(str(x))\n")
    )
    run.run(Block("p.md", 4, "sh", "cat y.py z\n"))


def test_a_block_ends_with_its_time_although_a_run_makes_failed_cells_of_exceptions():
    began = time.monotonic()
    with pytest.raises(AssertionError, match="mark it"), within(1, "mark it"):
        while True:
            with suppress(Exception):
                time.sleep(60)
    assert time.monotonic() - began < 30
