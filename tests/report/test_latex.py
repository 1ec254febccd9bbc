"""The LaTeX tables: marks, escapes and protocols in place, and a document that compiles."""

import random
import re
import shutil
import subprocess

import pytest
from helpers import fabricated_records

from latentbench.bench.records.record import Record
from latentbench.bench.report.latex import NOT_FID, escape, latex


def matrix(values, name="gFD[net]@1", labels=str, better="lower"):
    found = []
    for label, mine in values.items():
        for seed, value in enumerate(mine):
            cell = {"dataset": "digits", "tokenizer": "vit", "regularizer": labels(label), "generator": "mar"}
            scope = "generator" if "@" in name else "tokenizer"
            entry = {"value": value, "n": 9, "protocol": {"k": 5}, "scope": scope, "better": better}
            found.append(Record({**cell, "seed": str(seed)}, "k", "done", None, {name: entry}))
    return found


def rows(text):
    """The cells of each line between the rules."""
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    return [line.removesuffix(r" \\").split(" & ") for line in body.strip().splitlines()]


def test_the_winner_that_is_separable_is_bold_and_a_tie_has_its_marks():
    far = rows(latex(matrix({"a": (10, 11, 12), "b": (50, 51.2, 51.9)}), "t"))
    assert [line[2:5] for line in far] == [["a", "1", "1"], ["b", "1", "2"]]
    assert far[0][5] == r"\textbf{11.0 \ensuremath{\pm} 1.0}" and "bf" not in far[1][5]
    near = rows(latex(matrix({"a": (10, 14, 12), "b": (13, 11, 12.6), "c": (90, 93, 91)}), "t"))
    assert [line[4] for line in near] == ["1--2", "1--2", "3"]
    assert [line[5].startswith(r"$\approx$") for line in near] == [True, True, False]
    assert not any("bf" in line[5] for line in near)


def test_a_table_says_its_protocol_and_that_another_distance_is_not_fid():
    text = latex(matrix({"a": (10, 11), "b": (50, 52)}), "t")
    assert re.search(r"gFD\[net\]: \\texttt\{[0-9a-f]{6}\} \(n 9, k 5\)\. " + NOT_FID, text)
    assert NOT_FID not in latex(matrix({"a": (10, 11), "b": (50, 52)}, "PSNR", better="higher"), "t")
    assert r"gFD $\downarrow$" in text


def test_one_seed_has_neither_spread_nor_bold_face():
    text = latex(matrix({"a": (10,), "b": (50,)}), "t")
    assert "One seed: no spread." in text and "textbf" not in text and r"ensuremath{\pm}" not in text


def test_all_rows_of_a_table_have_as_many_cells_as_its_head():
    text = latex(fabricated_records.records(), "made up")
    tables = re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) == 3 + 1  # more rows than a page holds: one a generator, and the tokenizers
    for columns, body in tables:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}


@pytest.mark.parametrize("text", ["a_b & 5% #1 $x$ {z} \\ ~ ^", "[x]*", "λ=0.1 – µ漢", "a\nb <i>"])
def test_labels_lose_their_meaning_to_latex(text):
    escaped = escape(text)
    assert escaped.isascii() and "\n" not in escaped
    assert not re.search(r"(?<!\\)[_&%#$]", escaped)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_the_tables_compile_whatever_labels_are_made_of(tmp_path):
    names = ["[x] & y", "*a_b", "100% #1 $m^2$ {z} \\end{document} ~", 'λ=0.1 – µ漢 <i>|"q"|']
    drawn = random.Random(0)
    values = {name: tuple(drawn.gauss(100, 5) for _ in range(3)) for name in names}
    tables = [latex(fabricated_records.records(), "made_up & so on"), latex(matrix(values), "100%")]
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "t.tex").write_text("\n".join([head, *tables, r"\end{document}"]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
    log = (tmp_path / "t.log").read_text(errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert "Overfull" not in log and "too large" not in log
