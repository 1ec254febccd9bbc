"""A hook of mkdocs: links that leave docs/ work in the site as they do on a code host.

A page of docs/ may link to `../README.md` or `../matrix.yaml`. Markdown files that it links to become pages
below `repository/`, and so do those that they link to; pictures and other files are copied there. Links to
folders lead to `Repository` of pyproject's `project.urls`, and are plain text without one.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
BESIDE = "repository"  # where files from outside docs/ lie in the site
CODE = re.compile(r"^( *)(```+|~~~+).*?^\1\2|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"""(\]\()([^)\s#]+)([^)]*\))|((?:src|href)=")([^"#]+)([^"]*")""")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|//")


def replaced_links(text: str, change: Callable[[str], str]) -> str:
    """The text with every relative link's path changed; code stays as it is."""
    code = [match.span() for match in CODE.finditer(text)]

    def replace(match: re.Match[str]) -> str:
        head, target, tail = match.groups()[:3] if match[1] else match.groups()[3:]
        if not match[1] and target.endswith(".md"):
            return match[0]  # mkdocs turns links to pages into links to HTML only where they are Markdown
        if SCHEME.match(target) or any(start <= match.start() < end for start, end in code):
            return match[0]
        return head + change(target) + tail

    return LINK.sub(replace, text)


def repository_path(src_uri: str) -> Path:
    """The path in the repository of a page of the site."""
    inside = src_uri.removeprefix(f"{BESIDE}/")
    return Path(inside) if inside != src_uri else Path("docs") / src_uri


def site_uri(path: Path) -> str:
    """The place in the site of a file of the repository."""
    return path.relative_to("docs").as_posix() if path.parts[0] == "docs" else f"{BESIDE}/{path.as_posix()}"


def found(page: Path, target: str) -> Path | None:
    """The file that a page's link leads to, relative to the root: a folder's text; None if there is none."""
    path = Path(os.path.normpath(page.parent / unquote(target)))
    if ".." in path.parts or path.is_absolute():
        return None
    for text in ("README.md", "leaderboard.md"):
        if (ROOT / path / text).is_file():
            return path / text
    return path if (ROOT / path).is_file() else None


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside docs/ that pages link to, and that those link to."""
    waiting = [file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = repository_path(waiting.pop())
        linked: list[str] = []
        replaced_links(
            (ROOT / page).read_text(encoding="utf-8"), lambda to, seen=linked: seen.append(to) or to
        )
        for target in linked:
            path = found(page, target)
            uri = site_uri(path) if path and path != Path("docs") else None
            if path is None or uri is None or files.get_file_from_path(uri):
                continue
            level = InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path), inclusion=level))
            if path.suffix == ".md":
                waiting.append(uri)
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files of the repository into links to their places in the site."""
    src_uri = page.file.src_uri
    here = repository_path(src_uri)
    if src_uri.startswith(f"{BESIDE}/"):
        page.meta["search"] = {"exclude": True}

    def change(target: str) -> str:
        path = found(here, target)
        if path is not None:
            return os.path.relpath(site_uri(path), Path(src_uri).parent)
        folder = Path(os.path.normpath(here.parent / target))
        url = repository_url()
        return f"{url}/tree/main/{folder}" if url and (ROOT / folder).is_dir() else target

    markdown = replaced_links(markdown, change)
    return markdown if repository_url() else without_folder_links(markdown, here)


def without_folder_links(markdown: str, here: Path) -> str:
    """The text with links to folders of the repository as plain text."""

    def plain(match: re.Match[str]) -> str:
        return match[1] if (ROOT / here.parent / match[2]).is_dir() else match[0]

    return re.sub(r"\[([^\]]+)\]\(([^):#\s]+)\)", plain, markdown)


def repository_url() -> str | None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")
