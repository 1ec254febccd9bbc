"""Searches what would be shipped for paths of a machine, names of users and hosts, and addresses."""

from __future__ import annotations

import getpass
import json
import re
import socket
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...records.packed_numbers import is_packed
from .findings import Finding

SHORTEST = 4  # letters of a name that is searched for: shorter ones are in many words
COMMON = frozenset(
    "root user admin ubuntu debian centos runner jovyan docker localhost default main node".split()
)
# An absolute path of a POSIX system or of Windows, a home, or a file's URL; not the path of a web address.
PATHS = re.compile(
    r"(?<![\w./:~-])/(?:[\w.+-]+/)+[\w.+-]*|^/[\w.+-]+$|(?<!\w)[A-Za-z]:\\[\w.\\ +-]+|\\\\[\w.-]+\\[\w.-]+"
    r"|(?<![\w/])~[\w.-]*/[\w.+/-]*|file://\S+|\$\{?[A-Z_]{3,}\}?(?=/)"
)
ADDRESSES = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
MATRIX_ADVICE = "write the path relative to where the command runs: no key depends on where files lie"
ADVICE = "take it out of the matrix's names and options, and make the record anew"


def private_findings(texts: Mapping[str, str], known: Collection[str] = ()) -> Iterator[Finding]:
    """Findings on the files' texts, by their names in the folder.

    Args:
        known: words that are no person's, such as labels of rows, whoever has them as a name.
    """
    names = machine_names() - {word.lower() for word in known}
    words = re.compile("|".join(map(re.escape, sorted(names))) or r"(?!)", re.IGNORECASE)
    for file, text in texts.items():
        advice = MATRIX_ADVICE if file.endswith(".yaml") else ADVICE
        for line in dict.fromkeys(_strings(text) if file.endswith(".json") else text.splitlines()):
            for what, pattern in (("a path of a machine", PATHS), ("an address", ADDRESSES)):
                for match in pattern.finditer(line):
                    yield Finding((file,), f"{what}: {match.group()!r}", advice)
            for match in words.finditer(line):
                around = line[max(0, match.start() - 1) : match.end() + 1]
                if re.fullmatch(rf"[^A-Za-z0-9]?{re.escape(match.group())}[^A-Za-z0-9]?", around):
                    yield Finding((file,), f"the name of this machine or its user: {match.group()!r}", advice)


def machine_names() -> set[str]:
    """The names of this machine and its user in lower case, without those that many machines share."""
    found = {Path.home().name, socket.gethostname(), socket.gethostname().partition(".")[0]}
    try:
        found.add(getpass.getuser())
    except (KeyError, OSError):  # a user without a name, as in a container
        pass
    return {name.lower() for name in found if len(name) >= SHORTEST} - COMMON


def _strings(text: str) -> Iterator[str]:
    """All texts in JSON: keys and values."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            if not is_packed(value):
                yield value
        elif isinstance(value, dict):
            for key, item in value.items():
                yield key
                yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)

    yield from walk(json.loads(text))
