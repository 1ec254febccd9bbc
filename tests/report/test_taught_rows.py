"""Numbers by a network that taught their row are marked in every table, by the network's weights."""

import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from helpers.fabricated_records import DISTANCE, metric, records
from helpers.run import TINY, bench_inline

from latentbench.bench.leaderboard.notes import prior_note
from latentbench.bench.leaderboard.results import Results
from latentbench.bench.records.files import read_records
from latentbench.bench.records.record import Record
from latentbench.bench.records.teachers import teachers
from latentbench.bench.report.dataframe import frame
from latentbench.bench.report.latex import latex
from latentbench.bench.report.markdown import markdown
from latentbench.bench.report.page import page
from latentbench.bench.report.summary import terminal_summary

WEIGHTS = DISTANCE["weights_sha256"]
NOTE = "† marks a number by a network that also taught the row (net), which may favour the row."


def taught(found, regularizer="repa", by=None):
    """The records as they are written today; `by` taught the rows of one regularizer."""
    by = {"net": [WEIGHTS]} if by is None else by
    return [
        replace(
            r, provenance=r.provenance | {"taught_by": by if r.cell["regularizer"] == regularizer else {}}
        )
        for r in found
    ]


def lines_with_signs(text):
    return [line for line in text.splitlines() if "†" in line and NOTE not in line]


def test_a_number_by_the_rows_teacher_is_marked_in_every_table():
    found = taught(records(guidances=(1.0,)))
    text = markdown(found, "made up")
    assert text.count(NOTE) == 3  # of the answer, of generation and of tokenizers
    signed = lines_with_signs(text)
    assert len(signed) == 3 + 3 + 1 and all("| repa" in line for line in signed)  # three generators
    tokenizers = signed[-1].split("|")
    assert "†" not in "".join(c for c, h in zip(tokenizers, _header(text), strict=True) if "PSNR" in h)
    assert "{\\textdagger}" in latex(found, "made up")
    html = page.html(found, [], "made up")
    assert NOTE in html and html.count("†") > 5
    assert NOTE in terminal_summary(found) and max(map(len, terminal_summary(found).splitlines())) <= 100
    table = frame(found)
    marked = table[table["judged_by_teacher"] != ""]
    assert set(marked["regularizer"]) == {"repa"} and set(marked["judged_by_teacher"]) == {"net"}


def _header(text):
    return text.split("## Tokenizers\n\n")[1].splitlines()[0].split("|")


@pytest.mark.parametrize("by", [{}, {"net": ["cd" * 32]}, {"net:96": ["cd" * 32], "net": ["ef" * 32]}])
def test_a_teacher_of_other_weights_marks_nothing_whatever_its_name(by):
    found = taught(records(guidances=(1.0,)), by=by)
    assert "†" not in markdown(found, "made up") + latex(found, "made up") + terminal_summary(found)
    assert "judged_by_teacher" not in frame(found)


def test_the_same_weights_are_marked_at_another_resolution_and_name():
    found = taught(records(guidances=(1.0,)), by={"the teacher at 96 pixels": [WEIGHTS]})
    assert NOTE in markdown(found, "made up")


def test_the_network_behind_a_reference_of_latents_is_no_judge():
    reference = {"use": "teacher", "features": DISTANCE}
    nll = metric(1.0, "tokenizer", "lower", 360, 0.1, random.Random(0), **{"reference": reference})
    found = [replace(r, metrics={"kNN_NLL": nll}) for r in taught(records(guidances=(1.0,))) if not r.real]
    assert "†" not in markdown(found, "made up")


def test_older_records_are_read_by_their_regularizer():
    old = records(regularizers=("none", "repa", "mine", "kl[weight=0.1]"), guidances=(1.0,))
    uses = [
        replace(r, provenance=r.provenance | {"uses": {"regularizer": "dmvae"}})
        if r.cell["regularizer"] == "mine"
        else r
        for r in old
    ]
    known = {r.cell["regularizer"]: teachers(r) for r in uses}
    assert known == dict.fromkeys(("none", "real", "kl[weight=0.1]"), frozenset()) | dict.fromkeys(
        ("repa", "mine"), frozenset({WEIGHTS})
    )


def test_committed_records_of_before_are_marked():
    known = {}
    for record in read_records(Path(__file__).parents[2] / "results/studies/fashion-mnist/records"):
        assert not record.provenance.get("taught_by")
        known.setdefault(record.cell["regularizer"].partition("[")[0], set()).update(teachers(record))
    assert {"repa", "dmvae", "flow_prior"} <= {name for name, digests in known.items() if digests}
    assert not any(known[name] for name in ("none", "kl", "lzn", "simflow", "real"))


def test_a_run_records_what_taught_each_row(tmp_path):
    text = TINY.replace("  kl: {weight: 1.0e-3}\n", "  repa: {}\n  dmvae: {critic_steps: 1}\n")
    text = re.sub("  lightningdit.*\n", "", text).replace("samples: 64", "samples: 16")
    text = text.replace("batch: 16", "prior_steps: 4, batch: 16")
    text = text.replace("digits}", "shapes, size: 8, count: {train: 48, val: 16}}")
    few = "{use: effnet_lite2, resolution: 32}, {use: effnet_lite0, resolution: 32}"
    text = text.replace("evaluators: [", "evaluators: [prior, ")
    text = re.sub("features: .*", f"features: [{few}]\nteacher: {{use: effnet_lite0, resolution: 64}}", text)
    (tmp_path / "matrix.yaml").write_text(text)
    ran = bench_inline("run", "--matrix", "matrix.yaml", "-o", "out", cwd=tmp_path, home=tmp_path / "home")
    assert ran.returncode == 0, ran.stderr
    found = {r.cell["regularizer"]: r for r in read_records(tmp_path / "out" / "records")}
    lite0 = found["none"].metrics["rFD[effnet_lite0:32]"]["protocol"]["features"]["weights_sha256"]
    assert found["none"].provenance["taught_by"] == found["real"].provenance["taught_by"] == {}
    for name in ("repa", "dmvae"):
        assert found[name].provenance["taught_by"] == {"effnet_lite0": [lite0]}
    shown = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "Features: effnet_lite2:32 " in shown and "Features: effnet_lite0" not in shown
    scores = {name: {m for m in r.metrics if m.startswith("prior_FD")} for name, r in found.items()}
    assert scores["none"] == scores["repa"] == scores["real"] == set()
    assert scores["dmvae"] == {f"prior_FD{which}" for which in ("", "_guided", "_gaussian", "_real")}
    table = pd.read_csv(tmp_path / "out" / "leaderboard.csv", keep_default_na=False)
    judged = dict(zip(table["regularizer"], table["judged_by_teacher"], strict=True))
    assert judged == {"none": "", "real": "", "repa": "effnet_lite0:32", "dmvae": "effnet_lite0:32"}


def prior(prior_values, gaussian_values, spread=0.1):
    """Rows of tokenizers with a prior that was judged, one for each seed."""
    found, rng = [], random.Random(0)
    for seed, (ours, gaussian) in enumerate(zip(prior_values, gaussian_values, strict=True)):
        cell = {"dataset": "d", "tokenizer": "vit", "regularizer": "dmvae", "generator": "gaussian"}
        metrics = {
            name: metric(value, "tokenizer", None, 360, spread, rng)
            for name, value in (("prior_FD", ours), ("prior_FD_gaussian", gaussian))
        }
        found.append(Record({**cell, "seed": str(seed)}, f"k{seed}", "done", None, metrics))
    return Results.of(found).tokenizers


def test_a_prior_that_a_gaussian_beats_is_named():
    text = (
        "These priors are farther from their reference than one fitted Gaussian is: vit dmvae "
        "(prior_FD 12.40, Gaussian 6.700)."
    )
    assert prior_note(prior([12.4], [6.7])) == text
    assert prior_note(prior([12.3, 12.4, 12.5], [6.8, 6.7, 6.6])) == text
    assert math.isclose(prior([12.3, 12.5], [1, 1])[0].mean(next(iter(prior([1], [1])[0].values))) or 0, 12.4)


@pytest.mark.parametrize(("ours", "gaussian"), [([6.7], [12.4]), ([6.71], [6.70]), ([7, 5, 8], [6, 6, 6])])
def test_a_prior_within_the_noise_of_a_gaussian_is_not(ours, gaussian):
    assert prior_note(prior(ours, gaussian)) == ""
