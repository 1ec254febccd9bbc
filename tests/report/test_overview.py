"""A report's first lines: what was trained, the answer with its certainty, and what was not finished."""

import dataclasses
from pathlib import Path

import pytest
from helpers.fabricated_records import records

from latentbench.bench.leaderboard.results import Results
from latentbench.bench.report.markdown import markdown
from latentbench.bench.report.overview import overview

TWO = {"generators": ("mar", "tarflow"), "guidances": (1.0,)}
SURE = {"noise": 0.01, "seeds": tuple("01234"), "regularizers": ("none", "repa", "simflow")}


def of(found, folders=()):
    return overview(Results.of(found), folders)


def changed(found, where, **changes):
    """The records, with changes to those of some generator or regularizer."""
    return [dataclasses.replace(r, **changes) if where in r.cell.values() else r for r in found]


def test_the_answer_names_the_winner_of_each_generator_and_by_what():
    assert of(records(**SURE, **TWO)).answer == "By gFD[net], mar works best with repa; tarflow with repa."


def test_a_tie_is_said_with_all_its_rows():
    same = dict.fromkeys(("none", "repa", "simflow"), 0.0) | {"kl": 0.9}
    found = records(("none", "kl", "repa"), **TWO, quality=same | {"kl": -2.0}, noise=4.0)
    first = of(found)
    assert "(a tie)" in first.answer and "kl" not in first.answer
    assert {verdict.level for verdict in first.verdicts["digits"]} == {"tie"}


def test_a_generator_that_tells_no_rows_apart_is_said_to():
    same = dict.fromkeys(("none", "repa", "simflow"), 0.0)
    found = records(("none", "repa", "simflow"), **TWO, quality=same, noise=9.0)
    assert "tarflow shows no difference between the 3 regularizers" in of(found).answer


def test_one_seed_names_no_winner_but_tells_its_order():
    found = records(("none", "repa"), **TWO, seeds=("0",))
    answer = "In this run, by gFD[net], mar works best with repa; tarflow with repa."
    assert (
        of(found).answer == f"One seed cannot name a winner. {answer}"
        and "There is one seed." in of(found).trained
    )


def test_a_single_row_is_no_answer_beside_rows_that_were_compared():
    found = [
        r
        for r in records(**SURE, **TWO)
        if r.cell["generator"] != "tarflow" or r.cell["regularizer"] == "repa"
    ]
    first = of(found)
    assert first.answer == "By gFD[net], mar works best with repa."
    assert [verdict.generator for verdict in first.verdicts["digits"]] == ["mar", "tarflow"]
    alone = of([r for r in found if r.cell["regularizer"] in ("repa", "real")])
    assert "there is nothing to compare it with" in alone.answer


def test_baselines_come_last_and_are_no_answer():
    found = changed(records(**SURE, **TWO), "mar", curves={})
    first = of(found)
    assert first.answer == "By gFD[net], tarflow works best with repa."
    assert [verdict.generator for verdict in first.verdicts["digits"]] == ["tarflow", "mar"]
    assert (
        "tarflow then learned to generate its latents (700 steps); mar was fitted to them as a baseline"
        in first.trained
    )


def test_where_nothing_was_generated_the_tokenizer_is_judged():
    found = [
        dataclasses.replace(r, metrics={k: v for k, v in r.metrics.items() if v["scope"] == "tokenizer"})
        for r in records(**SURE, **TWO)
        if not r.real
    ]
    first = of(found)
    assert first.answer == "By PSNR, the best regularizer is none."
    assert "learned" not in first.trained and "fitted" not in first.trained


def test_datasets_with_one_answer_share_a_clause():
    both = [*records(**SURE, **TWO), *records(**SURE, **TWO, dataset="letters")]
    assert (
        of(both).answer == "By gFD[net], on digits and letters mar works best with repa; tarflow with repa."
    )


def test_what_was_trained_is_one_sentence_with_steps_and_seeds():
    first = of(records(**SURE, **TWO))
    assert first.trained == (
        "The tokenizer vit was trained on digits with each of 3 regularizers (400 steps, batches of 64); "
        "mar and tarflow then learned to generate its latents (700 steps). "
        "Every number is a mean over 5 seeds."
    )
    mixed = changed(records(**SURE, **TWO), "repa", provenance={})
    assert "steps" not in of(mixed).trained
    scored = [dataclasses.replace(r, provenance={"budget": {"tokenizer_steps": 0}}) for r in records(**TWO)]
    assert of(scored).trained.startswith("The tokenizer vit was scored on digits as it is, without training")


def test_methods_that_no_tokenizer_was_trained_with_are_not_counted():
    found = changed(records(**SURE, **TWO), "repa", status="skipped", reason="not needed", metrics={})
    assert "with each of 2 regularizers" in of(found).trained
    other = [dataclasses.replace(r, cell=r.cell | {"tokenizer": "conv"}) for r in found if not r.real]
    other = changed(other, "none", status="skipped", reason="not needed", metrics={})
    assert "tokenizers conv and vit were each trained on digits with up to 2" in of([*found, *other]).trained
    assert "then learned to generate their latents" in of([*found, *other]).trained


def test_date_commit_and_command_are_those_of_the_folder(tmp_path):
    found = records(**TWO)
    assert (of(found).date, of(found).commit, of(found).command) == ("2026-01-01", "0000000", "")
    (tmp_path / "matrix.lock.yaml").write_text("name: a\n")
    assert of(found, [tmp_path]).command == "bench run --matrix matrix.lock.yaml"
    assert of(found, [tmp_path, tmp_path]).command == ""
    late = changed(found, "mar", provenance={"date": "2026-02-03", "git_commit": "f" * 40})
    assert (of(late).date, of(late).commit) == ("2026-01-01 to 2026-02-03", "fffffff, 0000000")
    assert of(changed(changed(found, "mar", provenance={}), "tarflow", provenance={})).date == "2026-01-01"


@pytest.mark.parametrize(
    "done, said", [({"0"}, "There is one seed."), ({"0", "1"}, "a mean over 2 to 3 seeds.")]
)
def test_seeds_that_were_skipped_or_are_to_come_do_not_count(done, said):
    found = [
        dataclasses.replace(r, status="skipped", reason="no grid", metrics={})
        if r.cell["seed"] not in done and (done == {"0"} or r.cell["regularizer"] == "repa")
        else r
        for r in records(("none", "repa"), **TWO)
    ]
    assert of(found).trained.endswith(said)


def test_no_numbers_are_no_answer():
    found = [
        dataclasses.replace(r, status="failed", reason="nan", metrics={})
        for r in records(**TWO)
        if not r.real
    ]
    assert of(found).answer == "No cell has a number yet."
    assert "No cell has a number yet." in markdown(found, "t")


@pytest.mark.parametrize(
    ("reasons", "line"),
    [
        (
            {"none": "none has no generator of its own", "repa": "repa has no generator of its own"},
            "6 cells were skipped: none and repa with mar (the regularizer has no generator of its own).",
        ),
        ({"repa": "the grid is too small"}, "3 cells were skipped: repa with mar (the grid is too small)."),
        ({"repa": "none\nof them"}, "3 cells were skipped: repa with mar (none of them)."),
        ({"repa": "x" * 999}, f"3 cells were skipped: repa with mar ({'x' * 159}…)."),
        ({"repa": ""}, "3 cells were skipped: repa with mar (no reason is known)."),
    ],
)
def test_cells_that_were_skipped_for_one_reason_are_one_line(reasons, line):
    found = [
        dataclasses.replace(r, status="skipped", reason=reasons[r.cell["regularizer"]], metrics={})
        if r.cell["regularizer"] in reasons and r.cell["generator"] == "mar"
        else r
        for r in records(("none", "repa"), **TWO)
    ]
    assert of(found).unfinished == [line]


def test_a_committed_study_is_told_without_its_page():
    folder = Path(__file__).parents[2] / "results/studies/methods"
    from latentbench.bench.records.files import read_records

    first = of(read_records(folder / "records"), [folder])
    assert first.answer.startswith("By gFD[effnet_lite2], lightningdit works best with")
    assert first.command and first.date and len(first.commit) == 7


def as_they_are(found):
    """The records, of tokenizers that were scored without training, all by the mean of their latents."""
    budget = {"tokenizer_steps": 0}
    return [
        dataclasses.replace(
            record,
            cell=record.cell | {"tokenizer": record.cell["regularizer"], "regularizer": "mean"},
            provenance=record.provenance | {"budget": budget},
            metrics={name: e for name, e in record.metrics.items() if e["scope"] == "tokenizer"},
        )
        for record in found
        if not record.real
    ]


def test_images_alone_separate_tokenizers_that_nothing_has_trained():
    found = as_they_are(records(("none", "kl", "repa"), generators=("none",), seeds=("0",)))
    first, page = of(found), markdown(found, "score")
    (verdict,) = first.verdicts["digits"]
    assert first.answer == "By PSNR, the best tokenizer is none."
    assert verdict.sure == "360 images separate it from both others (95 %, corrected for all pairs)."
    assert verdict.rank == "1 of 3" and verdict.interval.startswith("95 % over images")
    assert first.trained.startswith("The tokenizers kl, none and repa were each scored on digits as they are")
    assert "## Which tokenizer reconstructs best?" in page and f"**{verdict.value}**" in page
    assert "one seed" not in page.lower() and "training variance" not in page


def test_the_same_tokenizers_with_one_training_each_have_no_winner():
    found = as_they_are(records(("none", "kl"), generators=("none",), seeds=("0",)))
    trained = [dataclasses.replace(r, provenance={"budget": {"tokenizer_steps": 9}}) for r in found]
    assert of(trained).answer.startswith("One seed cannot name a winner.")
    assert "**" not in markdown(trained, "score")


def test_equal_tokenizers_share_every_rank_and_are_a_tie():
    one = as_they_are(records(("none",), generators=("none",), seeds=("0",)))
    two = [dataclasses.replace(r, cell=r.cell | {"tokenizer": "copy"}) for r in one]
    first = of([*one, *two])
    (verdict,) = first.verdicts["digits"]
    assert (verdict.rank, verdict.level, len(verdict.ties)) == ("1–2 of 2", "tie", 1)
    assert verdict.sure == "A tie: 360 images cannot separate both rows." and not verdict.needed
