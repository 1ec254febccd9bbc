"""Numbers in texts about committed studies are those of the study that the text has named last."""

import re
from functools import cache

import pandas as pd
import pytest
from helpers.pages import ROOT, pages, text_of

TEXTS = [page for page in pages() if not page.startswith("docs/reference/")]
NUMBER = r"[−-]?\d[\d,]*(?:\.\d+)?"
UNITS = (1, 100, -1)  # as in the table, in percent, or with the other sign
COLUMNS = {"gFD": "gFD", "PSNR": "PSNR", "rFD": "rFD", "class accuracy": "class_accuracy"}  # by their labels


@cache
def leaderboard(study):
    return pd.read_csv(ROOT / "results/studies" / study / "leaderboard.csv")


def without_code(text):
    """The text without blocks of code, whose numbers are what a command has printed; places stay."""
    return re.sub(r"(?ms)^( *)```.*?^\1```", lambda block: " " * len(block[0]), text)


def study_before(page, text, place):
    """The study that a text has named last before a place; its own page names it by its folder."""
    named = re.findall(r"studies/([\w-]+)", page + text[:place])
    assert named, f"no `results/studies/NAME` is named before {text[place : place + 40]!r}"
    return named[-1]


def agree(written, values, unit):
    """Which values are a written number, up to its last digit."""
    plain = written.replace(",", "").replace("−", "-")
    return abs(values * unit - float(plain)) <= 0.5001 * 10.0 ** -len(plain.partition(".")[2])


def holds(table, names, mean, spread):
    """Whether a metric has this mean in some row of a table, and this spread if one is written."""
    means, spreads = (table[[name + end for name in names]].to_numpy(float) for end in ("", "_std"))
    return any(
        (agree(mean, means, unit) & (spread is None or agree(spread, spreads, abs(unit)))).any()
        for unit in UNITS
    )


def metrics(table):
    return [name.removesuffix("_n") for name in table.columns if name.endswith("_n")]  # `latent_std` is one


def metric_of(label, table, before):
    """The column of a metric; of several networks' the one that the text has named last."""
    found = [name for name in metrics(table) if name.partition("[")[0] == COLUMNS[label]]
    return max(found, key=lambda name: before.rfind(f"`{name.partition('[')[2].rstrip(']')}`"))


def cells(text):
    """Cells of tables whose columns are regularizers: place, metric's label, generator, regularizer, cell."""
    for block in re.finditer(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in block[0].splitlines()]
        if lines[0][0] != "generator":
            continue
        regularizers = [re.search("`(.+)`", cell)[1] for cell in lines[0][1:]]
        label = "gFD"
        for head, *row in lines[2:]:
            name, _, generator = head.rstrip("`").partition("`")
            label = label if name.strip() == "…" else name.split(",")[0].strip() or "gFD"
            for regularizer, cell in zip(regularizers, row, strict=True):
                yield block.start(), label, generator, regularizer, cell


@pytest.mark.parametrize("name", TEXTS)
def test_every_mean_with_its_spread_is_in_the_leaderboard_of_the_study(name):
    text, missing = without_code(text_of(name)), []
    for match in re.finditer(f"({NUMBER}) ± ({NUMBER})", text):
        table = leaderboard(study := study_before(name, text, match.start()))
        if not holds(table, metrics(table), *match.groups()):
            missing.append(f"{study}: {match[0]}")
    assert not missing


@pytest.mark.parametrize("name", TEXTS)
def test_tables_hold_the_values_and_ranks_of_the_study_s_ranked_rows(name):
    text, wrong = without_code(text_of(name)), []
    for place, label, generator, regularizer, cell in cells(text):
        table = leaderboard(study := study_before(name, text, place))
        rows = table[(table.regularizer == regularizer) & table.rank_low.notna()]
        rows = rows[rows.generator == generator] if generator else rows
        written = re.fullmatch(rf"\**({NUMBER})(?: ± ({NUMBER}))?\**(?: \((\d+)(?:–(\d+))?\))?", cell)
        if not written:
            right = cell == "–" and rows.empty
        else:
            mean, spread, low, high = written.groups()
            right = holds(rows, [metric_of(label, table, text[:place])], mean, spread)
            ranks = (float(low), float(high or low)) if low else None
            right &= ranks in (None, *zip(rows.rank_low, rows.rank_high, strict=True))
        if not right:
            wrong.append(f"{study}: {label} {generator} {regularizer} {cell}")
    assert not wrong


def test_the_texts_that_read_the_studies_quote_tables():
    assert all([*cells(text_of(name))] for name in ("README.md", "results/studies/digits/README.md"))
