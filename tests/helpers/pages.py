"""Markdown pages of the project: their links, anchors and code blocks, as markdown-it reads them.

A code block may have HTML comments on the lines before it:

    <!-- needs: data -->     it is read, and not run: for data, gpu, network; `time` is run at night
    <!-- fragment -->        it is a part of something that runs
    <!-- file: NAME -->      it is written to a file, for the blocks after it

A page with the line `<!-- nightly -->` has only blocks that need time.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
NEEDS = {"data", "gpu", "network", "time"}
NIGHTLY = re.compile("^<!-- nightly -->$", re.MULTILINE)
MARK = re.compile(r"<!-- (?:(fragment)|(needs|file): ([^>]+)) -->")
LANGUAGES = {"sh": "sh", "shell": "sh", "bash": "sh", "yaml": "yaml", "yml": "yaml", "python": "python"}


@dataclass(frozen=True)
class Block:
    """A code block, the line of its fence, and the marks before it."""

    page: str
    line: int
    language: str  # "sh", "yaml" or "python"
    text: str
    needs: frozenset[str] = frozenset()
    fragment: bool = False
    file: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """The texts that users read, by their paths: not those that runs write."""
    names = [
        "README.md",
        "CONTRIBUTING.md",
        "AGENTS.md",
        "CHANGELOG.md",
        "THIRD_PARTY.md",
        "results/README.md",
    ]
    others = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "results/studies").glob("*/README.md")]
    found = sorted(file.relative_to(ROOT).as_posix() for file in others)
    return [name for name in names if (ROOT / name).is_file()] + found


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def _tokens(text: str):
    return MarkdownIt("commonmark").enable("table").parse(text)


def blocks(text: str, page: str = "") -> list[Block]:
    """The shell, YAML and Python blocks of a text.

    Raises:
        ValueError: a comment before a block is no mark, or a block needs what isn't known.
    """
    lines, found = text.splitlines(), []
    of_all = {"time"} if NIGHTLY.search(text) else set()
    for token in _tokens(text):
        language = LANGUAGES.get(token.info.split()[0] if token.type == "fence" and token.info else "")
        if language is None:
            continue
        start = token.map[0]
        marks, above = {}, start - 1
        while above >= 0 and lines[above].strip().startswith("<!--"):
            match = MARK.fullmatch(lines[above].strip())
            if match is None:
                raise ValueError(
                    f"{page}:{above + 1}: {lines[above].strip()} is no mark; see tests/helpers/pages.py"
                )
            marks[match[1] or match[2]] = match[3] or ""
            above -= 1
        needs = frozenset(filter(None, re.split(r"[,\s]+", marks.get("needs", ""))))
        if needs - NEEDS:
            raise ValueError(
                f"{page}:{start + 1}: a block needs {', '.join(sorted(NEEDS))}, not {sorted(needs - NEEDS)}"
            )
        file = marks.get("file", "").strip() or None
        needs, fragment = needs | of_all, "fragment" in marks
        found.append(Block(page, start + 1, language, token.content, needs, fragment, file))
    return found


def links(text: str) -> Iterator[str]:
    """The targets of links and pictures, those of HTML included; code has none."""
    for token in _tokens(text):
        for one in (token, *(token.children or ())):
            if one.type == "link_open":
                yield str(one.attrs["href"])
            elif one.type == "image":
                yield str(one.attrs["src"])
            elif one.type in ("html_inline", "html_block"):
                yield from re.findall(r"""(?:href|src|srcset)=["']([^"']+)["']""", one.content)


def anchors(text: str) -> set[str]:
    """The anchors of headings as code hosts make them, and those of HTML."""
    found: dict[str, int] = {}
    tokens = _tokens(text)
    for heading, inline in zip(tokens, tokens[1:], strict=False):
        if heading.type != "heading_open":
            continue
        words = "".join(child.content for child in inline.children if child.type in ("text", "code_inline"))
        slug = re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    named = {
        name for token in tokens for name in re.findall(r"""(?:id|name)=["']([^"']+)["']""", token.content)
    }
    return set(found) | named


def broken_links(page: str) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of a Markdown file."""
    broken, folder = [], (ROOT / page).parent
    for target in links(text_of(page)):
        if re.match(r"[a-z][a-z0-9+.-]*:|//", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = folder / path if path else ROOT / page
        missing = not file.exists() or not file.resolve().is_relative_to(ROOT.resolve())
        if missing or (
            anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8"))
        ):
            broken.append(target)
    return broken
