"""Rows whose latents have collapsed or left their scale are flagged in every table."""

import io

import pandas as pd
import pytest

from latentbench.bench.leaderboard.collapse import collapse
from latentbench.bench.leaderboard.results import Results
from latentbench.bench.records.record import Record
from latentbench.bench.report.analysis.findings import all_of
from latentbench.bench.report.dataframe import frame
from latentbench.bench.report.latex import latex
from latentbench.bench.report.markdown import markdown
from latentbench.bench.report.page import page
from latentbench.bench.report.summary import terminal_summary


def entry(value, scope="tokenizer", better=None):
    about = {"about": "A metric.", "unit": "", "protocol": {}}
    return {"value": value, "n": 9, "scope": scope, "better": better, **about}


def records(rows):
    """{regularizer: metrics of each seed}, all with a PSNR and a distance of samples."""
    found = []
    for name, seeds in rows.items():
        for seed, metrics in enumerate(seeds):
            cell = {"dataset": "d", "tokenizer": "vit", "regularizer": name, "generator": "mar"}
            full = {key: entry(value) for key, value in metrics.items()}
            full |= {"PSNR": entry(20.0 + seed, better="higher")}
            full |= {"gFD[net]@1": entry(90.0 + seed + len(found), "generator", "lower")}
            found.append(Record({**cell, "seed": str(seed)}, "k", "done", metrics=full))
    return found


def reason(*seeds):
    return collapse(Results.of(records({"any": seeds})).tokenizers[0])


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ([{"latent_std": 0.5, "active_channels": 3.0}], ""),
        ([{"latent_std": 2.9}], ""),
        ([{}], ""),
        ([{"latent_std": 3.0}], "latents' standard deviation 3 times their reference's"),
        ([{"latent_std": 0.0}], "latents' standard deviation 0 times their reference's"),
        # What was measured comes before a reference of 1, and the row's own space before the matrix's.
        ([{"latent_std": 0.1, "latent_scale": 0.9}], ""),
        ([{"latent_scale": 9.0, "latent_scale_own": 1.0}], ""),
        ([{"active_channels": 0.0}, {"active_channels": 2.0}], "no active channel (in 1 of 2 seeds)"),
        # The deviation of latents without noise says how much of the drawn ones depends on the image.
        ([{"latent_std": 1.0, "latent_std_mean": 0.23}], ""),
        ([{"latent_std": 1.0, "latent_std_mean": 0.2}], "noise is 96 % of the latents' variance"),
        (
            [{"latent_std": 1.0, "latent_std_mean": std} for std in (0.1, 0.9)],
            "noise is 99 % of the latents' variance (in 1 of 2 seeds)",
        ),
        ([{"latent_std": 1.0, "latent_std_mean": 0.0}], "noise is 100 % of the latents' variance"),
    ],
)
def test_a_row_is_flagged_where_its_latents_left_the_scale_of_their_reference(seeds, expected):
    assert reason(*seeds) == expected


def test_every_table_flags_a_collapsed_row_with_its_reason():
    # The values of `flow_prior` on Fashion-MNIST.
    seeds = [{"latent_std": s, "active_channels": 0.0, "kNN_NLL": -0.4} for s in (0.0288, 0.03, 0.0289)]
    fine = [{"latent_std": 1.8, "active_channels": 16.0, "kNN_NLL": 1.7}] * 3
    found = records({"flow_prior": seeds, "none": fine})
    why = "latents' standard deviation 0.02880 times their reference's, no active channel"
    marked = "‡ marks rows whose latents have collapsed, left their scale or are nearly all noise"
    note = f"{marked}: flow_prior ({why})."
    text = markdown(found, "t", all_of(found))
    assert text.count(note) >= 2 and "| flow_prior ‡" in text and "none ‡" not in text
    assert r"flow\_prior {\textdaggerdbl}" in latex(found, "t")
    assert r"flow\_prior (latents' standard deviation 0.02880" in latex(found, "t")
    assert frame(found)["flag"].tolist() == [why, ""]
    assert pd.read_csv(io.StringIO(frame(found).to_csv()))["flag"][0] == why
    html = page.html(found, all_of(found), "t")
    assert "flow_prior ‡" in html and "0.02880 times their reference&#39;s, no active channel" in html
    summary = terminal_summary(found)
    assert "flow_prior ‡" in summary and "no active channel" in " ".join(summary.split())
    assert len(summary.splitlines()) <= 25 and max(map(len, summary.splitlines())) <= 100
    tables = [f.table for f in all_of(found) if "regularizer" in f.table]
    assert tables and all("flow_prior ‡" in set(table["regularizer"]) for table in tables)
