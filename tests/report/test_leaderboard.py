"""The leaderboard: hand-computed numbers, protocols kept apart, and the same bytes from the same records."""

import io
import math
import os
import random
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from helpers import fabricated_records
from matplotlib.figure import Figure

from latentbench.bench.leaderboard.numbers import number, spread
from latentbench.bench.leaderboard.results import Results
from latentbench.bench.records.files import RecordError, write_record
from latentbench.bench.records.record import Record, protocol_id
from latentbench.bench.report.analysis.findings import Finding
from latentbench.bench.report.dataframe import frame
from latentbench.bench.report.markdown import escape, markdown
from latentbench.bench.report.summary import terminal_summary
from latentbench.bench.report.write import rebuild_report, write_report

SCOPES = {
    "PSNR": ("tokenizer", "higher"),
    "rFD[net]": ("tokenizer", "lower"),
    "gFD[net]": ("generator", "lower"),
    "gFD@360[net]": ("generator", "lower"),
    "recall[net]": ("generator", "higher"),
    "recall@360[net]": ("generator", "higher"),
}


def metric(name, value, n=1437, **protocol):
    scope, better = SCOPES[re.sub(r"@[\d.]+$", "", name)]
    about = {
        "value": value,
        "n": n,
        "protocol": {"extractor": "net", **protocol},
        "about": f"What {name} is.",
    }
    return {**about, "scope": scope, "better": better, "unit": ""}


def record(
    regularizer="kl", generator="mar", seed=0, status="done", reason=None, cost=None, provenance=None, **more
):
    cell = {"dataset": "digits", "tokenizer": "vit", "regularizer": regularizer, "generator": generator}
    cell |= {name: more.pop(name) for name in cell if name in more}
    metrics = {
        name: value if isinstance(value, dict) else metric(name, value) for name, value in more.items()
    }
    return Record({**cell, "seed": str(seed)}, "k", status, reason, metrics, {}, cost or {}, provenance or {})


def real(seed=0, value=40.0):
    labels = dict.fromkeys(("tokenizer", "regularizer", "generator"), "real")
    return record(seed=seed, **labels, **{"gFD@360[net]": metric("gFD@360[net]", value, n=360)})


def reread(records):
    return pd.read_csv(io.StringIO(frame(records).to_csv(index=False)))


def table(text, heading):
    """The cells of the first table below a heading, its header first."""
    body = text.split(f"## {heading}\n\n")[1]
    lines = body[: body.index("\n\n")].splitlines() if "\n\n" in body else body.splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(row) for row in rows}) == 1
    return [rows[0], *rows[2:]]


def folded(text, summary):
    """The cells of the table that is behind a summary."""
    return table(text.replace(f"<summary>{summary}</summary>\n\n", f"## {summary}\n\n"), summary)


def test_seeds_are_aggregated_as_by_hand():
    rows = reread(
        [record(seed=s, **{"gFD[net]@1.5": v, "PSNR": 30}) for s, v in enumerate((10.0, 12.0, 17.0))]
    )
    (row,) = rows.to_dict("records")
    assert row["gFD[net]"] == 13.0
    assert row["gFD[net]_std"] == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert (row["gFD[net]_n"], row["seeds"], row["seeds_done"], row["PSNR_std"]) == (3, 3, 3, 0)
    assert (row["guidance"], row["status"]) == (1.5, "done")


def test_one_seed_has_no_spread():
    row = reread([record(PSNR=30.5)]).iloc[0]
    assert row["PSNR"] == 30.5 and math.isnan(row["PSNR_std"]) and row["PSNR_n"] == 1
    text = markdown([record(PSNR=30.5), record(PSNR=31.5, generator="x")], "t")
    assert text.count("There is one seed, so no spread is known") == 1 and "±" not in text


def test_what_no_seed_changes_has_no_spread():
    records = [record(seed=s, PSNR=0.1 + 0.2, **{"gFD[net]@1.0": 5.0 + s}) for s in range(3)]
    line = table(markdown(records, "t"), "Tokenizers")[1]
    assert line[-1] == "0.3000" and "±" in table(markdown(records, "t"), "Generation")[1][-1]


def test_of_two_extractors_the_first_is_shown():
    scores = {f"gFD[{x}]@1.0": metric("gFD[net]@1.0", 5.0, features=x) for x in ("net", "other")}
    text = markdown([record(**scores)], "t")
    assert [name.split()[0] for name in table(text, "Generation")[0][3:]] == ["gFD"]
    assert "Only leaderboard.csv has: gFD[other]." in text


def test_no_two_columns_of_the_csv_have_one_name():
    entry = {"value": 4.0, "n": 9, "protocol": {}, "scope": "tokenizer", "better": "higher"}
    names = ("effective", "effective_rank", "effective_rank_low")
    columns = list(frame(matrix(FAR, **dict.fromkeys(names, entry))).columns)
    assert len(columns) == len(set(columns)) and {"rank_low", "effective_rank_ci_low"} <= set(columns)


def test_the_csv_has_one_header_line_and_plain_numbers(tmp_path):
    reason = 'line one\nline two, with | and "quotes"'
    records = [
        record(
            **{"PSNR": 1 / 3, "gFD[net]@1.0": 5.0, "gFD[net]@1.5": 4.0},
            cost={"sample_seconds@1.5": 2.0, "train": 3},
        ),
        record("repa", status="failed", reason=reason),
        record("lzn", status="skipped", reason="no grid"),
        real(),
    ]
    write_report(tmp_path, records)
    lines = (tmp_path / "leaderboard.csv").read_text().splitlines()
    assert len(lines) == 1 + 5
    assert lines[0].startswith("dataset,tokenizer,regularizer,generator,guidance,status,")
    assert lines[0].endswith(",reason")
    rows = pd.read_csv(tmp_path / "leaderboard.csv")
    text = {"dataset", "tokenizer", "regularizer", "generator", "status", "reason"}
    assert all(pd.api.types.is_numeric_dtype(rows[name]) for name in set(rows.columns) - text)
    assert rows["PSNR"].dropna().tolist() == [1 / 3] * 2
    assert rows["cost_train"].dropna().tolist() == [3, 3]
    assert rows.loc[rows["guidance"] == 1.5, "cost_sample_seconds"].tolist() == [2.0]
    assert rows["cost_sample_seconds"].count() == 1
    by_status = rows.set_index("regularizer")["status"]
    assert by_status["repa"] == "failed" and by_status["lzn"] == "skipped"
    assert rows.set_index("regularizer").loc["repa", "reason"] == reason.replace("\n", " ")
    assert rows[rows["regularizer"].isin(["repa", "lzn", "real"])]["guidance"].isna().all()


def test_each_guidance_is_a_row_with_the_tokenizer_metrics_in_all():
    rows = reread([record(**{"PSNR": 30, "gFD[net]@1.0": 5, "gFD[net]@1.5": 4, "gFD@360[net]@1.5": 9})])
    assert rows["guidance"].tolist() == [1.0, 1.5]
    assert rows["gFD[net]"].tolist() == [5, 4]
    assert rows["gFD@360[net]"].fillna(-1).tolist() == [-1, 9]
    assert rows["PSNR"].tolist() == [30, 30]


def test_a_seed_that_failed_is_visible():
    records = [record(seed=0, **{"gFD[net]@1.0": 5.0}), record(seed=1, **{"gFD[net]@1.0": 7.0})]
    records += [record(seed=2, status="failed", reason="loss is nan at step 3")]
    row = reread(records).iloc[0]
    assert (row["seeds_done"], row["seeds"], row["gFD[net]_n"], row["status"]) == (2, 3, 2, "done")
    assert row["reason"] == "seed 2: loss is nan at step 3"
    text = markdown(records, "t")
    header, line = table(text, "Generation")
    assert line[header.index("seeds")] == "2/3 seeds" and line[-1] == "6.0 ± 1.4 (2 of 3)"
    assert "- 1 cell failed: kl with mar (loss is nan at step 3)." in text
    assert folded(text, "All of these cells")[1][-3:] == ["2", "failed", "loss is nan at step 3"]


def test_a_value_that_is_not_finite_is_left_out_of_the_mean_and_shown():
    values = (4.0, 6.0, math.nan)
    records = [
        record(seed=s, **{"gFD[net]@1.0": v, "recall[net]@1.0": math.inf}) for s, v in enumerate(values)
    ]
    row = reread(records).iloc[0]
    assert (row["gFD[net]"], row["gFD[net]_n"], row["recall[net]_n"]) == (5.0, 2, 0)
    assert math.isnan(row["recall[net]"])
    assert table(markdown(records, "t"), "Generation")[1][-2:] == ["5.0 ± 1.4 (2 of 3)", "inf"]


def test_protocols_never_share_a_column():
    name = "gFD[net]@1.0"
    records = [
        record("a", **{name: metric(name, 5.0, crop="a")}),
        record("b", **{name: metric(name, 4.0, crop="b")}),
        record("c", **{name: metric(name, 3.0, n=128, crop="a")}),
    ]
    ids = [
        protocol_id({"n": n, "extractor": "net", "crop": c})
        for n, c in ((1437, "a"), (1437, "b"), (128, "a"))
    ]
    rows = reread(records)
    assert "gFD[net]" not in rows.columns
    for id, regularizer, value in zip(ids, "abc", (5.0, 4.0, 3.0), strict=True):
        column = rows.set_index("regularizer")[f"gFD[net]{{{id}}}"].dropna()
        assert column.to_dict() == {regularizer: value}
    text = markdown(records, "t")
    header, *lines = table(text, "Generation")
    assert header[3:] == [f"gFD ↓ {id}" for id in sorted(ids)]
    assert [line[3:].count("") for line in lines] == [2, 2, 2]
    assert all(text.count(f"- `{id}` gFD[net]: n ") == 1 for id in ids)


def test_one_protocol_per_metric_needs_no_suffix_but_its_id_is_shown():
    records = [record(r, **{"gFD[net]@1.0": 5.0}) for r in "ab"]
    id = protocol_id({"extractor": "net", "n": 1437})
    assert "gFD[net]" in frame(records).columns
    text = markdown(records, "t")
    assert table(text, "Generation")[0][-1] == f"gFD ↓ {id}"
    assert f"- `{id}` gFD[net]: n 1437, extractor net" in text


def test_generation_rows_are_sorted_by_generator_and_distance_below_the_real_row():
    at = {"gFD@360[net]@1.0": metric("gFD@360[net]@1.0", 60.0, n=360)}
    values = {("none", "mar"): 9.0, ("kl", "mar"): 10.0, ("kl", "gaussian"): 8.0, ("none", "gaussian"): 11.0}
    records = [record(r, g, **{"gFD[net]@1.0": v, **at}) for (r, g), v in values.items()]
    records += [real(), record("repa", "gaussian", status="skipped", reason="no")]
    text = markdown(records, "t")
    assert "- 1 cell was skipped: repa with gaussian (no)." in text
    header, *lines = table(text, "Generation")
    assert [line[:2] for line in lines] == [
        ["real", ""],
        ["gaussian", "kl"],
        ["gaussian", "none"],
        ["mar", "none"],
        ["mar", "kl"],
    ]
    assert [name.split()[0] for name in header[3:]] == ["gFD", "gFD@360"]
    assert lines[0][3:] == ["", "40"] and lines[1][3:] == ["8", "60"]


def test_where_higher_is_better_the_highest_comes_first():
    records = [record(r, **{"recall[net]@1": v}) for r, v in (("a", 0.2), ("b", 0.9), ("c", 0.5))]
    lines = table(markdown(records, "t"), "Generation")
    assert [line[1] for line in lines[1:]] == ["b", "c", "a"]
    assert lines[0][-1].startswith("recall ↑ ")


def test_tokenizers_are_sorted_by_label_and_numbers_in_labels_by_value():
    labels = ["none", "kl[weight=0.5]", "kl[weight=0.01]", "kl[weight=1.0e-3]"]
    records = [record(r, PSNR=float(i)) for i, r in enumerate(labels)]
    lines = table(markdown(records, "t"), "Tokenizers")
    assert [line[0] for line in lines[1:]] == labels[:0:-1] + labels[:1]


def test_a_tokenizer_is_one_row_and_its_seeds_count_once():
    records = [record(generator=g, seed=s, PSNR=30.0 + 2 * s) for g in ("mar", "tarflow") for s in (0, 1)]
    records += [record("repa", seed=0, status="failed", reason="late", PSNR=28.0)]
    lines = table(markdown(records, "t"), "Tokenizers")
    assert lines[1:] == [
        ["kl", "2", "1–2", "≈ 31.0 ± 1.4"],
        ["repa", "1", "1–2", "28"],
    ]


def test_the_cost_table_means_over_seeds_and_follows_guidance():
    costs = [
        {"generator_seconds": 10.0 + 2 * s, "samples_seconds@1.0": 1.5, "samples_seconds@2.0": 3.0}
        for s in (0, 1)
    ]
    values = {"gFD[net]@1.0": 5.0, "gFD[net]@2.0": 6.0}
    header, *lines = table(markdown([record(seed=s, cost=costs[s], **values) for s in (0, 1)], "t"), "Cost")
    assert header[2:] == ["w", "generator s", "sampling s"]
    assert [line[2:] for line in lines] == [["1", "11", "1.500"], ["2", "11", "3"]]


def test_counted_costs_stand_in_the_cost_table_alone():
    flops = {"value": 2.5, "n": 16, "protocol": {}, "scope": "generator", "better": "lower", "unit": "GFLOP"}
    scores = {"gFD[net]@1.0": 5.0, "generator_gflop_per_latent@1.0": flops}
    cost = {"x_peak_mib": 7, "y_peak_mib": 6, "tokenizer_seconds": 1.5, "x_seconds": 3}
    text = markdown([record(**scores, cost=cost)], "t")
    assert table(text, "Cost")[0][3:] == ["GFLOP/latent", "tokenizer s", "peak MiB"]
    assert [line[3:] for line in table(text, "Cost")[1:]] == [["2.500", "1.500", "7"]]
    assert "Only leaderboard.csv has: cost_x_peak_mib, cost_y_peak_mib, cost_x_seconds." in text
    assert len(table(text, "Generation")[0]) == 3 + 1


def test_operations_per_image_are_those_of_the_tokenizer_and_the_regularizer_or_none():
    def count(value):
        return {"value": value, "n": 16, "protocol": {}, "scope": "tokenizer", "unit": "GFLOP"}

    both = {"tokenizer_gflop_per_image": count(2.5), "regularizer_gflop_per_image": count(0.75)}
    records = [record("a", **both), record("b", tokenizer_gflop_per_image=count(2.5))]
    header, *lines = table(markdown(records, "t"), "Cost")
    assert header[3:] == ["GFLOP/image"] and [line[1:] for line in lines] == [["a", "", "3.250"]]
    assert "## Cost\n\nOnly leaderboard.csv has: tok" in markdown(records[1:], "t")


def test_what_protocols_have_nested_is_said_once():
    features = {"network": "x", "weights_sha256": "ab" * 32}
    names = ("gFD[net]@1.0", "recall[net]@1.0")
    scores = {name: metric(name, 5.0, k=k, features=features) for k, name in enumerate(names)}
    text = markdown([record(**scores)], "t").split("## Protocols\n\n")[1]
    id = protocol_id(features)
    assert text.startswith(f"- `{id}` features: network x, weights_sha256 {'ab' * 6}\n")
    assert text.count("network x") == 1 and text.count(f"features {id}\n") == 2


def test_likelihoods_stand_beside_their_reverse():
    names = [
        "kNN_NLL_own",
        "kNN_NLL_real",
        "kNN_NLL",
        "kNN_NLL_reverse",
        "PSNR_mean",
        "PSNR",
        "effective_rank",
    ]
    many = {n: {"value": 1.0, "n": 1, "protocol": {}, "scope": "tokenizer"} for n in names}
    columns = Results.of([record(**many)]).reconstruction.columns
    order = [
        "PSNR",
        "kNN_NLL",
        "kNN_NLL_reverse",
        "kNN_NLL_real",
        "effective_rank",
        "kNN_NLL_own",
        "PSNR_mean",
    ]
    assert [column.name for column in columns] == order


def test_of_the_numbers_at_the_real_n_only_distances_are_shown():
    at = {"gFD@360[net]@1": 50.0, "recall@360[net]@1": 0.5, "recall[net]@1": 0.7}
    text = markdown([record(**at)], "t")
    assert [name.split()[0] for name in table(text, "Generation")[0][3:]] == ["gFD@360", "recall"]
    assert "Only leaderboard.csv has: recall@360[net]." in text


def test_two_datasets_have_tables_of_their_own():
    text = markdown([record(PSNR=30.0), record(PSNR=20.0, dataset="mnist")], "t")
    assert len(table(text, "Tokenizers (digits)")) == len(table(text, "Tokenizers (mnist)")) == 2


def test_labels_cannot_break_a_table_or_inject_markup():
    evil = "a|b<script>*x*[y](http://z)\n`c` _d_ \\| $m$"
    text = markdown(
        [record(evil, **{"gFD[net]@1.0": 5.0}), record(evil, "x", status="failed", reason=evil)], evil
    )
    header, *lines = table(text, "Generation")
    assert len(lines) == 1 and lines[0][1] == folded(text, "All of these cells")[1][2] == escape(evil)
    assert "<script>" not in text and "\n`c`" not in text and not re.search(r"(?<!\\)\]\(http", text)
    assert re.search(r"(?<!\\)\$m", text) is None
    assert (
        escape("kl[weight=0.01] fixed_variance effnet_lite0") == "kl[weight=0.01] fixed_variance effnet_lite0"
    )


def test_no_winner_is_bold_and_none_is_ranked_where_nothing_is_known_of_the_error():
    text = markdown([record(r, **{"gFD[net]@1.0": v}) for r, v in (("a", 5.0), ("b", 6.0))], "t")
    assert "**" not in text and "__" not in text and "≈" not in text
    assert "rank" not in table(text, "Generation")[0]


def matrix(values, generator="mar", metric="gFD[net]@1.0", **more):
    """One record a seed of {regularizer: its values over seeds}."""
    return [
        record(name, generator, seed, **{metric: value}, **more)
        for name, mine in values.items()
        for seed, value in enumerate(mine)
    ]


def column(text, heading, name, key="regularizer"):
    header, *lines = table(text, heading)
    place = next(i for i, each in enumerate(header) if each.split()[0] == name)
    return {line[header.index(key)]: line[place] for line in lines}


FAR = {"a": (10.0, 11.0, 12.0), "b": (50.0, 51.2, 51.9), "c": (90.0, 91.1, 92.0)}
NEAR = {"a": (10.0, 14.0, 12.0), "b": (13.0, 11.0, 12.6), "c": (90.0, 93.0, 91.0)}


def test_a_winner_that_seeds_separate_from_all_others_is_bold_and_ranks_are_single():
    text = markdown(matrix(FAR), "t")
    assert column(text, "Generation", "rank") == {"a": "1", "b": "2", "c": "3"}
    values = column(text, "Generation", "gFD")
    assert values["a"] == "**11.0 ± 1.0**" and not values["b"].startswith(("*", "≈"))


def test_a_tie_is_marked_and_has_no_winner():
    text = markdown(matrix(NEAR), "t")
    assert column(text, "Generation", "rank") == {"a": "1–2", "b": "1–2", "c": "3"}
    values = column(text, "Generation", "gFD")
    assert [values[r][:2] for r in "abc"] == ["≈ ", "≈ ", "91"]
    assert "**" not in text.split("Ranks are by")[0]


def test_where_higher_is_better_the_bold_one_is_the_highest():
    text = markdown(matrix(FAR, metric="recall[net]@1.0"), "t")
    assert column(text, "Generation", "rank") == {"a": "3", "b": "2", "c": "1"}
    assert column(text, "Generation", "recall")["c"].startswith("**")


def test_ranks_of_one_seed_say_what_they_rest_on_and_nothing_is_bold():
    def entry(value):
        drawn = random.Random(value)
        noise = [drawn.gauss(0, 1) for _ in range(100)]
        return metric("gFD[net]@1.0", value) | {"replicates": [value + e for e in noise]}

    text = markdown([record(r, **{"gFD[net]@1.0": entry(v)}) for r, v in (("a", 5.0), ("b", 90.0))], "t")
    assert column(text, "Generation", "rank") == {"a": "1", "b": "2"}
    assert "sampling noise only. The training variance is unknown" in text and "**" not in text


def test_generators_and_protocols_are_ranked_apart():
    records = matrix(FAR, "mar") + matrix({"d": (1.0, 1.1, 1.2), "e": (7.0, 7.3, 7.1)}, "tarflow")
    ranks = column(markdown(records, "t"), "Generation", "rank")
    assert ranks == {"a": "1", "b": "2", "c": "3", "d": "1", "e": "2"}
    name = "gFD[net]@1.0"
    records = matrix(FAR) + [
        record(r, seed=s, **{name: metric(name, v + s / 10, crop="b")})
        for r, v in (("d", 1.0), ("e", 7.0))
        for s in range(3)
    ]
    ranks = column(markdown(records, "t"), "Generation", "rank")
    assert [ranks[r].split()[0] for r in "abcde"] == ["1", "2", "3", "1", "2"]
    assert len({ranks[r].split()[1] for r in "abc"}) == len({ranks[r].split()[1] for r in "de"}) == 1
    assert ranks["a"].split()[1] != ranks["d"].split()[1]


def test_a_table_says_what_its_seeds_could_have_shown():
    text = markdown(matrix(NEAR) + matrix(FAR, "tarflow"), "t")
    found = text.split("the smallest difference")[1].split("\n\n")[1].splitlines()
    header, _, mar, tarflow = ([cell.strip() for cell in line.split("|")[1:-1]] for line in found)
    assert header == ["generator", f"gFD ↓ {protocol_id({'extractor': 'net', 'n': 1437})}", header[-1]]
    mar_found, tarflow_found = (float(line[1].removesuffix(" %")) for line in (mar, tarflow))
    assert 1 < tarflow_found < mar_found < 650  # a's and b's seeds differ by 40 % and 18 %
    assert mar[2].endswith("(b, a)") or mar[2].endswith("(a, b)")
    assert tarflow[2] == ""


def test_the_variance_of_nested_seeds_is_split_by_its_sources():
    values = {"0.0.0": 0.0, "0.0.1": 1.0, "0.1.0": 10.0, "0.1.1": 11.0}
    values |= {f"1{seed[1:]}": value + 100 for seed, value in values.items()}
    records = [
        record(r, seed=seed, **{"gFD[net]@1.0": shift + value})
        for r, shift in (("a", 0.0), ("b", 500.0))
        for seed, value in values.items()
    ]
    part = markdown(records, "t").split("The sources of the variance of gFD[net]")[1]
    header, _, line = part.split("\n\n")[1].splitlines()[:3]
    shares = [float(cell.strip().rstrip("%")) for cell in line.split("|")[2:-1]]
    assert [name.strip() for name in header.split("|")[2:-1]] == ["tokenizer", "generator", "sampling"]
    assert shares[0] > 98 and shares[1] > shares[2] and sum(shares) == pytest.approx(100, abs=1.5)


def test_the_csv_has_intervals_and_ranks_as_plain_numbers():
    rows = reread(matrix(FAR) + [real()]).set_index("regularizer")
    mean, low, high = rows.loc["b", ["gFD[net]", "gFD[net]_ci_low", "gFD[net]_ci_high"]]
    half = scipy.stats.t.ppf(0.975, 2) * np.std(FAR["b"], ddof=1) / math.sqrt(3)
    assert (low, high) == pytest.approx((mean - half, mean + half))
    assert rows["rank_low"].dropna().to_dict() == {"a": 1, "b": 2, "c": 3}
    assert rows["rank_high"].dropna().to_dict() == {"a": 1, "b": 2, "c": 3}
    assert "rank_low" not in frame(matrix(FAR), complete=False)


def test_analyses_are_told_with_their_tables_and_pictures(tmp_path):
    made = pd.DataFrame({"regularizer": [f"r_{i}" for i in range(20)], "gFD": [i / 3 for i in range(20)]})
    made.loc[1, "gFD"] = math.nan
    one = Finding("gaps", "The gap", "Why?", "Because of 3 | 4.", "By hand.", made, Figure(figsize=(2, 1)))
    text = markdown(matrix(FAR), "t", [one])
    assert "### The gap\n\nWhy? **Because of 3 \\| 4.**\n\n![The gap](analysis/gaps.png)" in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| r_" in line]
    assert cells[:3] == [["r_0", "0"], ["r_1", ""], ["r_2", "0.6667"]] and cells[-1][0] == "r_7"
    assert "12 more rows are in [analysis/gaps.csv](analysis/gaps.csv)." in text


def test_a_partial_report_says_so_and_has_neither_ranks_in_tables_nor_what_takes_time(tmp_path):
    written = write_report(tmp_path, matrix(FAR), to_come="2 of 3 <cells> are done.")
    assert [path.name for path in written] == ["leaderboard.csv", "leaderboard.md", "leaderboard.html"]
    assert "rank" not in written[1].read_text()
    assert "**Partial.** 2 of 3 &lt;cells&gt; are done." in written[1].read_text()
    assert "<strong>Partial.</strong> 2 of 3 &lt;cells&gt; are done.</p>" in written[2].read_text()
    assert not (tmp_path / "analysis").exists()


def test_a_complete_results_folder_has_everything_and_no_analysis_that_is_out_of_date(tmp_path):
    some = {"regularizers": ("none", "kl", "repa"), "generators": ("mar", "tarflow"), "guidances": (1.0, 1.5)}
    write_report(tmp_path, fabricated_records.records(seeds=("0", "1"), **some))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*(f"leaderboard.{end}" for end in ("csv", "md", "tex", "html")), "analysis"}
    found = {path.name for path in (tmp_path / "analysis").iterdir()}
    assert {"interaction.csv", "interaction.png", "gaps.csv"} <= found
    text = (tmp_path / "leaderboard.md").read_text()
    linked = set(re.findall(r"\(analysis/([^)]+)\)", text))
    assert {name for name in found if name.endswith("png")} <= linked <= found
    write_report(tmp_path, matrix({"a": (1.0,)}))
    assert not list((tmp_path / "analysis").iterdir())


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path):
    records = [
        record(
            r,
            g,
            s,
            **{"gFD[net]@1.0": 5.0, "PSNR": 0.1 + s},
            cost={"train": 1 / 3},
            provenance={"matrix": "m"},
        )
        for r in ("kl[weight=0.5]", "kl[weight=1.0e-3]", "none")
        for g in ("mar", "gaussian")
        for s in (0, 1, 10)
    ]
    random.Random(0).shuffle(records)
    folder = tmp_path / "digits"
    texts = [path.read_bytes() for path in write_report(folder, records)]
    for each in records:
        write_record(folder / "records", each)
    assert [path.read_bytes() for path in rebuild_report([folder], tmp_path / "out")] == texts
    names = [f"leaderboard.{end}" for end in ("csv", "tex", "md", "html")]
    assert [path.name for path in rebuild_report([folder], folder) if path.parent == folder] == names
    assert [path.read_bytes() for path in write_report(folder, records[::-1])] == texts
    assert texts[2].startswith(b"# m\n")


def test_another_process_makes_the_same_bytes(tmp_path):
    """Of pictures and drawings too, whatever the order of sets there."""
    for each in fabricated_records.records(("none", "kl", "repa", "simflow"), ("mar", "tarflow"), ("0", "1")):
        write_record(tmp_path / "records", each)
    ours = rebuild_report([tmp_path], tmp_path / "ours", "t")
    code = "from latentbench.bench.report.write import rebuild_report; import sys\n"
    code += "rebuild_report(sys.argv[1:2], *sys.argv[2:])"
    there = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "theirs"), "t"]
    subprocess.run(there, check=True, env=os.environ | {"PYTHONHASHSEED": "1"})
    for path in ours:
        theirs = tmp_path / "theirs" / path.relative_to(tmp_path / "ours")
        assert path.read_bytes() == theirs.read_bytes(), path.name
    assert len(list((tmp_path / "theirs/analysis").glob("*.png"))) > 4


def test_a_report_joins_folders_and_refuses_contradictions(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(RecordError, match="no records in .*one"):
        rebuild_report([one], tmp_path / "out")
    write_record(one / "records", record(PSNR=30.0, cost={"s": 1}))
    write_record(one / "records", record("none", status="failed", reason="killed"))
    write_record(two / "records", record(PSNR=30.0, cost={"s": 2}))
    write_record(two / "records", record("none", PSNR=29.0))
    rows = pd.read_csv(rebuild_report([one, two], tmp_path / "out")[0])
    assert rows["PSNR"].tolist() == [30.0, 29.0] and set(rows["status"]) == {"done"}
    write_record(two / "records", record(PSNR=30.1))
    with pytest.raises(
        RecordError, match="one and .*two have different numbers for the cell digits/vit/kl/mar/0"
    ):
        rebuild_report([one, two], tmp_path / "out")


def test_the_footer_names_every_version_and_the_metrics():
    provenance = [
        {
            "packages": {"torch": "2.14", "timm": "1.0"},
            "budget": {"steps": 600},
            "date": f"2025-01-0{d}",
            "git_commit": "ab" * 20,
            "seed": str(d - 1),
        }
        for d in (1, 2)
    ]
    text = markdown([record(seed=i, PSNR=30.0, provenance=p) for i, p in enumerate(provenance)], "t")
    for line in (
        "packages: torch 2.14, timm 1.0",
        "budget: steps 600",
        "date: 2025-01-01 to 2025-01-02",
        "git_commit: " + "ab" * 6,
    ):
        assert f"\n- {line}\n" in text + "\n"
    assert "- cells: 2, seeds 0, 1\n" in text and "- PSNR ↑: What PSNR is." in text
    assert "- seed:" not in text  # of a single cell: all of them are listed above


def test_a_wide_table_says_what_only_the_csv_has():
    names = [f"m{i}" for i in range(12)]
    many = {n: {"value": 1.0, "n": 1, "protocol": {}, "scope": "tokenizer"} for n in names}
    text = markdown([record(**many)], "t")
    assert table(text, "Tokenizers")[0] == [
        "regularizer",
        *(f"m{i} {protocol_id({'n': 1})}" for i in range(5)),
    ]
    assert "Only leaderboard.csv has: m5, m6, m7, m8, m9, m10, m11." in text


def test_the_summary_is_compact_whatever_the_matrix():
    assert terminal_summary([]) == "no cells"
    assert "30.50" in terminal_summary([record(PSNR=30.5)])
    label = "a_regularizer_with_a_long_name[weight=0.001,other=3]"
    records = [
        record(
            f"{label}{r}", f"generator{g}", s, **{"gFD[net]@1.0": g + r + s / 3, "recall[net]@1.0": 0.1 * s}
        )
        for g in range(30)
        for r in range(4)
        for s in (0, 1)
    ]
    for some in (records, records[:40], records[:8]):
        lines = terminal_summary([*some, real(), record("x", status="failed", reason="r")]).splitlines()
        assert len(lines) <= 25 and max(map(len, lines)) <= 100
        assert lines[2].startswith("real") and lines[-1] == f"{len(some)} done, 1 failed cells"
        which = "all rows" if some == records[:8] else r"best \d of up to \d rows"
        assert re.match(rf"{which} of each generator( and `none`)?, by gFD\[net\]", lines[0])


def test_the_summary_has_no_column_that_is_empty_in_its_lines():
    records = [record(f"r{v}", **{"gFD[net]@1.0": float(v)}) for v in range(1, 20)]
    records.append(record("last", **{"gFD[net]@1.0": 40.0, "recall[net]@1.0": 0.5}))
    assert "recall" not in terminal_summary(records) and "recall" in terminal_summary(records[1:])


def test_the_summary_has_the_baseline_even_where_it_is_the_worst_of_many():
    records = [record(f"r{v}", **{"gFD[net]@1.0": float(v)}) for v in range(1, 30)]
    records.append(record("none", **{"gFD[net]@1.0": 90.0}))
    lines = terminal_summary(records).splitlines()
    assert [line.split()[1] for line in lines[2:-1]] == ["r1", "r2", "r3", "none"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(31.2345, "31.23"), (0.5, "0.5000"), (0.0, "0"), (360, "360"), (1437.25, "1437"), (0.000123, "1.23e-04")]
    + [(999.96, "1000"), (234567, "234567"), (5.23456e8, "523.5 M"), (-2.5, "-2.500"), (1e18, "1.000e+06 T")],
)
def test_numbers_have_four_significant_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [(81.2345, 3.41, "81.2 ± 3.4"), (81.2, 12.7, "81 ± 13"), (0.91234, 0.00123, "0.9123 ± 0.0012")]
    + [(1437, 250, "1437 ± 250"), (5.0, 0.0, "5 ± 0"), (1.2e-5, 3e-6, "1.20e-05 ± 3.0e-06")],
)
def test_a_spread_decides_the_digits_of_its_mean(mean, std, text):
    assert spread(mean, std) == text


def test_a_tokenizer_counts_once_however_many_samples_are_drawn_from_its_latents():
    psnr = {"0": 30.0, "1": 34.0}
    records = [
        record(seed=f"{t}.0.{s}", **{"PSNR": psnr[t], "gFD[net]@1": 100.0 + 10 * int(t) + int(s)})
        for t in "01"
        for s in "012"
    ]
    row = reread(records).iloc[0]
    assert (row["PSNR"], row["PSNR_n"]) == (32.0, 2)
    assert row["PSNR_std"] == pytest.approx(math.sqrt(8))
    assert row["gFD[net]_n"] == 6
    assert "32.0 ± 2.8" in markdown(records, "t")


def test_datasets_share_a_column_where_each_has_one_protocol_of_its_own():
    def record(dataset, regularizer, score, **protocol):
        entry = {"value": score, "n": 4, "scope": "tokenizer", "protocol": {"data": dataset, **protocol}}
        labels = {"dataset": dataset, "tokenizer": "t", "regularizer": regularizer, "generator": "g"}
        return Record({**labels, "seed": "0"}, f"{dataset}{regularizer}", "done", metrics={"A": entry})

    both = frame([record("ring", "x", 1.0), record("grid", "x", 2.0)])
    assert dict(zip(both.dataset, both.A, strict=True)) == {"grid": 2.0, "ring": 1.0}
    # Two protocols within a dataset stay apart.
    three = [record("ring", "x", 1.0), record("ring", "y", 3.0, k=5), record("grid", "x", 2.0)]
    assert "A" not in frame(three) and sum(c.endswith("}") for c in frame(three)) == 3
