"""`bench list` and `bench info`: the parts that a matrix can name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import registry
from .console import UsageError, out, print_json
from .safe_text import Text
from .shared_options import JsonOption, PluginOption, load_plugins

METHODS = {"sampler": "sample"}  # groups of options that a method takes in place of the constructor


def list_parts(
    kind: Annotated[
        str | None, typer.Argument(help="regularizers, tokenizers, generators, … matrices or published")
    ] = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """List parts, packaged matrices, or the papers' published numbers."""
    if kind == "published":
        return _list_published(as_json)
    load_plugins(plugin)
    from ..matrix.yaml_text import packaged

    known = [*registry.FOLDERS, "matrices", "published"]
    if kind is not None and kind not in known:
        if _kinds_with(kind):
            raise UsageError(f"{kind!r} is a part, not a kind of part: `bench info {kind}` shows its options")
        raise UsageError(registry.unknown("kind of part", kind, known))
    kinds = list(registry.FOLDERS) if kind is None else [kind] if kind in registry.FOLDERS else []
    parts = {kind: [source for _, source in sorted(registry.sources(kind).items())] for kind in kinds}
    presets = packaged() if kind in (None, "matrices") else {}
    if as_json:
        rows = {
            kind: [{"name": s.name, "about": s.about, "problem": s.problem} for s in sources]
            for kind, sources in parts.items()
        }
        if presets:
            rows["matrices"] = [
                {"name": name, "about": about, "problem": None} for name, about in presets.items()
            ]
        print_json(rows)
        return
    listed = [*(source.name for sources in parts.values() for source in sources), *presets]
    width = max([16, *map(len, listed)])
    for kind, sources in parts.items():
        out.print(f"[bold]{kind}[/]")
        for source in sources:
            text = source.about if source.problem is None else f"cannot be used: {source.problem}"
            out.print(Text(f"  {source.name:<{width}} {text}"), soft_wrap=True)
    if presets:
        out.print("[bold]matrices[/] (bench run --matrix NAME)")
    for name, about in presets.items():
        out.print(Text(f"  {name:<{width}} {about}"), soft_wrap=True)


def _list_published(as_json: bool) -> None:
    """Prints every figure of the papers, a line for each setting of a table."""
    from itertools import groupby

    from ..leaderboard.published import figures

    if as_json:
        print_json({"published": [figure._asdict() for figure in figures()]})
        return
    for (paper, table, data), rows in groupby(figures(), lambda f: (f.paper, f.table, f.data)):
        out.print(f"[bold]{paper}, table {table}[/] ({data})")
        for (setting, generator), row in groupby(rows, lambda f: (f.setting, f.generator)):
            values = [f"{f.metric}{' guided' if f.guided else ''} {f.value:g}" for f in row]
            out.print(Text(f"  {setting:<28} {', '.join(values)}  [{generator}]"), soft_wrap=True)


def info(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="PART",
            help="the part's name: kl; with its kind where several have the name: generator gaussian",
        ),
    ],
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a part is, and its options with defaults and ranges."""
    from ..options.meanings import meanings_of, prose_of
    from ..options.options import options_of

    load_plugins(plugin)
    kind, name = _kind_and_name(words)
    cls = registry.get(kind, name)
    source = registry.sources(kind)[name]
    groups = {"options": options_of(cls)}
    if kind == "generators":
        groups["sampler"] = options_of(cls, "sample")
    meanings = {title: meanings_of(cls, METHODS.get(title, "")) for title in groups}
    sizes = _sizes(kind, name, cls)
    if as_json:
        options = {
            title: {
                key: {
                    "annotation": o.annotation,
                    "default": str(o.default),
                    "choices": o.choices,
                    "meaning": meanings[title].get(key, ""),
                }
                for key, o in group.items()
            }
            for title, group in groups.items()
        }
        print_json({"name": name, "kind": kind, "file": str(source.file), **options, "sizes": sizes})
        return
    out.print(Text(f"{name} ({registry.SINGULAR[kind]}, {source.file})"), soft_wrap=True)
    out.print(Text(prose_of(cls)), soft_wrap=True)
    _print_options(kind, groups, meanings, sizes)


def _kind_and_name(words: list[str]) -> tuple[str, str]:
    """The kind and the name of the part that `bench info` was given, which may be the name alone.

    Raises:
        UsageError: no kind has the name, several have, or there are more than two words.
    """
    if len(words) > 2:
        raise UsageError(f"bench info shows one part, not {' '.join(words)!r}")
    *kind, name = words
    if kind:
        plurals = {singular: plural for plural, singular in registry.SINGULAR.items()}
        return plurals.get(kind[0], kind[0]), name
    kinds = _kinds_with(name)
    if not kinds:
        known = sorted({part for kind in registry.FOLDERS for part in registry.sources(kind)})
        raise UsageError(registry.unknown("part", name, known, where="bench list"))
    if len(kinds) > 1:
        calls = " or ".join(f"`bench info {registry.SINGULAR[kind]} {name}`" for kind in kinds)
        raise UsageError(f"several kinds have a part {name!r}: {calls}")
    return kinds[0], name


def _kinds_with(name: str) -> list[str]:
    return [kind for kind in registry.FOLDERS if name in registry.sources(kind)]


def _sizes(kind: str, name: str, cls: type) -> dict[str, dict[str, Any]]:
    """The options that each named size of a part stands for, with the number of parameters."""
    from ..options.options import sizes_of

    if not sizes_of(cls):
        return {}
    from ..models import build

    counts = build.parameters_of_sizes(kind, name)
    return {
        size: {"parameters": counts[size], "at": build.COUNTED[kind][0], "options": dict(options)}
        for size, options in sizes_of(cls).items()
    }


def _print_options(
    kind: str,
    groups: dict[str, Any],
    meanings: dict[str, dict[str, str]],
    sizes: dict[str, dict[str, Any]],
) -> None:
    from ..matrix import parts
    from ..options.options import SIZE

    for title, options in groups.items():
        if options:
            out.print(f"\n[bold]{title}[/]")
        for key, option in options.items():
            out.print(Text(f"  {key:<18} {option.default!s:<12} {option.choices}"), soft_wrap=True)
            if meaning := meanings[title].get(key):
                out.print(Text(f"  {'':<18} {meaning}"), soft_wrap=True)
    for number, (size, facts) in enumerate(sizes.items()):
        if number == 0:
            out.print(f"\n[bold]sizes[/] (parameters for {facts['at']})", soft_wrap=True)
        text = ", ".join(f"{key}: {value}" for key, value in facts["options"].items())
        out.print(Text(f"  {size:<18} {facts['parameters']:>13,}  {text}"), soft_wrap=True)
    beside = list(parts.FRAME.get(kind, ()))
    if sizes:
        beside.insert(0, SIZE)
    if beside:
        where = "docs/reference/matrix.md"
        out.print(f"\nA row of a matrix also takes: {', '.join(beside)} ({where})", soft_wrap=True)
