"""The columns of a parquet file that hold pictures and labels, by Hugging Face's metadata or their types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import types

from ..options.words import listed
from .image_folders import ImagesError

LABELS = ("label", "labels")  # a column of whole numbers or text with this name holds classes


@dataclass(frozen=True)
class Columns:
    """The columns that are read; `classes` are the names of labels where the file has them."""

    image: str
    label: str | None
    classes: tuple[str, ...] | None
    others: tuple[str, ...]  # that are not read

    @property
    def read(self) -> list[str]:
        return [self.image] if self.label is None else [self.image, self.label]


def columns_of(schema: pa.Schema, file: object, told: Mapping[str, str | None] | None = None) -> Columns:
    """The columns of a file.

    Args:
        told: {image: COLUMN, label: COLUMN or None}; what is left out is chosen where there is no doubt.

    Raises:
        ImagesError: a column is missing or holds something else, or several fit.
    """
    told, features = told or {}, _features(schema)
    for what, name in told.items():
        if name is not None and name not in schema.names:
            raise ImagesError(
                f"{file} has no column {name!r}, which `columns` says is the {what}: {_all(schema)}"
            )
    image = told.get("image") or _image(schema, features, file)
    _check_image(schema, image, file)
    label = told["label"] if "label" in told else _label(schema, features, file)
    if label is not None:
        _check_label(schema, label, file)
    names = features.get(label or "", {}).get("names")
    numbered = label is not None and not _is_text(schema.field(label).type)
    classes = tuple(map(str, names)) if numbered and isinstance(names, list) else None
    others = tuple(name for name in schema.names if name not in (image, label))
    return Columns(image, label, classes, others)


def pictures_in(column: pa.Array) -> pa.Array:
    """The bytes of a column of pictures, null where there is none."""
    if not types.is_struct(column.type):
        return column
    return column.flatten()[column.type.get_field_index("bytes")]  # null where the struct is null too


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Hugging Face's description of columns; empty if the file has none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: one for name, one in features.items() if isinstance(one, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):  # written by something else
        return {}


def _image(schema: pa.Schema, features: Mapping[str, dict[str, Any]], file: object) -> str:
    fitting = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    fitting = fitting or [one.name for one in schema if _holds_bytes(one.type)]
    if len(fitting) != 1:
        what = f"columns of pictures {', '.join(fitting)}" if fitting else "no column of pictures"
        raise ImagesError(f"{file} has {what}: name it by `columns: {{image: NAME}}`; {_all(schema)}")
    return fitting[0]


def _label(schema: pa.Schema, features: Mapping[str, dict[str, Any]], file: object) -> str | None:
    fitting = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    fitting = fitting or [one.name for one in schema if one.name in LABELS and _holds_labels(one.type)]
    if len(fitting) > 1:
        raise ImagesError(
            f"{file} has the columns of labels {', '.join(fitting)}: choose by `columns: {{label: "
            f"{fitting[0]}}}`, or `label: null` for none"
        )
    return fitting[0] if fitting else None


def _check_image(schema: pa.Schema, name: str, file: object) -> None:
    kind = schema.field(name).type
    if not _holds_bytes(kind):
        why = " (addresses or paths: the pictures aren't in the file)" if _is_text(kind) else ""
        fitting = [one.name for one in schema if _holds_bytes(one.type)]
        choices = f"; {listed(fitting)} would do" if fitting else ""
        raise ImagesError(f"the column {name!r} of {file} holds {kind}{why}, not pictures' bytes{choices}")


def _check_label(schema: pa.Schema, name: str, file: object) -> None:
    kind = schema.field(name).type
    if not _holds_labels(kind):
        fitting = [one.name for one in schema if _holds_labels(one.type)]
        choices = f"; {listed(fitting)} would do" if fitting else ""
        raise ImagesError(f"the column {name!r} of {file} holds {kind}, not whole numbers or text{choices}")


def _holds_bytes(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind)


def _holds_labels(kind: pa.DataType) -> bool:
    inner = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_integer(inner) or _is_text(inner)


def _all(schema: pa.Schema) -> str:
    return "the columns are " + listed([f"{one.name} ({_short(one.type)})" for one in schema], 12)


def _short(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) < 40 else f"{text[:39]}…"


def common_classes(files: Sequence[object], columns: Sequence[Columns]) -> tuple[bytes, ...] | None:
    """The class names of all files.

    Raises:
        ImagesError: two files have other columns, or names.
    """
    for file, one in zip(files, columns, strict=True):
        if one.read != columns[0].read:
            both = f"{listed(columns[0].read)} in {files[0]}, and {listed(one.read)} in {file}"
            raise ImagesError(
                f"images and labels are {both}: choose columns that all files have by `columns`, such as "
                "{label: null}"
            )
        if one.classes != columns[0].classes:
            raise ImagesError(
                f"{file} and {files[0]} have other class names: {listed(one.classes or ('none',))} and "
                f"{listed(columns[0].classes or ('none',))}"
            )
    classes = columns[0].classes if columns else None
    return None if classes is None else tuple(name.encode() for name in classes)
