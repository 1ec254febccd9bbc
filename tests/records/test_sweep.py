"""A sweep's choice, the signs of choices at its ends, and its way through a record."""

import json

import pytest

from latentbench.bench.records.sweep import Sweep, edge


def test_the_least_distance_is_chosen_and_of_equal_ones_the_smaller_guidance():
    assert Sweep("gFD[net]", 9, (1.0, 2.0, 4.0), (8.0, 5.0, 5.0)).chosen == 2.0
    assert Sweep("gFD[net]", 9, (1.0, 2.0, 4.0), (None, 7.0, 6.0)).chosen == 4.0
    with pytest.raises(ValueError, match="finite"):
        Sweep("gFD[net]", 9, (1.0, 2.0), (None, None)).chosen  # noqa: B018


@pytest.mark.parametrize(
    ("chosen", "tried", "sign"),
    [
        (4.0, (1.0, 2.0, 4.0), "+"),
        (2.0, (1.0, 2.0, 4.0), ""),
        (1.0, (1.0, 2.0, 4.0), ""),  # no guidance: nobody could pass it to be better guided
        (1.5, (1.5, 2.0, 4.0), "-"),
        (0.5, (0.5, 1.0), "-"),
        (0.0, (0.0, 1.0), ""),  # nothing is below
        (1.0, (0.5, 1.0), "+"),
        (2.0, (2.0,), ""),  # no choice
    ],
)
def test_a_choice_at_an_end_is_signed_unless_nothing_lies_beyond(chosen, tried, sign):
    assert edge(chosen, tried) == sign


def test_a_sweep_is_read_back_from_a_record_s_curves():
    sweep = Sweep("gFD[net]", 359, (1.0, 1.5, 4.0), (50.25, None, 48.5))
    curve = json.loads(json.dumps(sweep.curve()))
    assert curve == {
        "w": [1.0, 1.5, 4.0],
        "gFD[net]": [50.25, None, 48.5],
        "samples": [359, 359, 359],
        "chosen": [0, 0, 1],
    }
    assert Sweep.of({"guidance": curve, "generator": {"step": [1]}}) == sweep
    assert Sweep.of({"generator": {"step": [1]}}) is None
