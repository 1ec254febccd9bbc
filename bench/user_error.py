"""The base of errors whose message is meant for users."""

from __future__ import annotations


class UserError(Exception):
    """An error that the command line prints without a traceback before it exits with `exit_code`."""

    exit_code: int = 2
