import pytest

from latentbench.bench.matrix.guidance_kinds import guided_otherwise
from latentbench.bench.matrix.load import load_matrix

MATRIX = """\
name: kinds
dataset: {use: digits}
budget: {tokenizer_steps: 2, generator_steps: 4, batch: 8}
features: effnet_lite0
samples: 16
tokenizers: {vit: {}}
regularizers: {none: {}}
generators:
  more_steps: {use: lightningdit, sampler: {steps: 8}}
  plain: {use: lightningdit, guidance: [1.0, 2.0], sampler: {steps: 4}}
  interval: {use: lightningdit, guidance: 2.0, sampler: {steps: 4, guidance_start: 0.3}}
  whole: {use: lightningdit, guidance: 3.0, sampler: {steps: 4, guidance_start: 0.0, guidance_end: 1.0}}
  itself: {use: lightningdit, guidance: 2.0, autoguidance: {snapshot: 2}, sampler: {steps: 4}}
  small: {use: lightningdit, width: 32, heads: 2}
  by_small:
    {use: lightningdit, guidance: 2.0, autoguidance: {row: small}, sampler: {steps: 8, guidance_end: 0.8}}
  alone: {use: lightningdit, guidance: 2.0, sampler: {steps: 5, guidance_end: 0.8}}
  gaussian: {}
evaluators: [generation]
"""


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    file = tmp_path_factory.mktemp("matrix") / "matrix.yaml"
    file.write_text(MATRIX)
    return load_matrix(file)


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        ("plain", {}),
        ("whole", {}),  # an interval of all times is none
        ("gaussian", {}),
        ("real", {}),
        ("interval", {"interval": [0.3, 1.0], "like": "plain"}),
        ("itself", {"by": "itself", "snapshot": 2, "like": "plain"}),
        ("by_small", {"interval": [0.0, 0.8], "by": "small", "like": "more_steps"}),
        ("alone", {"interval": [0.0, 0.8], "like": ""}),  # no other row takes as many steps
    ],
)
def test_rows_say_how_they_are_guided_and_which_row_is_else_like_them(matrix, generator, expected):
    assert guided_otherwise(matrix, {"generator": generator}) == expected
