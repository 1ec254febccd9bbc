"""YAML as plain data with the line and column of every key and value.

Stricter than YAML where a matrix would be misread: no aliases, tags or duplicate keys; keys are always text;
plain scalars follow YAML 1.2 (`no` and `on` are text, `012` is 12), and `1e-3` is a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .. import registry
from ..user_error import UserError

if TYPE_CHECKING:
    from ..options.options import Trail

Mark = tuple[int, int]  # line and column, from 1

PACKAGED = Path(__file__).resolve().parents[1] / "presets"
DIGITS = PACKAGED.parents[1] / "matrix.yaml"  # of the repository; setup.py puts it there in a wheel
LARGEST = 2**63
MAX_DEPTH = 20
MAPPING = "a matrix is a mapping such as `dataset: {use: digits}`"
MAX_BYTES = 1 << 20
CONTROL = yaml.reader.Reader.NON_PRINTABLE
TEXT = "tag:yaml.org,2002:str"
LINE_ENDS = "\n\r\x85\u2028\u2029"
CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}
INTEGER = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
SPECIAL = re.compile(r"[-+]?\.(inf|nan)", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Problem:
    """One error or warning with its position; line 0 is for a whole file or a command-line flag."""

    file: str
    line: int
    column: int
    message: str

    @property
    def position(self) -> tuple[str, int, int]:
        """The file, line and column."""
        return self.file, self.line, self.column

    @property
    def place(self) -> str:
        """The position in words: `matrix.yaml:13:3`, or the file alone."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class MatrixError(UserError):
    """A matrix that cannot be run, with all of its problems in the order of their positions."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems)))
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


@dataclass(frozen=True)
class Document:
    """Plain data, the positions of its keys and values, and problems of the YAML itself."""

    name: str
    data: dict[str, Any]
    keys: dict[Trail, Mark]
    values: dict[Trail, Mark]
    problems: tuple[Problem, ...] = ()

    def problem(self, trail: Trail, message: str, on_key: bool = False) -> Problem:
        """A problem at a value or its key; if the document lacks the trail, at the nearest value above."""
        mark = self.keys.get(trail) if on_key else None
        for size in range(len(trail), -1, -1):
            mark = mark or self.values.get(trail[:size]) or self.keys.get(trail[:size])
        return Problem(self.name, *(mark or (1, 1)), message)

    def with_profile(self, profile: str, data: dict[str, Any]) -> Document:
        """The document with a profile laid over it, which is `data`; its values are where the profile is."""
        prefix = ("profiles", profile)
        keys, values = (
            marks | {trail[2:]: mark for trail, mark in marks.items() if trail[:2] == prefix and trail[2:]}
            for marks in (self.keys, self.values)
        )
        return replace(self, data=data, keys=keys, values=values)


def presets() -> dict[str, Path]:
    """The matrices that come with the suite, by name."""
    files = {file.stem: file for file in PACKAGED.glob("*.yaml")}
    if DIGITS.is_file():
        files["digits"] = DIGITS
    return dict(sorted(files.items()))


def packaged() -> dict[str, str]:
    """The names of the matrices that come with the suite, each with the first line of its comment."""
    texts = {name: file.read_text(encoding="utf-8") for name, file in presets().items()}
    return {name: text.split("\n")[0].lstrip("# ") for name, text in texts.items()}


def find(path: str | Path) -> Path:
    """The matrix file, or the packaged matrix of that name.

    Raises:
        MatrixError: if there is none, naming the YAML files in the same folder.
    """
    file = Path(path)
    if file.is_file():
        return file.resolve()
    if str(path) in presets():
        return presets()[str(path)]
    if file.is_dir():
        raise MatrixError([Problem(str(path), 0, 0, "this is a folder; a matrix is a YAML file")])
    folder = file.parent
    neighbours = sorted(str(folder / item.name) for item in folder.glob("*.y*ml")) if folder.is_dir() else []
    message = registry.unknown("matrix", str(path), [*neighbours, *presets()])
    raise MatrixError([Problem(str(path), 0, 0, message)])


def read(file: Path, name: str) -> bytes:
    """The bytes of a file of at most MAX_BYTES.

    Raises:
        MatrixError: if the file cannot be read or is too large for a matrix.
    """
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise MatrixError([Problem(name, 0, 0, f"{size:,} bytes are no matrix; at most {MAX_BYTES:,}")])
        return file.read_bytes()
    except OSError as error:
        raise MatrixError([Problem(name, 0, 0, f"cannot be read: {error.strerror}")]) from error


def parse(text: str | bytes, name: str, wanted: str = MAPPING) -> Document:
    """The mapping in a YAML text, with positions; `wanted` says to users what the mapping is.

    Raises:
        MatrixError: if the text is no YAML, or not one mapping.
    """
    if isinstance(text, bytes):
        text = _decoded(text, name)
    control = CONTROL.search(text)
    if control:
        message = f"the control character U+{ord(control.group()):04X} does not belong in a text file"
        raise MatrixError([Problem(name, *_mark_at(text, control.start()), message)])
    loader = _Loader(text, name)
    try:
        node = loader.get_node() if loader.check_node() else None
        if loader.check_node():
            mark = loader.peek_event().start_mark
            loader.refuse(mark, "a second document begins here; a matrix is one document")
    except yaml.MarkedYAMLError as error:
        why = ", ".join(part for part in (error.context, error.problem) if part)
        loader.refuse(error.problem_mark or error.context_mark, f"not YAML: {why}")
        raise MatrixError(loader.refused) from None
    except (ValueError, OverflowError) as error:  # PyYAML on escapes such as "\UFFFFFFFF"
        loader.refuse(loader.get_mark(), f"not YAML: {error}")
        raise MatrixError(loader.refused) from None
    if not isinstance(node, yaml.MappingNode):
        kinds = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}
        kind = kinds.get(type(node), "empty")
        message = f"{wanted}; this file is {kind}"
        raise MatrixError([Problem(name, *(_mark(node) if node else (1, 1)), message), *loader.refused])
    data = loader.mapping(node, ())
    return Document(name, data, loader.keys, loader.values, tuple(dict.fromkeys(loader.refused)))


class _Loader(yaml.SafeLoader):
    """Reads nodes as plain data, and collects their positions and all that a matrix may not contain."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.file, self.depth = name, 0
        self.refused: list[Problem] = []
        self.keys: dict[Trail, Mark] = {}
        self.values: dict[Trail, Mark] = {}

    def refuse(self, mark: Any, message: str) -> None:
        self.refused.append(Problem(self.file, mark.line + 1, mark.column + 1, message))

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self.get_event()
            self.refuse(event.start_mark, f"the alias *{event.anchor} is not supported; write the value out")
            return yaml.ScalarNode(TEXT, "", event.start_mark, style="*")  # type: ignore[arg-type]
        if event.anchor is not None:
            self.refuse(event.start_mark, f"the anchor &{event.anchor} is not supported; write the value out")
            event.anchor = None
        if event.tag not in (None, "!"):
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.refuse(event.start_mark, f"the tag {tag} is not supported; write plain values")
            event.tag, event.implicit = None, (True, True)
        if self.depth == MAX_DEPTH:  # Python's own recursion limit is a crash, not an error
            self.refuse(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
            raise MatrixError(self.refused)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def plain(self, node: Any, trail: Trail) -> Any:
        """A node as a mapping, a list or a scalar."""
        self.values[trail] = _mark(node)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, trail)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*trail, i)) for i, item in enumerate(node.value)]
        if any("\ud800" <= character <= "\udfff" for character in node.value):
            self.refuse(node.start_mark, "half of a surrogate pair is no text")
        if node.style == "*":  # an alias
            return None
        value = scalar(node.value) if node.style is None else node.value
        if type(value) is int and abs(value) >= LARGEST:
            self.refuse(node.start_mark, f"an integer of {len(node.value)} digits is too large")
            return 0
        return value

    def mapping(self, node: yaml.MappingNode, trail: Trail) -> dict[str, Any]:
        """A mapping without the keys that are refused."""
        items: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.refuse(key.start_mark, "a key is text, not a list or a mapping")
                continue
            if key.value == "<<" and key.style is None:
                self.refuse(key.start_mark, "the merge key << is not supported; write the values out")
                continue
            here = (*trail, key.value)
            if key.value in items:
                first = ":".join(map(str, (self.file, *self.keys[here])))
                self.refuse(key.start_mark, f"duplicate key {key.value!r}; the first is at {first}")
                continue
            self.keys[here] = _mark(key)
            items[key.value] = self.plain(value, here)
            if items[key.value] is None and not value.value and value.style is None:
                self.values[here] = _mark(key)  # an empty value stands at its key
        return items


def scalar(text: str) -> Any:
    """A plain scalar's value: null, a boolean, a number or text."""
    if text.lower() in CONSTANTS and text in (text.lower(), text.upper(), text.capitalize()):
        return CONSTANTS[text.lower()]
    if INTEGER.fullmatch(text) and len(text) < 1000:  # Python refuses to read integers beyond 4,300 digits
        return int(text)
    if NUMBER.fullmatch(text):
        return float(text)
    if SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def dump(data: Mapping[str, Any]) -> str:
    """Plain data as YAML that `parse` reads as the same data, also text such as 1e3."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def dump_inline(value: Any) -> str:
    """A value as YAML on one line, at any place of a block: `{use: kl, weight: 0.0001}`."""
    width = float("inf")
    text = yaml.dump(
        [value], Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=width
    )
    return text.strip()[1:-1]


class _Dumper(yaml.SafeDumper):
    """Quotes all text that reads as something else without quotes."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(scalar(text), str) else "'"
    if any(end in text for end in LINE_ENDS):
        style = '"'  # with escapes, on one line
    return dumper.represent_scalar(TEXT, text, style)


_Dumper.add_representer(str, _quoted)


def _decoded(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8-sig")
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8; a matrix is a text file"
        raise MatrixError([Problem(name, *_mark_at(before, len(before)), message)]) from None


def _mark(node: yaml.Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _mark_at(text: str, index: int) -> Mark:
    return text.count("\n", 0, index) + 1, index - (text.rfind("\n", 0, index) + 1) + 1
