"""A part's resolved config, as it is in a stage's key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from .. import registry
from ..api import LatentSpec
from ..matrix.matrix import MatrixRow
from ..options.options import options_of
from ..options.plain_data import plain
from ..store.source_files import source_hash
from ..store.stage import is_file

# The hash of all files of a tokenizer that another part's option names, by its name and options.
TokenizerFiles = Callable[[str, Mapping[str, Any]], str | None]


def part_config(kind: str, row: MatrixRow, files_of: TokenizerFiles | None = None) -> dict[str, Any]:
    """A part's name, its version and every option, and the same of the parts that its options name.

    The source of a plugin is hashed too, with the modules beside it that it imports, because whoever edits a
    plugin may not raise its version. With `files_of`, tokenizers that options name have the hash of their
    files, which stands for the paths in their options.
    """
    return _part_config(kind, row.part, row.options, files_of)


def _part_config(
    kind: str, name: str, options: Mapping[str, Any], files_of: TokenizerFiles | None
) -> dict[str, Any]:
    cls = registry.get(kind, name)
    version = getattr(cls, "version", 1)
    config: dict[str, Any] = {"name": name, "version": version, "options": key_options(cls, options)}
    if paths := getattr(cls, "paths", ()):
        config["paths"] = sorted(paths)
    source = registry.sources(kind)[name]
    if not source.module.startswith(f"{registry.FOLDERS[kind]}."):
        config["source"] = source_hash(source.file)
    for option in options_of(cls).values():
        chosen = options.get(option.name)
        if option.needs and chosen:
            inner_kind = registry.kind_of(option.needs[0])
            inner = {key: value for key, value in chosen.items() if key != "use"}
            used = _part_config(inner_kind, chosen["use"], inner, files_of)
            if files_of and inner_kind == "tokenizers" and "paths" in used:
                used["fingerprint"] = files_of(chosen["use"], inner)
            config.setdefault("uses", {})[option.name] = {k: v for k, v in used.items() if k != "options"}
    return config


def key_options(cls: type, options: Mapping[str, Any], method: str = "") -> dict[str, Any]:
    """The options that are part of a key: all but those in the part's `later` that have their defaults.

    The same holds for the options of parts that options name.
    """
    later: Collection[str] = getattr(cls, "later", ())
    known, keyed = options_of(cls, method), {}
    for name, value in options.items():
        if name in later and value == known[name].default:
            continue
        if name in known and known[name].needs and value:
            inner = registry.get(registry.kind_of(known[name].needs[0]), value["use"])
            value = {
                "use": value["use"],
                **key_options(inner, {k: v for k, v in value.items() if k != "use"}),
            }
        keyed[name] = value
    return plain(keyed)


def plain_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts for a regularizer's constructor as plain data: a LatentSpec by its fields."""
    return plain({k: vars(v) if isinstance(v, LatentSpec) else v for k, v in sorted(facts.items())})


def with_files(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts and options of a config, at any depth, that have a fingerprint if they read files."""
    sources = ("dataset", "extractor", "teacher", "reference", "weights")
    names = (*sources, "tokenizer", "regularizer", "generator")
    parts = [*(config[name] for name in names if name in config), *config.get("evaluators", ())]
    networks = [loss for loss in config.get("reconstruction", {}).values() if isinstance(loss, dict)]
    return [inner for part in parts for inner in with_used(part)] + [
        option for loss in networks for option in loss.values() if is_file(option)
    ]


def with_used(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A part's config and those of the parts that its options name, at any depth."""
    yield part
    for inner in part.get("uses", {}).values():
        yield from with_used(inner)
