"""The order in which cells are made: a small comparison of all regularizers first."""

import pytest
from helpers.run import TINY

from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.plan.estimate import costs
from latentbench.bench.plan.make import make_plan
from latentbench.bench.plan.rounds import compared, rounds, to_come

TWO_OF_ALL = (
    TINY.replace("seeds: [0]", "seeds: [0, 1]")
    .replace(
        "tokenizers:\n",
        "tokenizers:\n  wide: {use: vit, width: 32, depth: 1, heads: 2, patch: 4, channels: 4}\n",
    )
    .replace("  gaussian: {}\n", "  tarflow: {width: 64}\n  gaussian: {}\n")
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    file = tmp_path_factory.mktemp("rounds") / "matrix.yaml"
    file.write_text(TWO_OF_ALL)
    return make_plan(load_matrix(file))


@pytest.fixture(scope="module")
def made(plan):
    return rounds(plan, plan.cells, costs(plan, plan.stages.values()))


def test_cheap_generators_come_first_on_every_tokenizer_and_seeds_one_after_the_other(made):
    cheap, dear = ("gaussian", "lightningdit"), ("tarflow",)
    of_a_seed = [("wide", cheap), ("vit", cheap), ("wide", dear), ("vit", dear)]
    found = [(round.seed, round.tokenizer, round.generators) for round in made]
    assert found == [(seed, *rest) for seed in "01" for rest in of_a_seed]


def test_a_round_has_all_regularizers_and_the_first_the_held_out_images(made):
    for number, round in enumerate(made):
        trained = [(c.generator, c.regularizer) for c in round.cells if not c.real]
        assert trained == [(g, r) for g in round.generators for r in ("none", "kl")]
        assert sum(c.real for c in round.cells) == (number == 0)


def test_every_cell_is_in_one_round(plan, made):
    keys = [cell.key for round in made for cell in round.cells]
    assert sorted(keys) == sorted(cell.key for cell in plan.cells)


def test_held_out_images_alone_are_a_round(plan):
    [alone] = rounds(plan, [cell for cell in plan.cells if cell.real], {})
    assert [cell.real for cell in alone.cells] == [True]


def test_a_round_is_said_in_words(made):
    assert compared(made[0]) == "none and kl with gaussian and lightningdit on wide, seed 0"
    left = [round for round in made if round.seed == "1" or "tarflow" in round.generators]
    assert (
        to_come(left, 16, 24)
        == "8 of 24 cells are done. To come: tarflow for seed 0, then seed 1, for the spread."
    )
