"""Operations of a whole training: every part counted, or no total."""

import pytest

from latentbench.bench.leaderboard.training_cost import generator_gflop, tokenizer_gflop

BUDGET = {"batch": 10, "tokenizer_steps": 100, "generator_steps": 50, "prior_steps": 20, "refine_steps": 5}
COST = {"tokenizer_gflop_per_image": 2.0, "regularizer_gflop_per_image": 1.0, "prior_gflop_per_sample": 3.0}


def test_priors_critics_and_refinement_are_counted():
    assert tokenizer_gflop(COST, BUDGET) == 10 * (2 * 105 + 1 * 100 + 3 * 20)


@pytest.mark.parametrize("missing", COST)
def test_there_is_no_total_where_a_part_is_unknown(missing):
    assert tokenizer_gflop({**COST, missing: None}, BUDGET) is None
    assert tokenizer_gflop({k: v for k, v in COST.items() if k != missing}, BUDGET) is None
    assert tokenizer_gflop(COST, {}) is None


def test_generators_count_to_a_step():
    cost = {"generator_parameters_million": 1.0, "generator_gflop_per_latent": 2.0}
    assert generator_gflop(cost, BUDGET) == 2 * 10 * 50
    assert generator_gflop(cost, BUDGET, 7) == 2 * 10 * 7
    assert generator_gflop({"generator_parameters_million": 1.0}, BUDGET) == 0.0
    assert generator_gflop({}, BUDGET) is None
