"""Constructors as schemas: options, ranges, axes."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from latentbench.bench.api import Dataset, Flow, Generator, LatentSpec, Likelihood, Regularizer
from latentbench.bench.options.axes import check_axes
from latentbench.bench.options.options import REQUIRED, check_options, options_of
from latentbench.bench.options.words import label_text
from latentbench.bench.registry import PartError, Use, use

Count = Annotated[int, Field(ge=1)]


class Method(Regularizer):
    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        teacher_spec: LatentSpec,
        depth: int,
        weight: Annotated[float, Field(ge=0, lt=2)] = 1,
        widths: tuple[Count, ...] = (32, 64),
        size: int | tuple[int, int] = 8,
        mode: Literal["a", "b"] = "a",
        limit: Count | None = None,
        flag: bool = False,
        text: str = "x",
        prior: dict[str, Any] | None = None,
        level: Literal[0, 1] = 0,
        path: Path = Path("."),
    ) -> None:
        super().__init__(spec)


class Narrow(Method):
    """Passes what it doesn't know to its base."""

    def __init__(self, spec: LatentSpec, weight: float = 3.0, extra: int = 1, **options: Any) -> None:
        super().__init__(spec, weight=weight, **options)


class Model(Generator):
    def sample(self, labels, guidance, noise, *, steps: Count = 30, shift: float = 1.0):
        return labels


class Data(Dataset):
    def __init__(self, classes: int = 10) -> None:
        self.classes = classes


def faults(**options: Any) -> list[str]:
    return [message for _, message in check_options(Method, {"depth": 1} | options)[1]]


def test_facts_of_the_frame_are_no_options():
    assert not {"self", "spec", "classes", "teacher_spec"} & set(options_of(Method))
    assert set(options_of(Data)) == {"classes"}  # the frame gives a dataset nothing
    assert set(options_of(Model)) == set()


def test_an_option_says_its_annotation_default_and_range():
    options = options_of(Method)
    assert options["weight"].annotation == "float"
    assert options["weight"].default == 1.0 and options["depth"].default is REQUIRED
    assert options["weight"].choices == "a number >= 0 and < 2"
    assert options["widths"].annotation == "tuple[int, ...]"
    assert options["widths"].choices == "a list, each an integer >= 1"
    assert options["mode"].choices == "'a' or 'b'"
    assert options["limit"].annotation == "int | None"
    assert options["limit"].choices == "an integer >= 1 or null"


def test_keyword_only_arguments_of_sample_are_the_samplers_options():
    assert set(options_of(Model, "sample")) == {"steps", "shift"}
    assert check_options(Model, {"steps": 5}, method="sample") == ({"steps": 5, "shift": 1.0}, [])
    assert options_of(Generator, "sample") == {}


def test_options_passed_on_to_a_base_are_options():
    options = options_of(Narrow)
    assert options["weight"].default == 3.0 and options["extra"].default == 1
    assert "widths" in options and "classes" not in options


def test_defaults_are_filled_in_and_values_take_the_annotated_form():
    clean, wrong = check_options(
        Method, {"depth": 2, "weight": 1, "widths": [8], "size": [1, 2], "path": "data"}
    )
    assert not wrong
    assert clean["weight"] == 1.0 and type(clean["weight"]) is float
    assert clean["widths"] == (8,) and clean["size"] == (1, 2) and clean["path"] == Path("data")
    assert clean["mode"] == "a" and clean["limit"] is None


def test_leaving_an_option_out_and_writing_its_default_are_the_same():
    assert check_options(Method, {"depth": 1, "weight": 1})[0] == check_options(Method, {"depth": 1})[0]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("depth", True, "depth must be an integer, not true"),
        ("depth", 2.0, "depth must be an integer, not 2.0"),
        ("depth", "2", "depth must be an integer, not '2'"),
        ("weight", "0.1", "weight must be a number >= 0 and < 2, not '0.1'"),
        ("weight", True, "weight must be a number >= 0 and < 2, not true"),
        ("weight", -1, "weight must be a number >= 0 and < 2, not -1"),
        ("weight", float("nan"), "weight must be a number >= 0 and < 2, not nan"),
        ("weight", 10**400, "weight must be a number >= 0 and < 2, not 1000"),
        ("widths", [32, "x"], "widths must be a list, each an integer >= 1, not [32, 'x']"),
        ("widths", [0], "widths must be a list, each an integer >= 1, not [0]"),
        ("size", [1, 2, 3], "size must be an integer or a list of 2: an integer, an integer, not [1, 2, 3]"),
        ("mode", "c", "mode must be 'a' or 'b', not 'c'"),
        ("limit", 1.5, "limit must be an integer >= 1 or null, not 1.5"),
        ("flag", "yes", "flag must be true or false, not 'yes'"),
        ("flag", 1, "flag must be true or false, not 1"),
        ("text", 1, "text must be text, not 1"),
        ("prior", "tarflow", "prior must be a mapping or null, not 'tarflow'"),
        ("level", True, "level must be 0 or 1, not true"),
        ("wieght", 1, "unknown option 'wieght'; did you mean 'weight'?"),
        ("zzzzz", 1, "unknown option 'zzzzz'; known: depth, flag, level"),
    ],
)
def test_a_wrong_value_is_named_with_its_choices(option, value, message):
    [found] = faults(**{option: value})
    assert found.startswith(message)
    assert len(found) < 200


def test_a_missing_option_is_named():
    assert check_options(Method, {})[1] == [((), "the option 'depth' is missing; it must be an integer")]


def test_all_faults_come_at_once():
    assert len(faults(weight=-1, mode="c", wieght=0)) == 3


def test_a_list_is_an_axis_unless_it_is_a_value():
    def lists(name: str, value: Any) -> bool:
        return options_of(Method)[name].is_axis(value)

    assert lists("weight", [0.1, 0.2]) and lists("mode", ["a"]) and lists("depth", [])
    assert not lists("widths", [8, 16]) and lists("widths", [[8, 16], [8]])
    assert not lists("widths", [8, "x"])  # a value with a mistake
    assert not lists("size", [1, 2]) and lists("size", [1, 2, 3]) and lists("size", [4, [1, 2]])
    assert lists("prior", [{"use": "a"}, None])


def test_axes_multiply_with_the_last_moving_fastest():
    variants, wrong = check_axes(Method, {"weight": [1e-5, 0.01], "depth": [1, 2], "widths": [[8], [8, 16]]})
    assert not wrong and variants.count == 8
    labels = [suffix for suffix, _ in variants.rows()]
    assert labels[:3] == [
        "[weight=1e-05,depth=1,widths=8]",
        "[weight=1e-05,depth=1,widths=8x16]",
        "[weight=1e-05,depth=2,widths=8]",
    ]
    options = [options for _, options in variants.rows()][-1]
    assert options == check_options(Method, {"weight": 0.01, "depth": 2, "widths": [8, 16]})[0]


def test_without_axes_there_is_one_row_without_a_suffix():
    variants, _ = check_axes(Method, {"depth": 1})
    assert [suffix for suffix, _ in variants.rows()] == [""]


def test_every_value_of_an_axis_is_checked_at_its_place():
    _, wrong = check_axes(Method, {"depth": [1, "x", 2, None], "weight": []})
    assert wrong == [
        (("depth", 1), "depth must be an integer, not 'x'"),
        (("depth", 3), "depth must be an integer, not null"),
        (("weight",), "the axis 'weight' is empty; it needs at least one value"),
    ]


def test_a_product_of_axes_is_counted_without_being_made():
    many = list(range(10_000))
    wide = type("Wide", (), {"__init__": lambda self, a=0, b=0, c=0, d=0, e=0: None})
    assert check_axes(wide, dict.fromkeys("abcde", many))[0].count == 10**20


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "1e-05"),
        (0.01, "0.01"),
        (0.123456789, "0.123456789"),
        (1437000, "1437000"),
        (True, "true"),
        (None, "null"),
        ((8, 16), "8x16"),
        ("a/b\\c\nd", "a_b_c_d"),
        ({"use": "tarflow", "width": 64}, "tarflow+width:64"),
    ],
)
def test_values_in_labels_are_short_and_unambiguous(value, text):
    assert label_text(value) == text


def test_annotations_that_cannot_be_read_are_the_parts_fault():
    class Broken:
        def __init__(self, x: Missing = 1) -> None: ...  # noqa: F821

    with pytest.raises(PartError, match="the annotations of Broken cannot be read: name 'Missing'"):
        check_options(Broken, {})


def test_a_value_that_a_cache_key_cannot_hold_is_a_fault_at_its_option():
    class Dated:
        def __init__(self, day: date, until: date = date(2026, 1, 1)) -> None: ...

    _, faults = check_options(Dated, {"day": "2026-11-28"})
    message = "the option 'day': datetime.date(2026, 11, 28) of type date cannot be part of a cache key; "
    assert [trail for trail, _ in faults] == [(), ("day",)]
    assert faults[1][1].startswith(message) and "'until'" in faults[0][1]


def test_without_an_annotation_the_default_says_the_type():
    options = options_of(type("Loose", (), {"__init__": lambda self, a=1, b=0.5, c="x", d=None: None}))
    assert options["a"].read(2) == 2 and options["a"].read(0.5) == 0.5 and options["a"].is_axis([1, 2])
    assert options["b"].choices == "a number" and options["c"].choices == "text"
    assert options["d"].read([1, "x"]) == [1, "x"]


class Paired(Regularizer):
    """Takes other parts as options."""

    def __init__(
        self,
        spec: LatentSpec,
        prior: Annotated[Use, Likelihood] = {"use": "tarflow", "width": 32},  # noqa: B006
        score: Annotated[Use, (Flow, Likelihood)] = "lightningdit",
        other: Annotated[Use, Flow] | None = None,
    ) -> None:
        super().__init__(spec)


def test_an_option_that_names_a_part_is_filled_up_with_that_parts_defaults():
    clean, wrong = check_options(Paired, {})
    assert not wrong and clean["other"] is None
    assert clean["prior"]["use"] == "tarflow" and clean["prior"]["width"] == 32
    assert clean["prior"]["blocks"] == options_of(type_of("tarflow"))["blocks"].default
    named, _ = check_options(Paired, {"score": "tarflow", "other": {"use": "velocity_mlp", "depth": 2}})
    assert named["score"]["use"] == "tarflow" and named["other"]["depth"] == 2
    built = use(Likelihood, named["score"], spec=LatentSpec(4, 4), classes=0)
    assert type(built) is type_of("tarflow")


def test_what_is_left_out_of_a_default_part_stays_as_the_option_has_it():
    for value in ({"blocks": 2}, {"use": "tarflow", "blocks": 2}):
        clean, wrong = check_options(Paired, {"prior": value})
        assert not wrong and (clean["prior"]["width"], clean["prior"]["blocks"]) == (32, 2)


def test_a_part_that_does_not_fit_or_is_misspelt_is_named_at_its_place():
    _, wrong = check_options(
        Paired, {"prior": {"use": "lightningdit"}, "score": {"wdth": 3}, "other": "tarflwo"}
    )
    messages = dict(wrong)
    assert "must be the name of a Likelihood" in messages["prior", "use"]
    assert "gaussian, tarflow are" in messages["prior", "use"]
    assert "did you mean 'width'?" in messages["score", "wdth"]
    assert "unknown generator 'tarflwo'; did you mean 'tarflow'?" in messages["other", "use"]
    assert "not 3" in dict(check_options(Paired, {"prior": 3})[1])["prior",]
    assert "not null" in dict(check_options(Paired, {"prior": None})[1])["prior",]


def test_an_axis_over_parts_is_labelled_by_what_was_written():
    variants, wrong = check_axes(
        Paired, {"prior": ["gaussian", {"use": "tarflow", "width": 8}, {"blocks": 1}]}
    )
    labels = [suffix for suffix, _ in variants.rows()]
    assert not wrong and labels == ["[prior=gaussian]", "[prior=tarflow+width:8]", "[prior=blocks:1]"]
    assert [options["prior"]["use"] for _, options in variants.rows()] == ["gaussian", "tarflow", "tarflow"]


def type_of(name: str) -> type:
    from latentbench.bench.registry import get

    return get("generators", name)
