"""Lists of numbers come back bit for bit from their short form, and no text asks for more than it holds."""

import base64
import json
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentbench.bench.metrics.bootstrap import rounded
from latentbench.bench.records.packed_numbers import (
    COUNT,
    lengthen,
    pack,
    pack_classes,
    shorten,
    unpack,
    unpack_classes,
)


def bits_of(numbers):
    return [number if number is None else struct.pack("d", number) for number in numbers]


def unpacked_by_hand(text):
    """The numbers of a packed text, from its description alone: a string of zeros and ones."""
    places, least, bits, count, content = text.split(",")
    ones = "".join(f"{byte:08b}" for byte in base64.b64decode(content))
    whole = [int("0" + ones[i * int(bits) : (i + 1) * int(bits)], 2) for i in range(int(count))]
    return [float(f"{int(least) + number}e-{places}") for number in whole]


@pytest.mark.parametrize("value", [0.0, 12.3, -0.108, 1532.5, 4.2e6, 3e-7])
@pytest.mark.parametrize("relative", [1e-1, 1e-3, 1e-6])
def test_replicates_are_a_third_as_long_or_less_and_unpacked_as_is_written(value, relative):
    rng = random.Random(f"{value} {relative}")
    numbers = rounded([value + (abs(value) or 1) * relative * rng.gauss(0, 1) for _ in range(100)])
    text = pack(numbers)
    assert bits_of(unpack(text)) == bits_of(numbers) == bits_of(unpacked_by_hand(text))
    assert len(text) < len(json.dumps(numbers, separators=(",", ":"))) / 2
    assert json.loads(json.dumps(text)) == text and pack(unpack(text)) == text


@given(st.lists(st.decimals(-(10**6), 10**6, places=3).map(float), min_size=1, max_size=120))
def test_decimal_numbers_come_back(numbers):
    assert bits_of(unpack(pack(numbers))) == bits_of(numbers)


@given(st.lists(st.none() | st.floats(), max_size=30))
def test_any_numbers_come_back_from_either_form(numbers):
    assert bits_of(unpack(pack(numbers))) == bits_of(numbers)
    assert bits_of(lengthen(shorten(numbers))) == bits_of(numbers)


@given(st.lists(st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=30))
def test_numbers_of_32_bits_come_back_and_never_have_more_digits(numbers):
    short = shorten(numbers)
    assert bits_of(lengthen(json.loads(json.dumps(short)))) == bits_of(numbers)
    digits = short["float32"] if isinstance(short, dict) else short
    assert len(json.dumps(digits)) <= len(json.dumps(numbers))


@pytest.mark.parametrize(
    "numbers",
    [
        [],
        [1.5] * 9,
        list(range(20)),
        [1.5] * 19 + [None],
        [1.5] * 19 + [-0.0],
        [1.5] * 19 + [0.1 + 0.2],
        [1.5] * 19 + [1e300],
        [1.5] * 19 + [1e-300],
        [0.001] * 19 + [9e12 + 0.001],
    ],
)
def test_a_list_that_would_not_be_the_same_or_is_short_stays(numbers):
    assert pack(numbers) is numbers


def test_equal_numbers_take_no_bits():
    assert pack([1.0] * 100) == "0,1,0,100," and unpack("0,1,0,100,") == [1.0] * 100


@pytest.mark.parametrize("numbers", [[1, 2, 3], [0.1, 0.2], [0.5, 0.25], [], [None], ["a"], "text", None])
def test_a_list_that_32_bits_do_not_shorten_stays(numbers):
    assert shorten(numbers) is numbers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "PLACES,LEAST"),
        ("3,1,10,100", "PLACES,LEAST"),
        ("3,1,10,100,ä", "PLACES,LEAST"),
        ("3,1,10,100,AAA", "no base64"),
        ("3,1,10,100,AAAA", "3 bytes; 100 of 10 bits have 125"),
        ("3,1,0,100,AAAA", "3 bytes; 100 of 0 bits have 0"),
        ("3,1,0,999999,", f"{COUNT:,}"),
        ("3,1,0,99999999999,", "PLACES,LEAST"),
        ("3,1,99,2,AAAA", "52 bits"),
        ("99,1,1,1,AA==", "15 places"),
        ("3,9999999999999999,1,1,AA==", "at most"),
    ],
)
def test_a_text_that_is_no_packed_list_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        unpack(text)


@pytest.mark.parametrize(
    "value", [{}, {"float32": 1.0}, {"float32": ["1"]}, {"float32": [10**400]}, {"float32": [[]]}]
)
def test_an_object_that_is_no_list_of_32_bits_is_refused(value):
    with pytest.raises(ValueError, match="float32"):
        lengthen(value)


@given(st.lists(st.floats(), max_size=30))
def test_values_by_class_come_back_in_their_order_from_numbers_of_64_bits(values):
    classes = {str(label): value for label, value in enumerate(values)}
    short = pack_classes(classes)
    assert bits_of(unpack_classes(short).values()) == bits_of(values) and [*unpack_classes(short)] == [
        *classes
    ]
    if isinstance(short, str):
        content = base64.b64decode(short.partition(",")[2])
        assert [
            struct.pack("d", *struct.unpack(">d", content[i : i + 8])) for i in range(0, len(content), 8)
        ] == (bits_of(values))


def test_class_values_of_ten_means_take_half_of_their_length_and_others_stay():
    rng = random.Random(0)
    classes = {str(label): rng.random() for label in range(10)}
    assert len(pack_classes(classes)) < 0.5 * len(json.dumps(classes))
    for left in ({"cat": 0.25, "dog": 0.1}, {"1": 0.123456789012, "0": 0.5}, {"0": None, "1": 0.5}, {}, None):
        assert pack_classes(left) == left and unpack_classes(left) == left


@pytest.mark.parametrize(
    "text", ["2,AAAA", "2", "1,AA=", "1,AAAAAAAAAAA", "1,AAAAAAAAAAA=x", "999999,AAAAAAAAAAA=", "1,"]
)
def test_texts_that_are_no_packed_values_are_refused(text):
    with pytest.raises(ValueError, match="packed values by class are COUNT,BASE64"):
        unpack_classes(text)
