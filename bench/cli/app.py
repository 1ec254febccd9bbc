"""The command line: `bench init`, `run`, `score`, `plan`, `list`, `info`, `report`, `merge`, `compact`,
`compare`, `orders`, `claims`, `power`, `proxies`, `submit`, `leaderboards`, `reproduce`, `audit`, `export`,
`check`, `doctor`, `clean`.

Exit codes: 0 done; 1 some cells failed (the report is written), or a check or `reproduce` did; 2 usage or
matrix error; 3 worse (`compare --fail-on`); 4 the network is needed (`--offline`); 128 + N ended by signal N,
such as 130 by Ctrl-C and 143 by SIGTERM. Commands import what needs torch when they are called.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..runtime.output_streams import make_lasting
from ..user_error import UserError
from .checks import check, clean, doctor
from .claims import claims
from .console import print_error_line
from .export import export
from .init import init
from .leaderboards import leaderboards, reproduce, submit
from .orders import orders
from .parts import info, list_parts
from .plan import plan
from .power import power
from .proxies import proxies
from .results import audit, compact, compare, merge, report
from .run import run
from .score import score


class Commands(TyperGroup):
    """All commands; an error that is meant for users is printed without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            print_error_line(f"error: {error}")
            raise typer.Exit(error.exit_code) from error


app = typer.Typer(
    cls=Commands,
    help="Which latent regularizer gives the best tokenizer for which generator?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing what draws boxes takes longer than all the rest
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(init)
app.command()(run)
app.command()(score)
app.command()(plan)
app.command("list")(list_parts)
app.command()(info)
app.command()(report)
app.command()(merge)
app.command()(compact)
app.command()(compare)
app.command()(orders)
app.command()(claims)
app.command()(power)
app.command()(proxies)
app.command()(submit)
app.command()(leaderboards)
app.command()(reproduce)
app.command()(audit)
app.command()(export)
app.command()(check)
app.command()(doctor)
app.command()(clean)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if show:
        print(__version__)
        raise typer.Exit()


def main() -> None:
    """The entry point of `bench`, which prints to streams that never end it."""
    output = make_lasting()
    code = 0
    try:
        app()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    if output is not None and output.lost:
        print_error_line(f"error: the output is incomplete: {output.lost}")
        # What a run makes is in its results folder; other commands make what they print.
        code = code or int("run" not in sys.argv[1:2])
    sys.exit(code)
