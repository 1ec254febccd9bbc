"""The Python files that a plugin consists of: its own, and the modules beside it that it imports."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path


def source_hash(file: Path) -> str:
    """sha256 of a plugin's file, or of all files of a plugin that has several."""
    files = source_files(file)
    hashes = [hashlib.sha256(part.read_bytes()).hexdigest() for part in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def source_files(file: Path) -> list[Path]:
    """The file, and then, sorted, the files of its own that it imports anywhere, directly or not.

    Its own are modules in the folder of a single file, or in the package that the file belongs to, with the
    `__init__.py` files on the way.
    """
    file = file.resolve()
    root = _root(file)
    found, unread = {file}, [file]
    while unread:
        for part in _imports(unread.pop(), root):
            if part not in found:
                found.add(part)
                unread.append(part)
    return [file, *sorted(found - {file})]


def _root(file: Path) -> Path:
    """The folder that the absolute imports of a file start from: its own, or that of its package."""
    folder = file.parent
    while (folder / "__init__.py").is_file() and folder.parent != folder:
        folder = folder.parent
    return folder


def _imports(file: Path, root: Path) -> Iterator[Path]:
    """The files under the root that a file imports."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):  # importing it names the fault
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(root, alias.name)
        elif isinstance(node, ast.ImportFrom):
            start = file.parents[node.level - 1] if node.level else root
            module = node.module or ""
            yield from _files(start, module)
            for alias in node.names:  # a module of a package, or a name in a module
                yield from _files(start, f"{module}.{alias.name}".strip("."))


def _files(start: Path, name: str) -> Iterator[Path]:
    """The file of a dotted module under a folder, and of the packages on the way, if they exist."""
    folder = start
    for part in filter(None, name.split(".")):
        for candidate in (folder / part / "__init__.py", folder / f"{part}.py"):
            if candidate.is_file():
                yield candidate.resolve()
        folder /= part
