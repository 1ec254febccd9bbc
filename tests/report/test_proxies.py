"""Cheap predictors of generation quality, against scipy, effects that were put in, and simulations."""

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from helpers.fabricated_records import metric, records
from scipy import stats

from latentbench.bench.report.analysis import claimed_proxies, proxies
from latentbench.bench.report.analysis.board import Board
from latentbench.bench.report.analysis.claims import CLAIMS, is_number
from latentbench.bench.report.analysis.proxy_measures import Estimate, fidelity, measured
from latentbench.bench.report.analysis.proxy_signals import Quality, Signal, comparisons, latent_shapes


def by_row(labels, values):
    """{label: {seed: value}} of one value a row, or of several seeds."""
    return {
        label: {str(seed): float(v) for seed, v in enumerate(np.atleast_1d(value))}
        for label, value in zip(labels, values, strict=True)
    }


def signal(labels, values, name="s", sign=1.0):
    return Signal(name, sign, (by_row(labels, values),), name)


def quality(labels, values, target="mar", **more):
    """Quality of these values, higher is better: distances are positive, and lower is better."""
    return Quality(target, (by_row(labels, np.exp(-np.asarray(values))),), **more)


def scored(found, **metrics):
    """Records with further metrics, whose entries are NAME(record)."""
    return [
        record
        if record.real
        else replace(
            record, metrics=record.metrics | {name: entry(record) for name, entry in metrics.items()}
        )
        for record in found
    ]


def made(value, better, scope="tokenizer"):
    """An entry of a metric."""
    return metric(value, scope, better, 360, 0.01, random.Random(0))


@pytest.fixture(scope="module")
def made_up():
    return records()


@pytest.fixture(scope="module")
def study(made_up):
    return proxies.measure((Board(made_up),))


def test_signals_are_positive_where_the_better_goes_with_the_better(made_up):
    table = proxies.finding(made_up).table
    pooled = table[table["generator"] == "all generators"].set_index("signal")["τ"]
    # Easier latents were made with a better probe, a worse rFD, and a lower kNN_NLL, which has no direction.
    assert pooled["probe_accuracy"] == pytest.approx(1) and pooled["rFD[net]"] == pytest.approx(-1)
    assert pooled["kNN_NLL"] == pytest.approx(-1)
    assert pooled["PSNR"] == pytest.approx(-1)  # easier latents were made to reconstruct worse
    assert pooled["generator loss at the end"] > 0.7


def test_a_signal_of_noise_is_not_called_a_proxy():
    rng = np.random.default_rng(0)
    labels = [f"kl[weight={i / 1000}]" for i in range(1, 13)]
    found = 0
    for _ in range(40):
        signals = [signal(labels, rng.normal(size=12), str(i)) for i in range(8)]
        found += any(f.corrected < 0.05 for f in measured([(quality(labels, rng.normal(size=12)), signals)]))
    assert found <= 6  # of 40 families of tests, each wrong at most once in twenty; P(> 6) = 0.003


def test_the_interval_of_tau_covers_it_and_one_family_left_out_is_left_out():
    rng = np.random.default_rng(3)
    labels = [f"{family}[weight={i}]" for family, i in itertools.product("abcd", range(1, 6))]
    truth = 0.5  # tau of a bivariate normal with correlation sin(pi / 4)
    covered = 0
    for _ in range(100):
        x = rng.normal(size=20)
        y = math.sin(math.pi / 4) * x + math.cos(math.pi / 4) * rng.normal(size=20)
        found = fidelity([(quality(labels, y), signal(labels, x))])
        covered += found.tau.interval[0] <= truth <= found.tau.interval[1]
    assert covered >= 85
    kept = [i for i, label in enumerate(labels) if not label.startswith("b")]
    taus = stats.kendalltau(x[kept], y[kept]).statistic
    assert found.without_one[0] <= taus <= found.without_one[1]


def test_tau_r_and_p_are_scipys_over_the_means_of_seeds():
    rng = np.random.default_rng(1)
    labels = [str(i) for i in range(9)]
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(9, 3))
    found = fidelity([(quality(labels, y), signal(labels, x, sign=-1.0))])
    distance = np.exp(-y).mean(1)  # seeds are averaged before logarithms are taken
    expected = stats.kendalltau(-x.mean(1), -distance)
    assert (found.tau.value, found.tau.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.r.value == pytest.approx(stats.pearsonr(-x.mean(1), -np.log(distance)).statistic)
    assert found.seeds == 3 and found.rows == 9


def test_r_takes_logarithms_of_frechet_distances_alone():
    labels = [str(i) for i in range(6)]
    x = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    for name, linear in (("rFD[net]", True), ("iFD[net]", True), ("PSNR", False), ("rKD[net]", False)):
        found = fidelity([(quality(labels, np.log(x)), signal(labels, x, name))])
        assert (found.r.value == pytest.approx(1)) == linear


def test_a_bound_is_beyond_all_values_and_has_no_r():
    labels = [str(i) for i in range(5)]
    found = fidelity([(quality(labels, [1, 2, 3, 4, 5]), signal(labels, [1, 2, 3, 4, math.inf]))])
    assert found.tau.value == pytest.approx(1) and math.isnan(found.r.value)


def test_seeds_of_signal_and_quality_are_drawn_together():
    rng = np.random.default_rng(2)
    labels = [str(i) for i in range(12)]
    centre = np.linspace(0, 1, 12)[:, None]
    common = rng.normal(0, 0.3, (12, 3))
    apart = rng.normal(0, 0.3, (2, 12, 3))
    together = fidelity([(quality(labels, centre + common), signal(labels, centre + common))])
    alone = fidelity([(quality(labels, centre + apart[0]), signal(labels, centre + apart[1]))])
    # What a seed does to both moves the row along the line, and widens nothing.
    assert together.r.interval[0] > 0.95 > alone.r.interval[0]


def test_a_tokenizer_s_number_belongs_to_all_generator_seeds_that_share_it():
    found = records(seeds=("0.0", "0.1", "0.2"), generators=("mar", "tarflow"))
    compared = comparisons(Board(found))["mar"]
    seeds = compared[0].parts[0]["repa"]
    psnr = next(s for s in compared[1] if s.name == "PSNR")
    assert set(seeds) == {"0.0", "0.1", "0.2"} == set(psnr.parts[0]["repa"])
    assert len(set(psnr.parts[0]["repa"].values())) == 1
    assert proxies.measure((Board(found),)).fidelities[0].seeds == 3


def test_one_seed_leaves_intervals_over_rows():
    found = proxies.measure((Board(records(seeds=("0",))),)).fidelities
    assert {f.seeds for f in found} == {1} and any(f.tau.interval for f in found)


def test_a_signal_that_only_repeats_the_reconstruction_says_nothing_beyond_it():
    rng = np.random.default_rng(5)
    labels = [str(i) for i in range(60)]
    z = rng.normal(size=60)
    y, x = z + 0.5 * rng.normal(size=60), z + 0.5 * rng.normal(size=60)
    reconstruction = signal(labels, np.exp(z), "rFD[net]")
    found = fidelity([(quality(labels, y, reconstruction=reconstruction), signal(labels, x))])
    rho = stats.spearmanr(np.array([x, y, z]).T).statistic
    expected = (rho[0, 1] - rho[0, 2] * rho[1, 2]) / math.sqrt((1 - rho[0, 2] ** 2) * (1 - rho[1, 2] ** 2))
    assert found.given_reconstruction.value == pytest.approx(expected, abs=1e-5)
    assert found.tau.p < 1e-6 and found.given_reconstruction.p > 0.01
    itself = fidelity([(quality(labels, y, reconstruction=reconstruction), reconstruction)])
    assert math.isnan(itself.given_reconstruction.value)


def test_holm_is_over_a_target_s_signals_and_over_all_lines(study):
    for target in {f.target for f in study.fidelities}:
        same = [f for f in study.fidelities if f.target == target]
        assert {f.tests for f in same} == {len(same)}
        assert min(f.corrected for f in same) == pytest.approx(min(1, len(same) * min(f.tau.p for f in same)))
    assert {f.all_tests for f in study.fidelities} == {len(study.fidelities)}
    assert all(f.corrected_over_all >= f.corrected - 1e-12 for f in study.fidelities)


def test_rows_of_several_folders_count_within_each():
    rng = np.random.default_rng(8)
    parts = [rng.normal(size=(2, 6)), rng.normal(size=(2, 7)) + 50]
    pairs = []
    for x, y in parts:
        labels = [str(i) for i in range(len(x))]
        shapes = dict.fromkeys(labels, f"{len(x)} × 8")  # one in each folder, so that all pairs compare
        pairs.append((quality(labels, y / 10, shapes=shapes), signal(labels, x, "VIV")))
    found = fidelity(pairs)
    scores = [stats.kendalltau(x, y).statistic * len(x) * (len(x) - 1) / 2 for x, y in parts]
    assert found.tau.value == pytest.approx(sum(scores) / (15 + 21))
    assert found.rows == 13 and found.folders == 2 and found.within is None and not found.within_alone
    centred = [np.concatenate([v - v.mean() for v in values]) for values in zip(*parts, strict=True)]
    assert found.r.value == pytest.approx(stats.pearsonr(*centred).statistic)


# --- shapes of latents


def shaped(found, shapes):
    """Records of tokenizers by label, with the shape of their latents."""
    return [
        record
        if record.real
        else replace(
            record,
            provenance=record.provenance | {"latent": dict(zip(("tokens", "channels"), shape, strict=True))},
        )
        for tokenizer, shape in shapes.items()
        for record in [
            replace(one, cell=one.cell if one.real else one.cell | {"tokenizer": tokenizer}) for one in found
        ]
        if not record.real or tokenizer == next(iter(shapes))
    ]


def test_the_shape_is_the_record_s_or_stands_for_the_tokenizer(made_up):
    assert set(latent_shapes(Board(made_up)).values()) == {"latents of vit"}
    known = shaped(made_up, {"small": (16, 8), "same": (16, 8), "large": (64, 4)})
    assert set(latent_shapes(Board(known)).values()) == {"16 × 8", "64 × 4"}


def test_within_shapes_only_pairs_of_rows_of_one_shape_count():
    labels = [str(i) for i in range(10)]
    shapes = dict(zip(labels, ["16 × 8"] * 5 + ["64 × 4"] * 5, strict=True))
    # In each shape a perfect order; between the shapes the other way round.
    x, y = np.array([6.0, 7, 8, 9, 10, 1, 2, 3, 4, 5]), quality(labels, np.arange(10.0), shapes=shapes)
    found = fidelity([(y, signal(labels, x))])
    assert found.within.value == pytest.approx(1) and found.tau.value == pytest.approx(-5 / 45)
    assert found.within.p == pytest.approx(2 / math.factorial(5) ** 2)  # one pair of orders, or its reverse
    assert found.tau.p == pytest.approx(stats.kendalltau(x, range(10)).pvalue)
    assert found.shapes == 2 and not found.within_alone
    viv = fidelity([(y, signal(labels, x, "VIV"))])
    assert viv.within_alone and viv.tau == viv.within
    assert viv.r.value == pytest.approx(1)  # straight in each shape


def test_numbers_of_one_shape_are_marked_where_rows_have_several(made_up):
    found = proxies.finding(shaped(made_up, {"small": (16, 8), "large": (64, 4)}))
    lines = found.table.set_index("signal")
    marked = lines["across shapes"].dropna()
    assert "kNN_NLL" in marked and "PSNR" not in marked
    assert (lines["τ"] == lines["τ within shapes"])[marked.index].all()
    assert "latents of up to 2 shapes" in found.method and "kNN_NLL" in found.method
    alike = proxies.finding(shaped(made_up, {"small": (16, 8)}))
    assert "All rows have latents of 16 × 8 (tokens × channels)" in alike.method
    assert "τ within shapes" not in alike.table and "across shapes" not in alike.table


# --- signals of generators


def test_paths_of_a_generator_are_signals_for_it_alone():
    def straightness(record):
        ease = {"none": 0.0, "kl[weight=0.001]": 0.42, "repa": 1.0}.get(record.cell["regularizer"], 0.7)
        return made(0.5 + ease / 10, "higher", "generator")

    found = records(regularizers=("none", "kl[weight=0.001]", "repa", "simflow"))
    found = [
        r if r.real or r.cell["generator"] != "mar" else scored([r], **{"straightness@1": straightness})[0]
        for r in found
    ]
    table = proxies.finding(found).table
    lines = table[table["signal"] == "straightness"].set_index("generator")
    assert set(lines.index) == {"mar", "all generators"}
    assert lines["τ"]["mar"] == pytest.approx(1)
    assert not table["signal"].str.startswith(("recall", "gFD")).any()


# --- words, and figures


def test_three_rows_are_too_few_for_a_proxy():
    assert proxies.finding(records(regularizers=("none", "kl", "repa"))) is None
    assert (
        "says very little" in proxies.finding(records(regularizers=("none", "kl", "repa", "simflow"))).answer
    )


def test_the_text_says_how_many_rows_a_strong_relation_takes():
    labels = [f"kl[weight={i / 1000}]" for i in range(1, 9)]
    answer = proxies.finding(records(regularizers=labels, generators=("mar",), seeds=("0",))).answer
    assert "to find a true τ of 0.6 with 80 % power takes" in answer


def test_figures_of_signals_are_few_and_show_a_panel_a_generator(made_up):
    found = proxies.finding(made_up)
    assert 1 <= len(found.more_figures) <= 2
    for figure in found.more_figures.values():
        titles = [ax.get_title(loc="left") for ax in figure.axes]
        assert [title.partition("\n")[0] for title in titles] == ["lightningdit", "mar", "tarflow"]
        assert all("τ = " in title and "[" in title or "1.00" in title for title in titles)
        figure.canvas.draw()


# --- claims


def outcome(name, sign, values, distances, corrected=0.01, claim=None):
    labels = [str(i) for i in range(len(values))]
    found = fidelity([(quality(labels, distances), signal(labels, values, name, sign))])
    claim = claim or next(c for c in CLAIMS if is_number(c.signal, name))
    return claimed_proxies.Outcome(claim, replace(found, corrected=corrected, tests=1))


def test_a_claim_holds_is_contradicted_or_cannot_be_told():
    order, rng = np.arange(12.0), np.random.default_rng(0)
    near = order + rng.normal(0, 0.5, 12)
    assert outcome("VIV", -1.0, -near, order).verdict == "holds"
    assert outcome("VIV", -1.0, near, order).verdict == "contradicted"
    assert outcome("VIV", -1.0, -near, order, corrected=0.2).verdict == (
        "can't be told with 12 rows: the claimed sign"
    )
    assert outcome("VIV", -1.0, near, order, corrected=0.2).verdict == "weaker than claimed"
    assert outcome("probe_accuracy", 1.0, -near, order, corrected=0.2).verdict == (
        "can't be told with 12 rows: the other sign"
    )


def test_few_rows_are_not_enough_to_call_a_claim_weaker():
    found = outcome("VIV", -1.0, [1, 2, 3, 5, 4], [1, 2, 3, 4, 5], corrected=0.2)
    assert found.verdict == "can't be told with 5 rows: the other sign"


def test_a_claim_is_on_its_own_side_whatever_direction_the_metric_declares():
    order = np.arange(12.0)
    for sign in (1.0, -1.0, None):
        found = outcome("SEC_25", sign, -order, order)  # by the claim a lower SEC is better
        assert found.r.value == pytest.approx(1) and found.verdict == "holds"
        assert found.tau.value == pytest.approx(1)
    fidelity = outcome("SEC_25", 1.0, -order, order).fidelity
    turned = claimed_proxies.on_claimed_side(Estimate(-0.5, (-0.7, 0.1)), fidelity, -1.0)
    assert turned.value == 0.5 and turned.interval == (-0.1, 0.7)


def test_claims_are_set_against_the_network_that_judges_generation(study):
    found = claimed_proxies.outcomes(study.fidelities, study.target)
    assert len(found) == len(CLAIMS)
    by_name = {o.claim.signal: o for o in found}
    assert by_name["rFD"].fidelity.signal.name == "rFD[net]"
    assert by_name["rFD"].tau.value == pytest.approx(-1)  # easier latents were made to reconstruct worse
    assert by_name["VIV"].verdict == "not measured here"


def test_new_numbers_find_their_claims(made_up):
    def ease(record):
        base = record.cell["regularizer"].partition("[")[0]
        return {"none": 0.0, "kl": 0.4, "repa": 1.0, "simflow": 0.7}[base]

    found = scored(
        made_up,
        **{
            "iFD[net]": lambda r: made(90 - 50 * ease(r), "lower"),
            "iFD[other]": lambda r: made(50 + 50 * ease(r), "lower"),
            "VIV": lambda r: made(1.2 - ease(r) / 2, "lower"),
            "SEC_25": lambda r: made(0.9 - ease(r) / 2, None),
            "LNC": lambda r: made(0.5 + ease(r) / 4, "higher"),
        },
    )
    table = claimed_proxies.finding(found).table
    lines = {(row["number"], row["claimed by"]): row for row in table.to_dict("records")}
    ifd = lines["iFID", "arXiv 2603.05630"]
    assert ifd["signal"] == "iFD[net]" and ifd["r here"] > 0.9 and ifd["claimed r"] == 0.85
    for name in ("VIV", "LNC", "SEC, 25 %"):
        assert lines[name, "arXiv 2606.03578"]["r here"] > 0.9
    answer = claimed_proxies.finding(found).answer
    assert "Not measured: LDS" in answer and "of which" not in answer
    assert "“holds”: the interval of r excludes 0" in claimed_proxies.finding(found).method


def test_records_without_a_claimed_number_have_no_claims():
    bare = [
        replace(r, metrics={n: m for n, m in r.metrics.items() if not n.startswith(("rFD[", "probe"))})
        for r in records()
    ]
    assert proxies.finding(bare) is not None and claimed_proxies.finding(bare) is None
