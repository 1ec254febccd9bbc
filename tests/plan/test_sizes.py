"""Published sizes: their options, and their parameters as the official code has them."""

import json
from typing import Annotated

import pytest
import torch
from typer.testing import CliRunner

from latentbench.bench.api import Flow, Generator, LatentSpec
from latentbench.bench.cli import app
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.options.axes import check_axes
from latentbench.bench.options.options import check_options, names_of, options_of
from latentbench.bench.registry import Use, create, get, names

F16 = (16, 16)  # the grid of 256 pixels at a sixteenth
XL = {"width": 1152, "depth": 28, "heads": 16}


def count(name, size, tokens, channels, classes=1000, **options):
    """Trained parameters, and those with the fixed table of positions, which official code counts as well."""
    spec = LatentSpec(tokens, channels, F16 if tokens == 256 else None)
    clean, wrong = check_options(get("generators", name), {"size": size, **options})
    assert not wrong
    with torch.device("meta"):
        model = create("generators", name, spec=spec, classes=classes, **clean)
    trained = sum(parameter.numel() for parameter in model.parameters())
    return trained, trained + (model.positions.numel() if name in ("lightningdit", "sit", "ddt") else 0)


@pytest.mark.parametrize(
    ("size", "options", "total", "trained"),
    [
        ("B", {}, 130_556_192, 130_359_584),
        ("XL", {}, 675_256_736, 674_961_824),
        ("1.0B", {}, 1_029_401_120, 1_029_007_904),
        ("1.6B", {}, 1_631_767_120, 1_631_308_368),
        ("S", {}, 32_986_784, 32_888_480),
        ("B", {"qk_norm": True}, 130_557_728, 130_361_120),
        ("L", {}, 458_156_032, 457_893_888),
        ("XL", {"qk_norm": True}, 675_260_768, 674_965_856),
    ],
)
def test_lightningdit_has_the_official_number_of_parameters(size, options, total, trained):
    assert count("lightningdit", size, 256, 32, **options) == (trained, total)


def test_dmvae_s_mini_has_it_on_points():
    assert count("lightningdit", "Mini", 1, 2, classes=1)[1] == 7_369_210


@pytest.mark.parametrize(
    ("size", "channels", "total"),
    [
        ("B", 32, 130_524_704),
        ("L", 32, 458_119_200),
        ("XL", 32, 675_148_064),
        ("XL", 16, 675_111_184),  # SiT-XL/2: patches of 2 x 2 of 4 channels
    ],
)
def test_sit_has_it(size, channels, total):
    assert count("sit", size, 256, channels)[1] == total


@pytest.mark.parametrize("size", ["B", "L", "XL"])
def test_meanflow_has_sit_s_and_a_second_embedding_of_time(size):
    width = get("generators", "meanflow").sizes[size]["width"]
    embedding = (256 + 1) * width + (width + 1) * width
    assert count("meanflow", size, 256, 16)[0] == count("sit", size, 256, 16)[0] + embedding


@pytest.mark.parametrize(
    ("size", "channels", "total"),
    [
        ("S", 768, 196_455_764),
        ("B", 768, 294_295_892),
        ("L", 768, 621_744_436),
        ("XL", 768, 838_675_796),
        ("XL", 1024, 840_019_540),
        ("XL", 32, 834_812_532),
    ],
)
def test_ddt_has_it_with_its_frequencies(size, channels, total):
    trained, with_positions = count("ddt", size, 256, channels)
    assert with_positions + 256 == total
    if (size, channels) == ("XL", 768):
        assert trained == 838_380_628


def test_ddt_s_blocks_have_it():
    with torch.device("meta"):
        model = create(
            "generators",
            "ddt",
            spec=LatentSpec(256, 8, F16),
            classes=3,
            **get("generators", "ddt").sizes["XL"],
        )
    sizes = [sum(p.numel() for p in block.parameters()) for block in (model.blocks[0], model.head_blocks[0])]
    assert sizes == [23_908_992, 75_532_970]


@pytest.mark.parametrize(
    ("size", "tokens", "channels", "options", "total"),
    [
        ("B", 256, 16, {"head": "diffusion"}, 207_924_768),
        ("L", 256, 16, {"head": "diffusion"}, 478_326_304),
        ("H", 256, 16, {"head": "diffusion"}, 942_403_104),
        ("L", 256, 16, {"head": "diffusion", "head_width": 1024, "head_depth": 3}, 426_357_792),
        ("B", 64, 32, {"head": "flow"}, 207_511_072),
        ("B", 64, 32, {"head": "flow", "qk_norm": True}, 207_517_216),
    ],
)
def test_mar_has_it_with_either_head(size, tokens, channels, options, total):
    assert count("mar", size, tokens, channels, **options)[0] == total


@pytest.mark.parametrize(
    ("size", "total", "head"),
    [("B", 150_133_536, 19_999_776), ("L", 477_646_880, 20_261_920), ("H", 970_592_544, 20_524_064)],
)
def test_raster_ar_has_it_with_l_detok_s_latents_of_256_tokens_of_16_channels(size, total, head):
    """With a row for "no class", all biases, gains in blocks' norms alone, and a place more than tokens."""
    assert count("raster_ar", size, 256, 16)[0] == total
    with torch.device("meta"):
        options = check_options(get("generators", "raster_ar"), {"size": size})[0]
        model = create("generators", "raster_ar", spec=LatentSpec(256, 16, F16), classes=1000, **options)
    assert sum(parameter.numel() for parameter in model.head.parameters()) == head


@pytest.mark.parametrize(
    ("size", "channels", "total"),
    [
        ("S", 64, 37_032_960),
        ("B", 64, 141_305_088),
        ("L", 64, 474_852_096),
        ("XL", 64, 695_299_584),
        ("XXL", 64, 1_364_643_840),
        ("S", 16, 36_700_608),
        ("B", 16, 140_640_960),
        ("L", 16, 473_966_784),
        ("XL", 16, 694_303_680),
        ("XXL", 16, 1_363_647_936),
    ],
)
def test_simflow_s_flows_have_it(size, channels, total):
    assert count("tarflow", f"simflow-{size}", 256, channels)[0] == total


@pytest.mark.parametrize(
    ("size", "classes", "channels", "total"),
    [
        ("tarflow-IN64", 1000, 12, 466_286_784),
        ("tarflow-IN64", 0, 12, 460_142_784),
        ("tarflow-IN128", 1000, 48, 823_927_552),
    ],
)
def test_tarflow_has_it_on_pixels(size, classes, channels, total):
    assert count("tarflow", size, 1024, channels, classes)[0] == total


@pytest.mark.parametrize(("size", "total"), [("XL", 1_410_203_720), ("XXL", 3_851_987_016)])
def test_starflow_has_it_without_text_on_four_channels(size, total):
    assert count("tarflow", f"starflow-{size}", 1024, 4, classes=0)[0] == total


@pytest.mark.parametrize(
    ("size", "channels", "total"),
    [
        ("flow-priors", 32, 34_978_848),
        ("flow-priors", 8, 34_929_672),
        ("flow-priors", 2, 34_917_378),
        ("flow-priors-toy", 2, 6_179_330),
    ],
)
def test_the_flow_prior_has_it(size, channels, total):
    assert count("velocity_mlp", size, 64, channels, classes=0)[0] == total


@pytest.mark.parametrize(
    ("name", "size", "channels", "millions", "options"),
    [
        ("mar", "B", 16, 208, {"head": "diffusion"}),
        ("mar", "L", 16, 479, {"head": "diffusion"}),
        ("mar", "H", 16, 943, {"head": "diffusion"}),
        ("lightningdit", "XL", 32, 675, {}),
        ("lightningdit", "XL", 32, 675, {"qk_norm": True}),
        ("sit", "B", 16, 130, {}),
        ("sit", "L", 16, 458, {}),
        ("sit", "XL", 16, 675, {}),
        ("ddt", "XL", 768, 839, {}),
        ("tarflow", "simflow-S", 64, 37, {}),
        ("tarflow", "simflow-B", 64, 141, {}),
        ("tarflow", "simflow-L", 64, 475, {}),
        ("tarflow", "simflow-XL", 64, 695, {}),
        ("tarflow", "starflow-XL", 4, 1410, {}),
    ],
)
def test_the_papers_numbers_in_millions_hold_within_a_percent(name, size, channels, millions, options):
    assert count(name, size, 256, channels, **options)[1] / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("kind", ["generators", "tokenizers"])
def test_every_size_is_made_of_options(kind):
    for name in names(kind):
        for size in get(kind, name).sizes:
            assert not check_options(get(kind, name), {"size": size})[1], (name, size)


def test_a_size_is_the_options_that_it_stands_for():
    cls = get("generators", "lightningdit")
    assert check_options(cls, {"size": "XL"}) == check_options(cls, XL)
    assert "size" not in options_of(cls)  # so no key of a cache has it
    assert "size" in names_of(cls) and "size" not in names_of(get("generators", "gaussian"))


def test_what_is_given_beside_a_size_wins():
    cls = get("generators", "lightningdit")
    assert check_options(cls, {"size": "XL", "depth": 12})[0] == check_options(cls, {**XL, "depth": 12})[0]
    variants, wrong = check_axes(cls, {"size": "XL", "depth": [1, 2]})
    assert not wrong and [options["depth"] for _, options in variants.rows()] == [1, 2]
    assert {options["width"] for _, options in variants.rows()} == {1152}


def test_sizes_are_an_axis():
    cls = get("generators", "lightningdit")
    variants, wrong = check_axes(cls, {"heads": 8, "size": ["B", "1.0B"], "depth": [1, 24]})
    rows = dict(variants.rows())
    assert not wrong and list(rows) == [
        "[size=B,depth=1]",
        "[size=B,depth=24]",
        "[size=1.0B,depth=1]",
        "[size=1.0B,depth=24]",
    ]
    assert rows["[size=1.0B,depth=1]"] == check_options(cls, {"width": 1536, "depth": 1, "heads": 8})[0]


class Paired(Generator):
    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        prior: Annotated[Use, Flow] = {"use": "lightningdit", "cosine": False, "depth": 2},  # noqa: B006
    ) -> None:
        super().__init__(spec, classes)


def test_a_part_in_an_option_has_sizes_too():
    large = check_options(Paired, {"prior": {"size": "XL"}})[0]["prior"]
    # The size stands above the option's default, and what it doesn't name stays as it is there.
    assert (large["depth"], large["width"], large["cosine"]) == (28, 1152, False)
    assert check_options(Paired, {"prior": {"size": "XL", "depth": 3}})[0]["prior"]["depth"] == 3
    mlp = check_options(Paired, {"prior": {"use": "velocity_mlp", "size": "flow-priors"}})[0]["prior"]
    assert (mlp["width"], mlp["depth"]) == (1024, 6)
    variants, wrong = check_axes(Paired, {"prior": [{"size": "B"}, {"size": "XL"}]})
    assert not wrong
    assert [suffix for suffix, _ in variants.rows()] == ["[prior=size:B]", "[prior=size:XL]"]


@pytest.mark.parametrize(
    ("options", "place", "message"),
    [
        ({"size": "X-L"}, ("size",), "unknown size 'X-L'; did you mean 'XL'? (bench info)"),
        ({"size": 3}, ("size",), "size must be one of Mini, S, L, B, XL, 1.0B, 1.6B, not 3"),
        (
            {"size": ["B", "C"]},
            ("size", 1),
            "unknown size 'C'; known: 1.0B, 1.6B, B, L, Mini, S, XL (bench info)",
        ),
        ({"size": []}, ("size",), "the axis 'size' is empty; it needs at least one value"),
        ({"sise": "B"}, ("sise",), "unknown option 'sise'; did you mean 'size'? (bench info)"),
    ],
)
def test_a_wrong_size_is_named_at_its_place(options, place, message):
    assert check_axes(get("generators", "lightningdit"), options, where="bench info")[1] == [(place, message)]


def test_a_part_without_sizes_has_no_such_option():
    (place, message), *_ = check_options(get("generators", "gaussian"), {"size": "XL"})[1]
    assert place == ("size",) and message.startswith("unknown option 'size'")


MATRIX = """\
name: sizes
dataset: {use: digits}
features: effnet_lite0
tokenizers: {vit: {}}
regularizers:
  flow_prior: {prior: {use: velocity_mlp, size: flow-priors}}
generators:
  lightningdit: {size: [B, XL], depth: 3, guidance: [1.0, 1.5]}
  mar: {size: B, head: diffusion}
evaluators: [reconstruction]
"""


def test_a_matrix_takes_sizes_beside_options(tmp_path):
    file = tmp_path / "matrix.yaml"
    file.write_text(MATRIX)
    matrix = load_matrix(file)
    rows = {row.label: row.options for row in matrix.generators}
    assert list(rows) == ["lightningdit[size=B]", "lightningdit[size=XL]", "mar"]
    assert rows["lightningdit[size=XL]"]["width"] == 1152 and rows["lightningdit[size=XL]"]["depth"] == 3
    assert rows["mar"]["head"] == "diffusion" and rows["mar"]["buffer"] == 64
    assert matrix.regularizers[0].options["prior"]["width"] == 1024
    assert not any("size" in options for options in rows.values())


def test_a_wrong_size_is_shown_where_it_stands(tmp_path):
    file = tmp_path / "matrix.yaml"
    file.write_text(MATRIX.replace("size: B,", "size: big,").replace("size: flow-priors", "size: flow-prior"))
    with pytest.raises(MatrixError) as error:
        load_matrix(file)
    places = {(p.line, p.column): p.message for p in error.value.problems}
    lines = file.read_text().splitlines()
    assert [lines[line - 1][column - 1 :].split("}")[0].split(",")[0] for line, column in places] == [
        "flow-prior",
        "big",
    ]
    first, second = places.values()
    assert "did you mean 'flow-priors'?" in first and "known: B, H, L" in second


def test_info_lists_sizes_with_their_parameters():
    said = CliRunner().invoke(app, ["info", "generator", "lightningdit"]).stdout
    assert "parameters for 256 tokens of 32 channels, 1,000 classes" in said
    assert any(line.split()[:2] == ["XL", "674,961,824"] for line in said.splitlines())
    facts = json.loads(CliRunner().invoke(app, ["info", "generators", "sit", "--json"]).stdout)["sizes"]
    assert facts["XL"]["options"] == XL and facts["XL"]["parameters"] == 675_148_064 - 256 * 1152
