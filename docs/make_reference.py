"""Writes docs/reference/ from the code: constructors, docstrings, the schema of a matrix, and the commands.

python docs/make_reference.py            writes the pages
python docs/make_reference.py --check    ends with 1 if a page isn't what this would write
"""

from __future__ import annotations

import html
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from typer.models import ArgumentInfo

import latentbench.bench as lb
from latentbench.bench import registry
from latentbench.bench.cli import app as commands
from latentbench.bench.data.augment import Augmentation
from latentbench.bench.matrix import keys, parts
from latentbench.bench.matrix.matrix import Skip
from latentbench.bench.matrix.settings import (
    Budget,
    CriticOptimizer,
    GroupOptimizer,
    Optimizer,
    Probes,
    Settings,
)
from latentbench.bench.models.build import COUNTED, parameters_of_sizes
from latentbench.bench.options.meanings import meanings_of, prose_of
from latentbench.bench.options.options import REQUIRED, SIZE, Option, options_of, sizes_of
from latentbench.bench.training.losses import LOSSES
from latentbench.bench.training.optimizers import DEFAULTS, GENERATOR_DEFAULTS

FOLDER = Path(__file__).parent / "reference"
COMMAND = "python docs/make_reference.py"
NOTICE = f"<!-- Made from the code by `{COMMAND}`: change the docstrings there, and run it. -->"
KINDS = {
    "regularizers": "A regularizer is a loss that shapes a tokenizer's latents. A matrix names regularizers "
    "under `regularizers:`.",
    "tokenizers": "A tokenizer is a pair of networks: one makes latents of images, the other images of "
    "latents. A matrix names tokenizers under `tokenizers:`.",
    "generators": "A generator is a model of the latents, from which new images are sampled. A matrix names "
    "generators under `generators:`, and options of their sampling under a row's `sampler:`.",
    "evaluators": "An evaluator measures a finished cell. A matrix names evaluators in the list "
    "`evaluators:`; one with options is written `{NAME: {OPTION: VALUE}}`.",
    "datasets": "A dataset has images in two splits, `train` and `val`. A matrix names one, or several, "
    "under `dataset:`.",
    "features": "A feature extractor is a frozen network that describes images, for metrics and as a "
    "teacher. A matrix names extractors under `features:` and `teacher:`.",
    "references": "A reference is a distribution that latents are drawn to. A matrix names one under "
    "`reference:`, for all rows or for a regularizer's.",
}
NAMES = (  # of the face, in the order of use
    *("run", "score", "preview", "Preview", "load", "Results", "tokenizer", "TrainedTokenizer"),
    *("list_parts", "create", "register", "MatrixError", "UserError"),
)
DIRECTIONS = {True: "higher", False: "lower", None: "–"}


def page(title: str, *blocks: str) -> str:
    return "\n\n".join([f"# {title}", NOTICE, *(block for block in blocks if block)]) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; nothing without rows."""
    head, lines = list(head), [list(row) for row in rows]
    if not lines:
        return ""
    cells = [[cell_text(cell) for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *cells))


def cell_text(text: str) -> str:
    """The text of a table's cell: in code, renderers read an escaped bar differently, so it is an entity."""

    def code(match: re.Match[str]) -> str:
        return (
            f"<code>{html.escape(match[1], quote=False).replace('|', '&#124;')}</code>"
            if "|" in match[1]
            else match[0]
        )

    return re.sub(r"`([^`]*)`", code, " ".join(text.split())).replace("|", "\\|")


def value_text(value: Any) -> str:
    """A default as a matrix writes it."""
    if value is REQUIRED:
        return "required"
    plain = _plain(value)
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10_000)
    return f"`{text.removesuffix('...' + chr(10)).strip() or 'null'}`"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def option_table(options: Mapping[str, Option], meanings: Mapping[str, str], **defaults: Any) -> str:
    rows = (
        (
            f"`{name}`",
            takes(option),
            value_text(defaults.get(name, option.default)),
            linked(meanings.get(name, "")),
        )
        for name, option in options.items()
    )
    return table(("option", "takes", "default", "meaning"), rows)


def takes(option: Option) -> str:
    """The type and range of an option; choices as code, and the parts that an option may name."""
    if option.needs:
        kind = registry.kind_of(option.needs[0])
        fitting = [
            name for name in registry.names(kind) if issubclass(registry.get(kind, name), option.needs)
        ]
        if fitting == registry.names(kind):
            return f"one of the [{kind}]({kind}.md), or `{{use: NAME, OPTION: VALUE}}`"
        names = ", ".join(f"[`{name}`]({kind}.md#{name})" for name in fitting)
        return f"one of the {kind} {names}, or `{{use: NAME, OPTION: VALUE}}`"
    return re.sub(r"'([^']*)'", r"`\1`", option.choices)


def linked(text: str) -> str:
    return re.sub(r"arXiv[ \n](\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def markdown(doc: str) -> str:
    """A cleaned docstring as Markdown: paragraphs on one line, indented lines as code, sections as lists."""
    blocks: list[str] = []
    for indented, lines in _groups(doc.splitlines()):
        if indented:
            blocks.append("\n".join(["```text", *(line[4:] for line in lines), "```"]))
        else:
            blocks.append(linked(" ".join(lines)))
    return "\n\n".join(blocks)


def _groups(lines: list[str]) -> Iterable[tuple[bool, list[str]]]:
    group: list[str] = []
    for line in [*lines, ""]:
        ends = not line or (group and line.startswith("    ") != group[0].startswith("    "))
        if group and ends:
            yield group[0].startswith("    "), group
            group = []
        if line:
            group.append(line)


def part_page(kind: str) -> str:
    blocks = [f"{KINDS[kind]} `bench info {kind} NAME` says the same of a part, yours included."]
    names = registry.names(kind)
    unusable = sorted(set(registry.sources(kind)) - set(names))
    if unusable:
        raise SystemExit(
            f"{kind} that this environment cannot use: {', '.join(unusable)}; pip install -e '.[test]'"
        )
    blocks.append(
        table(("name", "in a sentence"), ((f"[`{name}`](#{name})", about(kind, name)) for name in names))
    )
    for name in names:
        blocks += part_blocks(kind, name, registry.get(kind, name))
    return page(registry.SINGULAR[kind].capitalize() + "s", *blocks)


def about(kind: str, name: str) -> str:
    return registry.sources(kind)[name].about


def part_blocks(kind: str, name: str, cls: type) -> list[str]:
    options = options_of(cls)
    blocks = [f"## {name}", markdown(prose_of(cls)), option_table(options, meanings_of(cls))]
    if kind == "generators" and (sampler := options_of(cls, "sample")):
        blocks += ["Sampling:", option_table(sampler, meanings_of(cls, "sample"))]
    if sizes_of(cls):
        blocks.append(f"Published sizes, with the numbers of parameters for {COUNTED[kind][0]}:")
        counts = parameters_of_sizes(kind, name)
        rows = ((f"`{size}`", f"{counts[size]:,}", value_text(dict(o))) for size, o in sizes_of(cls).items())
        blocks.append(table((f"`{SIZE}`", "parameters", "stands for"), rows))
    if kind == "evaluators":
        metrics = getattr(cls, "metrics", {})
        rows = (
            (f"`{metric}`", DIRECTIONS[m.higher_is_better], m.unit or "–", m.about)
            for metric, m in metrics.items()
        )
        blocks.append(table(("metric", "better", "unit", "meaning"), rows))
    return blocks


def key_table(explained: Mapping[str, keys.Key], names: Iterable[str]) -> str:
    rows = ((f"`{n}`", k.takes, k.default, linked(k.meaning)) for n in names for k in [explained[n]])
    return table(("key", "takes", "default", "meaning"), rows)


def schema_table(target: type, **defaults: Any) -> str:
    return option_table(options_of(target), meanings_of(target), **defaults)


def matrix_page() -> str:
    settings = schema_table(Settings).replace("| option |", "| key |")
    blocks = [
        "A matrix is a YAML file. These are all of its keys. A part that it names has options of its own: "
        f"{', '.join(f'[{kind}]({kind}.md)' for kind in registry.FOLDERS)}.",
        "## Keys",
        key_table(keys.SECTION_KEYS, keys.SECTION_KEYS),
        "Settings of one value:",
        settings,
    ]
    for name, target in (("budget", Budget), ("probes", Probes), ("augment", Augmentation), ("skip", Skip)):
        blocks += [f"## {name}", markdown(prose_of(target)), schema_table(target)]
    blocks += ["## reconstruction", "`l1` and `l2` take a weight; `lpips` and `gan` a weight or options."]
    for name, target in LOSSES.items():
        blocks += [f"### {name}", markdown(prose_of(target)), schema_table(target)]
    blocks += row_blocks()
    return page("Keys of a matrix", *blocks)


def row_blocks() -> list[str]:
    """The keys of rows beside the options of their parts, and the settings of optimizers."""
    blocks = [
        "## Rows",
        "A row is `LABEL: {OPTION: VALUE, …}`. The label names the row in tables and, without `use`, the "
        "part. A list in place of an option's value is an axis: each of its values is a row.",
    ]
    for kind, names in (*parts.FRAME.items(), *parts.OWN.items()):
        title = f"Rows of {kind}" if kind in parts.FRAME else registry.SINGULAR[kind].capitalize()
        blocks += [f"### {title}", key_table(keys.ROW_KEYS, names)]
        if kind in parts.BUDGETS:
            budget = ", ".join(f"`{name}`" for name in parts.BUDGETS[kind])
            groups = ", ".join(f"`{name}`" for name in parts.GROUPS[kind])
            blocks.append(f"Its `budget` takes {budget}; its `optimizer` also settings for {groups} apart.")
    blocks += [
        "In place of a part, a generator's row may have `use: joint`, the generator that the regularizer has "
        "trained along, sampled as it is; or `use: none`, which scores the tokenizer alone.",
        "## optimizer",
        "Every loop has AdamW. A row takes all of these settings, and so does a prior; a critic all but "
        f"{_beyond(CriticOptimizer)}, any other group all but {_beyond(GroupOptimizer)}. Generators average "
        f"their weights: their `ema` is {GENERATOR_DEFAULTS['ema']}. A row gives settings to some of its "
        "parameters alone as `optimizer: {encoder: {lr: 1.0e-4}, critics: {NAME: {lr: 1.0e-4}}}`.",
        schema_table(Optimizer, **DEFAULTS),
    ]
    return blocks


def _beyond(target: type) -> str:
    """The settings of `Optimizer` that a group doesn't take."""
    return " and ".join(f"`{name}`" for name in options_of(Optimizer) if name not in options_of(target))


def commands_page() -> str:
    doc = sys.modules["latentbench.bench.cli.app"].__doc__ or ""
    codes = re.search(r"Exit codes: (.*?)\. ", " ".join(doc.split()))
    assert codes is not None
    rows = (re.findall(r"(\d+(?: \+ N)?) (.*)", code)[0] for code in codes[1].split(";"))
    blocks = ["`bench COMMAND --help` says the same in a terminal."]
    for command in commands.registered_commands:
        assert command.callback is not None
        blocks += command_blocks(command.name or command.callback.__name__, command.callback)
    return page("Commands", *blocks, "## Exit codes", table(("code", "meaning"), rows))


def command_blocks(name: str, function: Callable[..., Any]) -> list[str]:
    arguments, options, words = [], [], ["bench", name]
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        annotation, facts = get_args(hints[parameter.name])[:2]
        said = re.search(r"\s*\[default: (.*?)\]", facts.help or "")
        meaning = (facts.help or "").replace(said[0] if said else "", "")
        default = said[1] if said else command_default(parameter.default)
        if isinstance(facts, ArgumentInfo):
            shown = facts.metavar or parameter.name.upper()
            words.append(shown if default == "required" or shown.startswith("[") else f"[{shown}]")
            arguments.append((f"`{shown}`", meaning))
        else:
            shown = ", ".join(f"`{flag}`" for flag in flags(facts, parameter.name))
            value = "–" if annotation is bool else f"`{facts.metavar or type_name(annotation)}`"
            also = f" Also `${facts.envvar}`." if facts.envvar else ""
            options.append((shown, value, default, meaning + also))
    return [
        f"## bench {name}",
        markdown(inspect.getdoc(function) or ""),
        f"```text\n{' '.join([*words, '[OPTIONS]'])}\n```",
        table(("argument", "meaning"), arguments),
        table(("option", "takes", "default", "meaning"), options),
    ]


def flags(facts: Any, name: str) -> list[str]:
    """The names of an option; in an annotation, Typer keeps the first one as its default."""
    names = [facts.default] if isinstance(facts.default, str) else []
    return [*names, *(facts.param_decls or ())] or [f"--{name.replace('_', '-')}"]


def type_name(annotation: Any) -> str:
    """The type of an option's value: its choices, or its name in capitals."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)] or [annotation]
    if get_origin(kinds[0]) is Literal or get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(kinds[0]) or kinds))
    return str(getattr(kinds[0], "__name__", kinds[0])).upper()


def command_default(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    return "–" if default in (None, False) else f"`{default}`"


def python_page() -> str:
    blocks = [
        "`import latentbench.bench as lb` has these names; [Python](../python-api.md) shows them in use."
    ]
    assert sorted(NAMES) == sorted(lb._MODULES)
    for name in NAMES:
        thing = getattr(lb, name)
        blocks += (
            class_blocks(name, thing)
            if isinstance(thing, type)
            else function_blocks(f"lb.{name}", thing, "##")
        )
    return page("Python", *blocks)


def class_blocks(name: str, cls: type) -> list[str]:
    blocks = [f"## lb.{name}", markdown(inspect.getdoc(cls) or "")]
    for member, value in vars(cls).items():
        if member.startswith("_"):
            continue
        if isinstance(value, property):
            blocks += [f"### {name}.{member}", *docstring_blocks(value.__doc__ or "")]
        elif inspect.isfunction(value):
            blocks += function_blocks(f"{name}.{member}", value, "###")
    return blocks


def function_blocks(name: str, function: Callable[..., Any], level: str) -> list[str]:
    return [f"{level} {name}", signature(name, function), *docstring_blocks(function.__doc__ or "")]


class Plain(str):
    """Text that a signature shows without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def signature(name: str, function: Callable[..., Any]) -> str:
    """The signature as code, an argument a line if it is long."""
    whole = inspect.signature(function)
    own = [p.replace(annotation=Plain(p.annotation)) for p in whole.parameters.values() if p.name != "self"]
    text = str(inspect.Signature(own, return_annotation=Plain(whole.return_annotation)))
    if len(name + text) > 80:
        inside, _, returned = text[1:].rpartition(")")
        text = "\n".join(["(", *(f"    {one}," for one in split_arguments(inside)), ")" + returned])
    return f"```text\n{name}{text}\n```"


def split_arguments(inside: str) -> list[str]:
    """Splits the text between a signature's brackets at its commas, but not within inner brackets."""
    found, depth = [""], 0
    for char in inside:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and not depth:
            found.append("")
        else:
            found[-1] += char
    return [one.strip() for one in found]


def docstring_blocks(doc: str) -> list[str]:
    """A docstring's text, and its arguments and errors as lists."""
    sections = re.split(r"^(Args|Raises|Returns):\n", inspect.cleandoc(doc), flags=re.MULTILINE)
    blocks = [markdown(sections[0])]
    for title, body in zip(sections[1::2], sections[2::2], strict=True):
        items = re.split(r"\n    (?=\S)", "\n" + body.rstrip())[1:]
        blocks.append("\n".join([f"{title}:", "", *(f"- {_item(item)}" for item in items)]))
        rest = [line for line in body.splitlines() if line and not line.startswith(" ")]
        assert not rest, rest
    return blocks


def _item(item: str) -> str:
    name, colon, meaning = re.sub(r"\s+", " ", item).partition(": ")
    return f"`{name}`: {meaning}" if colon else name


PAGES: dict[str, Callable[[], str]] = {
    **{f"{kind}.md": (lambda kind=kind: part_page(kind)) for kind in registry.FOLDERS},
    "matrix.md": matrix_page,
    "commands.md": commands_page,
    "python.md": python_page,
}


def main() -> None:
    check = sys.argv[1:] == ["--check"]
    old = []
    for name, make in PAGES.items():
        file, text = FOLDER / name, make()
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            old.append(name)
            if not check:
                file.parent.mkdir(exist_ok=True)
                file.write_text(text, encoding="utf-8")
    if check and old:
        raise SystemExit(f"out of date in {FOLDER}: {', '.join(old)}; `{COMMAND}` writes them")


if __name__ == "__main__":
    main()
