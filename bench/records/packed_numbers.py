"""Long lists of numbers as short JSON that gives every number back bit for bit.

"3,14788,10,100,BASE64"    100 decimal numbers with 3 places, packed: replicates, which are rounded
{"float32": [0.1, 2.5]}    numbers of 32 bits, as training curves are, with no more digits than these need
"10,BASE64"                values of the classes "0" to "9", in this order: numbers of 64 bits, big-endian

BASE64 holds 100 whole numbers of 10 bits, the highest bit first, without gaps; number i is
(14788 + whole[i]) / 10**3. A list that would not come back exactly, or not become shorter, stays a list.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST, COUNT = 10, 100_000  # numbers of a packed list; a text of few bytes cannot ask for more memory
PLACES, BITS = 15, 52  # the most, in which whole numbers and powers of ten are exact
PACKED = re.compile(r"(\d{1,2}),(-?\d{1,16}),(\d{1,2}),(\d{1,6}),([A-Za-z0-9+/]*={0,2})")
CLASSES = re.compile(r"(\d{1,6}),((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)")
FLOAT32 = "float32"


def pack(numbers: Any) -> Any:
    """The packed text of a list of decimal numbers; the list itself if it is short, or would change."""
    if not _floats(numbers) or not FEWEST <= len(numbers) <= COUNT:
        return numbers
    array = np.array(numbers)
    places = _places(array)
    if places is None:
        return numbers
    whole = np.rint(array * 10.0**places).astype(np.int64)
    least = int(whole.min())
    bits = int(whole.max() - least).bit_length()
    rows = (whole - least)[:, None] >> np.arange(bits - 1, -1, -1) & 1
    content = base64.b64encode(np.packbits(rows.astype(np.uint8)).tobytes()).decode()
    return f"{places},{least},{bits},{len(numbers)},{content}"


def unpack(value: Any) -> Any:
    """The list that `pack` was given.

    Raises:
        ValueError: for a text that `pack` doesn't write.
    """
    if not isinstance(value, str):
        return value
    match = PACKED.fullmatch(value)
    if match is None:
        raise ValueError(f"packed numbers are PLACES,LEAST,BITS,COUNT,BASE64, not {_short(value)}")
    places, least, bits, count = map(int, match.groups()[:4])
    if places > PLACES or bits > BITS or count > COUNT or abs(least) >= 2 ** (BITS + 1):
        raise ValueError(
            f"packed numbers are at most {COUNT:,} of {BITS} bits with {PLACES} places, not {_short(value)}"
        )
    try:
        content = base64.b64decode(match[5], validate=True)
    except binascii.Error as error:
        raise ValueError(f"packed numbers {_short(value)} end in no base64: {error}") from error
    if len(content) != -(-bits * count // 8):
        needed = -(-bits * count // 8)
        raise ValueError(
            f"packed numbers {_short(value)} have {len(content)} bytes; {count} of {bits} bits have {needed}"
        )
    rows = np.unpackbits(np.frombuffer(content, dtype=np.uint8), count=bits * count).reshape(count, bits)
    whole = rows.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64)) + least
    numbers: list[float] = (whole / 10.0**places).tolist()  # a quotient of exact numbers is the nearest
    return numbers


def pack_classes(classes: Any) -> Any:
    """The packed text of values by class, {"0": 0.5, …}; the values themselves if it would not be shorter."""
    values = list(classes.values()) if isinstance(classes, dict) else None
    if not _floats(values) or list(classes) != _class_names(len(classes)):
        return classes
    text = f"{len(classes)},{base64.b64encode(np.array(values, dtype='>f8').tobytes()).decode()}"
    return text if len(text) < len(json.dumps(classes)) else classes


def unpack_classes(value: Any) -> Any:
    """The values by class that `pack_classes` was given.

    Raises:
        ValueError: for a text that `pack_classes` doesn't write.
    """
    if not isinstance(value, str):
        return value
    content = _class_content(value)
    if content is None:
        raise ValueError(f"packed values by class are COUNT,BASE64 of as many numbers, not {_short(value)}")
    numbers: list[float] = np.frombuffer(content, dtype=">f8").tolist()
    return dict(zip(_class_names(len(numbers)), numbers, strict=True))


def is_packed(text: str) -> bool:
    """Whether a text is a packed list of numbers, or packed values by class, and so says nothing else."""
    return PACKED.fullmatch(text) is not None or _class_content(text) is not None


def _class_content(text: str) -> bytes | None:
    """The bytes of packed values by class; None for any other text."""
    match = CLASSES.fullmatch(text)
    if match is None:
        return None
    content = base64.b64decode(match[2])
    return content if len(content) == 8 * int(match[1]) else None


def _class_names(count: int) -> list[str]:
    return [str(label) for label in range(count)]


def shorten(numbers: Any) -> Any:
    """{"float32": […]} of numbers that have 32 bits, some of which may be None; others as they are."""
    known = [number for number in numbers if number is not None] if isinstance(numbers, list) else []
    if not _floats(known):
        return numbers
    with np.errstate(over="ignore"):
        digits = [float(str(number)) for number in np.array(known, dtype=np.float32)]
    if digits == known or lengthen({FLOAT32: digits}) != known:
        return numbers
    left = iter(digits)
    return {FLOAT32: [None if number is None else next(left) for number in numbers]}


def lengthen(value: Any) -> Any:
    """The list that `shorten` was given.

    Raises:
        ValueError: for an object that `shorten` doesn't write.
    """
    if not isinstance(value, dict):
        return value
    numbers: Any = value.get(FLOAT32)
    known = isinstance(numbers, list) and all(type(number) in (float, type(None)) for number in numbers)
    if not known or len(value) > 1:
        raise ValueError(f'a list of numbers is […] or {{"{FLOAT32}": […]}}, not {_short(value)}')
    with np.errstate(over="ignore"):
        return [None if number is None else float(np.float32(number)) for number in numbers]


def _floats(numbers: Any) -> bool:
    return isinstance(numbers, list) and bool(numbers) and all(type(number) is float for number in numbers)


def _places(array: NDArray[np.float64]) -> int | None:
    """The decimal places of numbers, with which they come back bit for bit; None if they don't."""
    if not np.isfinite(array).all() or (np.signbit(array) & (array == 0)).any():
        return None
    for places in range(PLACES + 1):
        whole = np.rint(array * 10.0**places)
        if np.abs(whole).max() >= 2**BITS:
            return None
        if (whole / 10.0**places == array).all():
            return places
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
