"""The terminal: standard output and standard error, tables, JSON, and errors of usage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from ..user_error import UserError
from .safe_text import Text

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class UsageError(UserError):
    """Options or files that a command cannot work with."""

    def __init__(self, message: str, exit_code: int = UserError.exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def as_usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Raises UsageError in place of other errors about what the user has named."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UsageError(str(error)) from error


def print_error_line(text: object) -> None:
    err.print(Text(str(text)), soft_wrap=True)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def plain_table(header: Sequence[str], left: tuple[str, ...]) -> Table:
    """A table without lines whose columns are aligned to the right, except those named in `left`."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in header:
        table.add_column(name, justify="left" if name in left else "right")
    return table
