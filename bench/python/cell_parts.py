"""Parts from classes of a notebook or a script: each becomes a plugin file, which every process can load."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

from ..store.disk import replace_text
from .cell_source import CellError, module_of

FOLDER = "parts"  # beside the artifacts


def write_parts(parts: Iterable[type], home: Path) -> list[Path]:
    """Writes a plugin file for each class into `home`/parts/HASH, named by its text; returns the files.

    Raises:
        CellError: a value that is no class, a class without a name for matrices, or one without a source.
    """
    return [_write(part, home) for part in parts]


def _write(part: type, home: Path) -> Path:
    if not isinstance(part, type):
        raise CellError(f"parts are classes, not {part!r}")
    text = module_of(part)
    name = _registered_name(part, text)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = home / FOLDER / digest / f"{name}.py"
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, text)
    return file


def _registered_name(part: type, text: str) -> str:
    """The class's own name where it stands below `@register`."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and node.name == part.__name__:
            for decorator in node.decorator_list:
                called = decorator.func if isinstance(decorator, ast.Call) else None
                if getattr(called, "id", getattr(called, "attr", "")) == "register":
                    return part.__name__
    raise CellError(f'{part.__name__} has no name for a matrix: write @lb.register("name") above it')
