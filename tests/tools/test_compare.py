"""Comparisons: paired by labels and seed, silent about noise, and a gate that a regression doesn't pass."""

import json
import math
import random

import pytest
import scipy.stats
from helpers import fabricated_records
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from latentbench.bench.cli import app
from latentbench.bench.records.files import write_record
from latentbench.bench.records.record import Record
from latentbench.bench.tools.compare import CompareError, Gate, compare, gate, orders, regressions, side, text


def folder(path, values, name="gFD[net]@1", status="done", k=5, n=9, better="lower", replicates=None):
    """Records of {(regularizer, generator): its values over seeds} in a results folder."""
    for (regularizer, generator), mine in values.items():
        for seed, value in enumerate(mine):
            labels = {"regularizer": regularizer, "generator": generator, "seed": str(seed)}
            scope = "generator" if "@" in name else "tokenizer"
            entry = {"value": value, "n": n, "protocol": {"k": k}, "scope": scope, "better": better}
            if replicates:
                entry["replicates"] = replicates[regularizer]
            cell = {"dataset": "digits", "tokenizer": "vit"} | labels
            reason = None if status == "done" else "loss is nan"
            metrics = {name: entry} if status == "done" else {}
            key = "/".join(labels.values())
            write_record(path / "records", Record(cell, key, status, reason, metrics))
    return str(path)


A = {("kl", "mar"): (10.0, 14.0, 12.0), ("none", "mar"): (30.0, 33.0, 31.5)}
B = {("kl", "mar"): (15.1, 19.0, 16.9), ("none", "mar"): (29.0, 35.0, 31.0)}


def bench(*arguments):
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    return done.exit_code, done.output


def compared(a, b, *more):
    return compare(side(a), side(b), *more)


def test_folders_are_paired_by_cell_and_seed_as_in_a_paired_t_test(tmp_path):
    found = compared(folder(tmp_path / "a", A), folder(tmp_path / "b", B))
    kl, none = found.lines
    expected = [scipy.stats.ttest_rel(B[key], A[key]) for key in A]
    assert [kl.row, none.row] == ["digits · vit · kl · mar w 1", "digits · vit · none · mar w 1"]
    for line, key, test in zip((kl, none), A, expected, strict=True):
        assert line.difference.p == pytest.approx(test.pvalue)
        assert (line.a, line.b) == pytest.approx((sum(A[key]) / 3, sum(B[key]) / 3))
        low, high = test.confidence_interval()
        assert (line.difference.low, line.difference.high) == pytest.approx((low, high))
    corrected = multipletests([test.pvalue for test in expected], method="holm")[1]
    assert [line.p for line in found.lines] == pytest.approx(corrected)
    assert [line.verdict for line in found.lines] == ["worse", "no difference shown"]


def test_two_rows_of_one_folder_are_matched_by_their_other_labels(tmp_path):
    values = {(r, g): (v, v + 1.1, v + 2) for r, v in (("kl", 10), ("none", 30)) for g in ("mar", "flow")}
    path = folder(tmp_path, values)
    found = compared(f"{path}:regularizer=none", f"{path}:regularizer=kl")
    assert [line.row for line in found.lines] == ["digits · vit · flow w 1", "digits · vit · mar w 1"]
    assert [line.verdict for line in found.lines] == ["better", "better"]
    assert found.lines[0].relative == pytest.approx(-20 / 31.0333, rel=1e-4)
    with pytest.raises(CompareError, match=r"several rows for digits · vit · mar: kl, none; name one"):
        compared(f"{path}:regularizer=flow|kl|none,generator=mar", f"{path}:regularizer=kl,generator=mar")


def test_a_bound_differs_from_values_that_it_lies_beyond_and_not_from_a_bound(tmp_path):
    values = {
        ("kl", "mar"): (0.2, 0.21, 0.2),
        ("lzn", "mar"): (0.5, 0.5, 0.5),
        ("repa", "mar"): (0.5, 0.5, 0.5),
    }
    path = folder(tmp_path, values, "noise_tolerance", better="higher")
    for file in (tmp_path / "records").glob("*.json"):
        if "kl" not in file.name:
            file.write_text(file.read_text().replace('"value": 0.5', '"value": 0.5,"bound": "above"'))
    (apart,) = compared(f"{path}:regularizer=kl", f"{path}:regularizer=lzn").lines
    assert apart.verdict == "better" and apart.difference.high == math.inf
    shown = text(compared(f"{path}:regularizer=kl", f"{path}:regularizer=lzn"))
    assert "> 0.5000" in shown and "… +∞" in shown
    (tied,) = compared(f"{path}:regularizer=repa", f"{path}:regularizer=lzn").lines
    assert tied.verdict == "unknown: both beyond what was tried" and tied.p == 1


def test_tokenizers_count_once_and_are_not_set_against_themselves(tmp_path):
    values = {(r, g): (v, v + 1.1) for r, v in (("kl", 10), ("none", 30)) for g in ("mar", "flow")}
    path = folder(tmp_path, values, "PSNR", better="higher")
    found = compared(f"{path}:regularizer=none", f"{path}:regularizer=kl")
    assert [(line.row, line.verdict) for line in found.lines] == [("digits · vit", "worse")]
    with pytest.raises(CompareError, match="no metric fits 'PSNR'"):
        compared(f"{path}:generator=mar", f"{path}:generator=flow", ["PSNR"])


def test_noise_is_not_called_a_change_and_the_same_numbers_are_called_identical(tmp_path):
    drawn = random.Random(1)
    cells = [(f"r{i}", "mar") for i in range(20)]
    sides = [{cell: [drawn.gauss(100, 5) for _ in range(3)] for cell in cells} for _ in "ab"]
    a, b = (folder(tmp_path / n, values) for n, values in zip("ab", sides, strict=True))
    assert {line.verdict for line in compared(a, b).lines} == {"no difference shown"}
    assert {(line.verdict, line.difference.effect) for line in compared(a, a).lines} == {("identical", 0.0)}


def test_one_seed_rests_on_paired_resamples_and_without_them_nothing_is_known(tmp_path):
    drawn = random.Random(0)
    images = [drawn.gauss(0, 5) for _ in range(100)]
    replicates = {"kl": [10 + e for e in images], "none": [12 + e + drawn.gauss(0, 0.1) for e in images]}
    values = {("kl", "mar"): (10.0,), ("none", "mar"): (12.0,)}
    paths = [
        folder(tmp_path / name, values, replicates=some)
        for name, some in (("with", replicates), ("bare", None))
    ]
    first, second = (compared(f"{p}:regularizer=none", f"{p}:regularizer=kl").lines[0] for p in paths)
    unsure = "differs beyond sampling noise; training variance unknown"
    assert (first.difference.basis, first.verdict) == ("resamples", unsure)
    assert (second.difference.basis, second.p) == ("none", 1.0)
    assert second.verdict == "unknown: one seed"


def test_a_gate_closes_on_sampling_noise_too_and_says_so_and_one_that_cant_be_tested_ends_with_2(tmp_path):
    drawn = random.Random(0)
    images = [drawn.gauss(0, 1) for _ in range(100)]
    replicates = {"kl": [10 + e for e in images], "none": [12 + e + drawn.gauss(0, 0.1) for e in images]}
    values = {("kl", "mar"): (10.0,), ("none", "mar"): (12.0,)}
    path = folder(tmp_path / "with", values, replicates=replicates)
    code, said = bench(f"{path}:regularizer=kl", f"{path}:regularizer=none", "--fail-on", "gFD")
    assert code == 3 and "over resamples of one seed: differs beyond sampling noise" in said
    bare = folder(tmp_path / "bare", values)
    code, said = bench(f"{bare}:regularizer=kl", f"{bare}:regularizer=none", "--fail-on", "gFD")
    assert code == 2 and "cannot be tested: gFD[net] of digits · vit · mar w 1: 10 → 12" in said
    assert bench(bare, bare, "--fail-on", "gFD")[0] == 0  # identical


def test_identical_lines_take_no_part_in_the_correction(tmp_path):
    same = {(f"r{i}", "mar"): (1.0, 2.0, 4.0) for i in range(9)}
    a, b = folder(tmp_path / "a", A | same), folder(tmp_path / "b", B | same)
    kl = compared(a, b).lines[0]
    assert kl.p == pytest.approx(2 * kl.difference.p) and kl.verdict == "worse"
    assert "corrected over 2 lines" in text(compared(a, b))


def test_other_protocols_and_cells_without_a_partner_are_listed_and_not_compared(tmp_path):
    a, b = folder(tmp_path / "a", A), folder(tmp_path / "b", {("kl", "mar"): (9.0, 9.5)}, k=3)
    folder(tmp_path / "b", {("new", "mar"): (9.0, 9.5)})
    found = compared(a, b)
    assert not found.lines
    assert found.apart[0].startswith("gFD[net]: A has protocol ")
    assert found.apart[1:] == [
        "only in A: digits · vit · none · mar w 1",
        "only in B: digits · vit · new · mar",
    ]
    code, said = bench(a, b, "--fail-on", "gFD")
    assert code == 2 and "nothing to compare; gFD[net]: A has protocol" in said


def test_a_row_at_another_guidance_is_named_and_not_called_lost(tmp_path):
    a = folder(tmp_path / "a", A)
    b = folder(tmp_path / "b", A, "gFD[net]@2")
    code, output = bench(a, b)
    assert code == 0 and "w 1; B has w 2" in output and "lost" not in output


def test_a_regression_ends_with_3_and_noise_doesnt(tmp_path):
    a, b = folder(tmp_path / "a", A), folder(tmp_path / "b", B)
    code, said = bench(a, b, "--fail-on", "gFD")
    assert code == 3 and "regression: gFD[net] of digits · vit · kl · mar w 1: 12 → 17" in said
    assert bench(b, a, "--fail-on", "gFD")[0] == bench(a, b)[0] == 0
    assert [bench(a, b, "--fail-on", f"gFD:{amount}")[0] for amount in ("4", "40%", "6", "50%")] == [
        3,
        3,
        0,
        0,
    ]


def test_a_cell_that_fails_in_b_is_a_regression(tmp_path):
    a, b = folder(tmp_path / "a", A), folder(tmp_path / "b", {("none", "mar"): A["none", "mar"]})
    folder(tmp_path / "b", {("kl", "mar"): (0, 0, 0)}, status="failed")
    code, said = bench(a, b, "--fail-on", "gFD")
    assert code == 3 and "gFD[net] of digits · vit · kl · mar w 1: no value in B (loss is nan)" in said


def test_only_what_is_asked_for_is_compared(tmp_path):
    for record in fabricated_records.records(generators=("mar",), seeds=("0", "1")):
        write_record(tmp_path / "records", record)
    sides = side(f"{tmp_path}:regularizer=none"), side(f"{tmp_path}:regularizer=repa")
    names = [line.column.name for line in compare(*sides, ["gFD"]).lines]
    assert names == ["gFD[net]"] * 3  # not gFD@360, at three guidances
    names = {line.column.name for line in compare(*sides, ["*FD*", "effective_rank"]).lines}
    assert names == {"gFD[net]", "gFD@360[net]", "rFD[net]", "rFD_noise_0.1[net]", "effective_rank"}
    ranks = [line.verdict for line in compare(*sides, ["effective_rank"]).lines]
    assert ranks == ["differs"]
    assert {line.column.name for line in compare(*sides, [], [gate("PSNR")]).lines} == {"PSNR"}
    assert "effective_rank" not in {line.column.name for line in compare(*sides).lines}


def test_runs_whose_sweeps_choose_differently_are_paired(tmp_path):
    found = fabricated_records.records(regularizers=("kl",), generators=("mar",), seeds=("0", "1"))
    for name, w in (("a", 1.5), ("b", 2.0)):
        for record in found:
            write_record(tmp_path / name / "records", fabricated_records.swept(record, w))
    [line] = compared(str(tmp_path / "a"), str(tmp_path / "b"), ["gFD"]).lines
    assert line.row == "digits · vit · kl · mar w chosen"
    means = [sum(r.metrics[f"gFD[net]@{w}"]["value"] for r in found if not r.real) / 2 for w in ("1.5", "2")]
    assert (line.a, line.b) == pytest.approx(means)


def test_machines_may_read_it(tmp_path):
    a, b = folder(tmp_path / "a", A), folder(tmp_path / "b", B)
    code, said = bench(a, b, "--json")
    found = json.loads(said)
    assert code == 0 and found["regressions"] == found["not_compared"] == []
    line = found["lines"][0]
    assert (line["metric"], line["difference"], line["seeds"]) == ("gFD[net]", pytest.approx(5.0), 3)
    assert line["verdict"] == "worse" and line["p_alone"] <= line["p"] < 0.05
    assert "corrected over 2 lines" in text(compared(a, b)) and not regressions(compared(a, b), [])


@pytest.mark.parametrize(
    ("metric", "meant"),
    [("gFD", Gate("gFD")), ("gFD:5", Gate("gFD", 5.0)), ("gFD[timm:x]:2.5%", Gate("gFD[timm:x]", 2.5, True))],
)
def test_a_gate_is_a_metric_and_an_amount(metric, meant):
    assert gate(metric) == meant


def test_bad_arguments_end_with_2_and_say_what_is_wrong(tmp_path):
    a = folder(tmp_path / "a", A)
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ((a, tmp_path / "nowhere"), "no results folder"),
        ((a, tmp_path / "empty"), "no records in"),
        ((a, f"{a}:regularizer=x"), "no cell fits: regularizer is kl, none"),
        ((a, f"{a}:flavour=x"), "flavour"),
        ((a, f"{a}:regularizer"), "takes AXIS=PATTERN"),
        ((a, a, "--metric", "gfd"), "no metric fits 'gfd'; there are gFD[net]"),
        ((a, a, "--fail-on", "gFD:much"), "--fail-on takes METRIC[:AMOUNT|%]"),
        ((a, a, "--fail-on", "gFD:-3"), "--fail-on takes METRIC[:AMOUNT|%]"),
        ((folder(tmp_path / "b", {("x", "y"): (1.0,)}), a, "--fail-on", "gFD"), "nothing to compare"),
    ):
        code, output = bench(*arguments)
        assert code == 2 and said in output, (arguments, output)
    undirected = folder(tmp_path / "c", A, "rank", better=None)
    assert "it has no direction" in bench(undirected, undirected, "--fail-on", "rank")[1]


def test_the_order_of_rows_is_compared_within_a_generator(tmp_path):
    names = ("none", "kl", "vf", "eq")
    a = {(name, "mar"): (float(v), v + 0.1) for name, v in zip(names, (1, 2, 3, 4), strict=True)}
    b = {(name, "mar"): (float(v), v + 0.1) for name, v in zip(names, (5, 7, 6, 8), strict=True)}
    two = {("none", "gaussian"): (1.0, 2.0), ("kl", "gaussian"): (2.0, 3.0)}
    sides = [folder(tmp_path / name, values | two) for name, values in (("a", a), ("b", b))]
    [order] = orders(compare(*map(side, sides)))
    assert (order.generator, order.rows) == ("mar", 4)
    assert order.tau == pytest.approx(scipy.stats.kendalltau([1, 2, 3, 4], [5, 7, 6, 8]).statistic)
    assert "order of 4 rows by gFD[net] with mar: Kendall's τ of A and B 0.67" in bench(*sides)[1]
