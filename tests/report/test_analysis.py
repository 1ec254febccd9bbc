"""The analyses of records, against brute force, scipy, statsmodels and effects that were put in."""

import math
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
from helpers.fabricated_records import records, swept

from latentbench.bench.report.analysis import (
    budget_curves,
    claimed_proxies,
    findings,
    gaps,
    guidance,
    guidance_kinds,
    guidance_sweep,
    interaction,
    pareto,
    proxies,
    steps_to_quality,
    style,
)
from latentbench.bench.report.analysis.board import Board

MODULES = (
    interaction,
    guidance,
    guidance_kinds,
    guidance_sweep,
    pareto,
    gaps,
    budget_curves,
    proxies,
    claimed_proxies,
    steps_to_quality,
)


def changed(found, edit):
    """The records with metrics and curves as `edit(record)` gives them."""
    return [record if record.real else replace(record, **edit(record)) for record in found]


def scored(record, gfd):
    """A record's metrics with other distances: gfd(w) or gfd(w, name)."""
    metrics = {}
    for name, entry in record.metrics.items():
        head, _, w = name.rpartition("@")
        if name.startswith("gFD"):
            entry = {**entry, "value": gfd(float(w)) + (20 if head.startswith("gFD@") else 0)}
        metrics[name] = entry
    return {"metrics": metrics}


def without(record, *starts):
    kept = {name: m for name, m in record.metrics.items() if not name.startswith(starts)}
    return {"metrics": kept}


@pytest.fixture(scope="module")
def made_up():
    return records()


def test_every_analysis_has_an_answer_a_method_a_table_and_a_figure(made_up):
    found = findings.all_of(made_up)
    names = ["interaction", "guidance", "pareto", "strengths", "gaps", "training", "steps"]
    names += ["proxies", "claimed_proxies"]
    assert [finding.name for finding in found] == names
    for finding in found:
        assert finding.question.endswith("?") and finding.answer.endswith(".")
        assert "FD[net]" in finding.method and len(finding.table) >= 5
        assert not finding.table.isna().all().any()
        finding.figure.canvas.draw()


def test_several_datasets_are_analysed_apart():
    some = records(seeds=("0",), generators=("mar",)) + records(
        seeds=("0",), generators=("mar",), dataset="a/b"
    )
    names = [finding.name for finding in findings.all_of(some)]
    assert len(names) == len(set(names))
    assert {name.partition("--")[0] for name in names} == {"digits", "a_b"}


@pytest.mark.parametrize("analysis", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_records_without_a_generation_distance_give_no_finding(analysis, made_up):
    bare = changed(made_up, lambda r: {**without(r, "gFD"), "curves": {}})
    assert analysis.finding(bare) is None
    assert analysis.finding([]) is None


def test_one_seed_names_no_winner():
    for finding in findings.all_of(records(seeds=("0",))):
        assert "One seed" in finding.answer
        assert not any(str(column).endswith(" std") for column in finding.table)


def test_labels_are_no_formulas():
    odd = records(
        regularizers=("$\\frac{", "none", "kl[weight=0.01]", "kl[weight=0.02]"), generators=("mar", "tarflow")
    )
    for finding in findings.all_of(odd):
        finding.figure.canvas.draw()


def test_text_and_axes_have_the_two_colours_that_a_page_exchanges(made_up):
    import io
    import re

    for finding in findings.all_of(made_up):
        file = io.StringIO()
        finding.figure.savefig(file, format="svg")
        strokes = set(re.findall(r"#[0-9a-f]{6}", file.getvalue()))
        assert style.INK in strokes and "#000000" not in strokes, finding.name


# --- reconstruction against generation


def test_the_front_is_what_no_point_dominates():
    xy = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(float)  # with ties and duplicates

    def dominated(i):
        return any((xy[j] <= xy[i]).all() and (xy[j] < xy[i]).any() for j in range(len(xy)))

    assert pareto.front(xy).tolist() == [not dominated(i) for i in range(len(xy))]


def test_the_hypervolume_is_the_share_of_the_box_that_is_dominated():
    rng = np.random.default_rng(1)
    xy, places = rng.random((6, 2)), rng.random((200_000, 2))
    share = (xy[None] <= places[:, None]).all(-1).any(1).mean()
    assert pareto.hypervolume(xy, np.zeros(2), np.ones(2)) == pytest.approx(share, abs=4e-3)


def test_rows_that_differ_in_one_number_are_a_path_in_its_order(made_up):
    labels = ("kl[weight=0.1]", "kl[weight=0.01]", "kl[mode=a,weight=0.05]", "none", "repa")
    board = Board(records(regularizers=labels, generators=("mar",)))
    points = pareto.points(board.entries, board.companion("rFI?D"))
    found = [[p.entry.regularizer for p in path] for path in pareto.paths(points)]
    assert found == [["kl[weight=0.01]", "kl[weight=0.1]"]]


def test_generation_at_matched_reconstruction_is_interpolated_on_each_path():
    labels = (
        "kl[weight=0.01]",
        "kl[weight=0.03]",
        "kl[weight=0.05]",
        "repa[weight=0.001]",
        "repa[weight=0.02]",
    )
    finding = pareto.finding(records(regularizers=labels, generators=("mar",), noise=0))
    # rFD = 10 + 15 e and gFD = 240 (1 - e / 4) at w = 1.5: on one line for both families.
    reached = finding.table.dropna(subset=["gFD[net] there"])
    ease = (reached["matched rFD[net]"] - 10) / 15
    assert len(reached) > 3
    assert reached["gFD[net] there"].to_numpy() == pytest.approx(240 * (1 - ease / 4).to_numpy())


def test_psnr_takes_the_place_of_a_distance_that_is_not_there(made_up):
    finding = pareto.finding(changed(made_up, lambda r: without(r, "rFD")))
    assert "PSNR" in finding.table and "rFD[net]" not in finding.table
    best = finding.table.groupby("generator")["PSNR"].transform("max") == finding.table["PSNR"]
    assert (finding.table["on the front"][best] == "yes").all()


# --- gaps


def test_the_parts_of_a_gap_and_the_floor_add_up_to_the_distance(made_up):
    table = gaps.finding(made_up).table
    parts = table[[f"lost by {part}" for part in ("reconstruction", "latent noise", "generation")]].sum(
        axis=1
    )
    assert (parts + 48).to_numpy() == pytest.approx(table["gFD@360[net]"].to_numpy())


def test_the_largest_gap_is_the_one_that_was_put_in():
    def edit(record):
        metrics = scored(record, lambda w: 100.0)["metrics"]
        clean = {"repa": 90.0}.get(record.cell["regularizer"], 5.0)
        noisy = {"none": 85.0}.get(record.cell["regularizer"], clean + 1)
        return {
            "metrics": metrics
            | {"rFD[net]": {**metrics["rFD[net]"], "value": clean}}
            | {"rFD_noise_0.1[net]": {**metrics["rFD_noise_0.1[net]"], "value": noisy}}
        }

    table = gaps.finding(changed(records(), edit)).table.set_index("regularizer")["largest"]
    assert set(table["repa"]) == {"reconstruction loses most"}
    assert set(table["none"]) == {"decoder brittle"}
    assert set(table["simflow"]) == {"latent hard to model"}


def test_without_noisy_latents_two_parts_are_left(made_up):
    finding = gaps.finding(changed(made_up, lambda r: without(r, "rFD_noise")))
    assert "lost by latent noise" not in finding.table and "robustness" in finding.method


# --- interaction


def test_the_test_of_interaction_is_the_split_plot_of_statsmodels(made_up):
    import pandas as pd
    from statsmodels.api import OLS

    board = Board(made_up)
    found = interaction.interaction_test(interaction.complete(board.entries))
    data = pd.DataFrame(
        [
            {"y": math.log(o.value), "r": e.regularizer, "g": e.generator, "s": f"{e.regularizer}/{o.seed}"}
            for e in board.entries
            for o in e.value.observations
        ]
    )
    # A seed is of one regularizer, so what regularizers differ by is in the seeds' columns.
    r, g, s = (pd.get_dummies(data[name], drop_first=True, dtype=float).to_numpy() for name in "rgs")
    apart = np.column_stack([np.ones(len(data)), g, s])
    both = np.column_stack([apart, *(r.T[:, None] * g.T).reshape(-1, len(data))])
    f, p, _ = OLS(data["y"], both).fit().compare_f_test(OLS(data["y"], apart).fit())
    assert (found.f, found.p) == pytest.approx((f, p))
    assert sum(found.shares.values()) == pytest.approx(1)


def swapped(strength):
    """Whoever is best with mar is worst with tarflow, by `strength`; seeds vary by one."""
    order = {"none": 0, "kl[weight=0.001]": 1, "kl[weight=0.01]": 2, "repa": 3, "simflow": 4}

    def edit(record):
        place = order[record.cell["regularizer"]]
        sign = {"lightningdit": 0, "mar": 1, "tarflow": -1}[record.cell["generator"]]
        jitter = np.random.default_rng(crc32(record.filename.encode())).normal()
        return scored(record, lambda w: 200 + strength * sign * (place - 2) + 10 * (w - 1.5) ** 2 + jitter)

    return changed(records(), edit)


def test_a_winner_that_changes_is_seen_and_one_that_does_not_is_not_made_up():
    changes = interaction.finding(swapped(30))
    assert changes.answer.startswith("The lowest mean changes") or changes.answer.startswith("Yes")
    assert "mar: none" in changes.answer and "tarflow: simflow" in changes.answer
    assert "interact" in changes.answer and "p < 0.001" in changes.answer
    same = interaction.interaction_test(interaction.complete(Board(swapped(0)).entries))
    assert same.p > 0.001


def test_a_generator_that_few_regularizers_have_is_left_out_of_the_test(made_up):
    few = [r for r in made_up if r.cell["generator"] != "mar" or r.cell["regularizer"] == "repa"]
    finding = interaction.finding(few)
    assert "without mar" in finding.method
    assert finding.table.set_index("regularizer")["mar"].notna().sum() == 1


# --- guidance


def test_each_seed_is_judged_at_the_guidance_that_the_others_choose():
    values = {
        "0": {1.0: 10, 1.5: 12, 2.0: 30},
        "1": {1.0: 20, 1.5: 11, 2.0: 30},
        "2": {1.0: 14, 1.5: 12, 2.0: 5},
    }
    one = records(regularizers=("kl",), generators=("mar",))
    choice = guidance.judge(
        Board(changed(one, lambda r: scored(r, values[r.cell["seed"]].__getitem__))).entries[0]
    )
    # The others' means: seed 0 (17, 11.5, 17.5), seed 1 (12, 12, 17.5), seed 2 (15, 11.5, 30).
    assert choice.chosen == {"0": 1.5, "1": 1.0, "2": 1.5}
    assert choice.honest == [12, 20, 12] and choice.gains == [-2, 0, 2]
    assert choice.optimism == pytest.approx((12 + 20 + 12 - 10 - 11 - 5) / 3)


def test_choosing_among_guidances_that_do_not_matter_flatters_and_the_honest_mean_does_not():
    rng = np.random.default_rng(0)
    labels = [f"kl[weight={i / 1000}]" for i in range(1, 41)]
    some = records(regularizers=labels, generators=("mar",), guidances=(1.0, 1.5, 2.0, 2.5))
    finding = guidance.finding(changed(some, lambda r: scored(r, lambda w: 100 + rng.normal())))
    assert finding.table["gFD[net]"].mean() == pytest.approx(100, abs=0.3)
    # The mean of the least of four standard normal values is -1.029.
    assert finding.table["optimism"].mean() == pytest.approx(1.029, abs=0.3)


def test_guidance_needs_two_seeds_and_two_guidances():
    assert guidance.finding(records(seeds=("0",))) is None
    assert guidance.finding(records(guidances=(1.0,))) is None


# --- sweeps of guidance


def test_a_sweep_s_table_has_its_mean_curve_and_counts_seeds_at_its_edge():
    chosen = {"0": 2.0, "1": 1.5, "2": 2.0}
    some = records(regularizers=("kl",), generators=("mar",))
    found = guidance_sweep.finding([swept(r, chosen.get(r.cell["seed"])) for r in some])
    [line] = found.table.to_dict("records")
    assert line["guidance chosen"] == "1.5 (1×), 2 (2×)" and line["at the edge of the sweep"] == 2
    # The distance is 100 and as much more as w is off the chosen one.
    assert [line[f"w = {w}"] for w in ("1", "1.5", "2")] == pytest.approx(
        [100 + 5 / 6, 100 + 1 / 3, 100 + 1 / 6]
    )
    assert (
        "0.5" not in found.answer
        and "1 of 1 row are best at the end of the sweep: kl with mar." in found.answer
    )
    assert guidance_sweep.finding(some) is None
    found.figure.canvas.draw()


# --- training


def test_operations_are_those_of_the_tokenizer_and_of_the_steps_so_far(made_up):
    table = budget_curves.finding(made_up).table
    row = table[(table["regularizer"] == "repa") & (table["step"] == 300)].iloc[0]
    assert row["TFLOP"] == pytest.approx(((0.03 + 0.01) * 64 * 400 + 0.02 * 64 * 300) / 1e3)


def test_a_crossing_is_found_where_the_lines_cross():
    def curve(label, values):
        steps = np.array([10.0, 1000.0])
        return budget_curves.Curve(label, label, "mar", steps, np.array([values]), None)

    # Straight in logarithms: 400 -> 25 and 100 -> 50 meet where 400 (x/10)^-0.602 = 100 (x/10)^-0.151.
    slopes = math.log10(25 / 400) / 2, math.log10(50 / 100) / 2
    meet = 10 * 4 ** (1 / (slopes[1] - slopes[0]))
    runs = budget_curves.leaders([curve("a", [400.0, 25.0]), curve("b", [100.0, 50.0])], lambda c: c.steps)
    assert [label for _, label in runs] == ["b", "a"]
    assert runs[1][0] == pytest.approx(meet, rel=0.05)


def test_a_leader_comes_with_the_seeds_that_agree():
    steps, seeds = np.array([10.0, 100.0]), ("0", "1", "2")

    def curve(label, values):
        return budget_curves.Curve(label, label, "mar", steps, np.array(values), None, seeds)

    a = curve("a", [[9.0, 4.0], [9.0, 4.0], [9.0, 6.0]])
    b = curve("b", [[8.0, 5.0], [8.0, 5.0], [8.0, 5.0]])
    assert budget_curves.agreeing([a, b], lambda c: c.steps) == " (at the end in 2 of 3 seeds)"
    assert budget_curves.agreeing([a, curve("c", [[20.0, 20.0]] * 3)], lambda c: c.steps) == " (3 of 3 seeds)"
    assert (
        budget_curves.agreeing(
            [a, budget_curves.Curve("d", "d", "mar", steps, a.values[:1], None, ("7",))], lambda c: c.steps
        )
        == ""
    )


def test_without_curves_the_final_points_are_set_against_operations(made_up):
    finding = budget_curves.finding(changed(made_up, lambda r: {"curves": {}}))
    assert set(finding.table["on the front"]) == {"yes"}  # better and dearer, by how they were made up
    assert budget_curves.finding(changed(made_up, lambda r: {"curves": {}, "cost": {}})) is None


# --- kinds of guidance


INTERVAL = {"interval": [0.3, 1.0], "like": "lightningdit"}
WEAK = {"by": "small", "snapshot": 200, "like": "lightningdit"}


def with_kinds(
    seeds=("0", "1", "2"), guidances=(1.0, 1.5, 2.0), kinds=(("interval", INTERVAL), ("weak", WEAK))
):
    """Records of `lightningdit` at 100 + seed + 10 |w - 1.5| (`kl`: + 20), and of rows of other kinds.

    The interval is 5 below in the mean, and 4, 5 and 6 by seed; autoguidance is 2 above.
    """
    offsets = {"lightningdit": lambda seed: 0, "interval": lambda seed: seed - 6, "weak": lambda seed: 2}
    labels = ["lightningdit", *(label for label, _ in kinds)]
    some = records(regularizers=("none", "kl"), generators=labels, seeds=seeds, guidances=guidances)

    def edit(record):
        seed, label = int(record.cell["seed"]), record.cell["generator"]
        level = 100 + seed + offsets[label](seed) + 20 * (record.cell["regularizer"] == "kl")
        guided = {"guided": dict(kinds)[label]} if label in dict(kinds) else {}
        edited = scored(record, lambda w: level + 10 * abs(w - 1.5))
        return edited | {"provenance": record.provenance | guided}

    return changed(some, edit)


def test_kinds_of_guidance_stand_beside_the_plain_one_with_differences_by_seed():
    found = guidance_kinds.finding(with_kinds())
    table = found.table[found.table["regularizer"] == "none"].set_index("guidance")
    assert list(table.index) == ["plain", "by small after 200 steps", "interval 0.3–1"]
    assert set(table["generator"]) == {"lightningdit"} and set(table["w"]) == {"1.5"}
    assert list(table["row"]) == ["lightningdit", "weak", "interval"]
    assert list(table["gFD[net]"]) == pytest.approx([101, 103, 96])
    assert math.isnan(table["below plain"]["plain"])
    assert table["below plain"]["interval 0.3–1"] == pytest.approx(5)
    assert table["below plain std"]["interval 0.3–1"] == pytest.approx(1)
    assert table["below plain"]["by small after 200 steps"] == pytest.approx(-2)
    assert found.answer.startswith(
        "With lightningdit the lowest mean gFD is none's with guidance interval 0.3–1, 96 ± 2 (n = 3), "
        "5 ± 1 below plain guidance."
    )
    assert "interval 0.3–1 is better in 2 of 2 rows (2 in all seeds)" in found.answer
    assert "rows (0 in all seeds); the median row is 2 above plain guidance." in found.answer
    found.figure.canvas.draw()


def test_kinds_without_a_plain_row_are_shown_without_differences():
    found = guidance_kinds.finding(with_kinds(kinds=[("interval", INTERVAL | {"like": ""})]))
    assert set(found.table["generator"]) == {"interval"} and "below plain" not in found.table
    assert "Guidance interval 0.3–1 has no row with plain guidance beside it." in found.answer


def test_the_kinds_of_one_seed_are_no_finding_yet_and_plain_rows_alone_have_none(made_up):
    found = guidance_kinds.finding(with_kinds(seeds=("0",), guidances=(1.5,)))
    assert "One seed" in found.answer and "below plain std" not in found.table
    assert "6 below plain guidance" in found.answer
    assert guidance_kinds.finding(made_up) is None


def test_a_kind_of_guidance_in_words():
    own = {"interval": [0, 0.7], "by": "a", "snapshot": 1000, "like": "a"}
    assert guidance_kinds.kind_text(own, "a") == "interval 0–0.7, by its own weights after 1,000 steps"
    assert guidance_kinds.kind_text({"by": "small", "like": "a"}, "b") == "by small"
    assert guidance_kinds.kind_text({}, "a") == "plain"


# --- steps to a given quality


def along(some, values):
    """The records with quality curves of values[regularizer][seed] at steps 100, 200, …"""

    def edit(record):
        curve = values[record.cell["regularizer"]][int(record.cell["seed"])]
        steps = [100 * (i + 1) for i in range(len(curve))]
        return {"curves": {"quality": {"step": steps, "gFD[net]": curve}}}

    return changed(some, edit)


def test_steps_are_those_of_each_seeds_first_checkpoint_and_unreached_ones_are_bounds():
    some = records(regularizers=("none", "kl", "repa"), generators=("mar",), seeds=("0", "1"))
    found = steps_to_quality.finding(
        along(
            some,
            {
                "none": [[90.0, 80.0, 50.0], [90.0, 60.0, 52.41]],
                "kl": [[52.0, 70.0, 40.0], [90.0, 52.5, 45.0]],  # once there, later checkpoints don't matter
                "repa": [[90.0, 52.0, 51.0], [90.0, 80.0, 70.0]],
            },
        )
    )
    table = found.table.set_index("regularizer")
    name = "steps to gFD[net] <= 52.5"  # the largest final distance of `none`, rounded up
    assert table[name].to_dict() == {"kl": "150 ± 71", "none": "300", "repa": "> 250"}
    assert list(table["seeds"]) == [2, 2, 2] and list(table.index) == ["kl", "none", "repa"]
    assert found.answer == (
        "mar: gFD <= 52.5 first by kl, after 150 ± 71 steps (1 of 3 rows not in all seeds)."
    )
    assert "that none has at the end" in found.method and found.name == "steps"
    found.figure.canvas.draw()


def test_without_a_row_without_a_regularizer_every_row_reaches_the_goal():
    some = records(regularizers=("kl", "repa"), generators=("mar",), seeds=("0",))
    found = steps_to_quality.finding(along(some, {"kl": [[90.0, 61.0]], "repa": [[70.0, 60.5]]}))
    assert list(found.table["steps to gFD[net] <= 61"]) == ["200", "200"]
    assert found.answer.startswith("mar: gFD <= 61 by all rows, after 200 steps. One seed")
    assert "that any row has at the end" in found.method


def test_each_generator_has_a_goal_and_all_rows_a_number_for_each(made_up):
    found = steps_to_quality.finding(made_up)
    goals = [column for column in found.table if column.startswith("steps to")]
    assert len(goals) == 3 and all(
        found.table[goal].str.fullmatch(r"(> )?\d+( ± \d+)?").all() for goal in goals
    )


@pytest.mark.parametrize(
    ("distance", "rounded"), [(52.41, 52.5), (52.5, 52.5), (1437.2, 1440), (0.012341, 0.0124)]
)
def test_goals_are_rounded_up_to_three_digits(distance, rounded):
    assert steps_to_quality.rounded_up(distance) == rounded
