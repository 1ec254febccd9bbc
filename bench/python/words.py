"""Errors in the words of a call from Python: arguments in place of the command line's flags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ..matrix.yaml_text import MatrixError
from ..user_error import UserError

FLAGS = {
    "-o DIR": "output=DIR",
    "-o": "output=…",
    "--output": "output",
    "--profile": "profile",
    "--filter": "filter",
    "--seeds": "seeds",
    "--plugin": "plugins",
    "--offline": "offline=True",
    "--keep-records": "keep_records=True",
    "--overwrite": "overwrite=True",
    "--force-memory": "force_memory=True",
    "--rerun": "rerun=True",
}
_FLAG = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, FLAGS)) + r")(?![\w-])")


@contextmanager
def in_python_words() -> Iterator[None]:
    """Rewords errors for users that are raised in the block."""
    try:
        yield
    except MatrixError as error:
        problems = [
            replace(problem, file=reworded(problem.file), message=reworded(problem.message))
            for problem in error.problems
        ]
        raise type(error)(problems) from None
    except UserError as error:
        error.args = (reworded(str(error)),)
        raise


def reworded(text: str) -> str:
    """A message with arguments for flags."""
    return _FLAG.sub(lambda match: FLAGS[match[1]], text)
