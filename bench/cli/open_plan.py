"""Opens a matrix for a command: its plan, the chosen cells and the store of their artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .console import UsageError, as_usage_errors, print_error_line
from .safe_text import Text
from .shared_options import check_device

if TYPE_CHECKING:
    from ..engine.open_plan import OpenPlan


def open_plan(
    file: Path,
    profile: list[str] | None,
    filter: str | None,
    seeds: int | None,
    plugins: list[Path] | None,
    device: str,
    shard: str | None,
    url: str | None,
    fetch: bool = False,
) -> OpenPlan:
    """Plans a matrix and prints its warnings; `fetch` allows downloads.

    Raises:
        UsageError: the matrix has problems, all of which are printed, or no cell matches the filter.
    """
    from ..engine.open_plan import OpenPlan
    from ..matrix.load import load_matrix
    from ..matrix.yaml_text import MatrixError
    from ..plan.make import make_plan
    from ..plan.shards import deal
    from ..plan.shards import parse as parse_shard
    from ..records.labels import parse_filter, selects
    from ..store import mirror

    check_device(device)
    try:
        with as_usage_errors(ValueError):
            accept = parse_filter(filter)
            share = parse_shard(shard) if shard else None
            matrix = load_matrix(file, profile=profile, seeds=seeds, plugins=tuple(plugins or ()))
            plan = make_plan(matrix, device=device, fetch=fetch)
    except MatrixError as error:
        for problem in error.problems:
            print_error_line(problem)
        count = len(error.problems)
        message = f"{count} problem{'s' if count > 1 else ''} in {file}; nothing was run"
        raise UsageError(message, error.exit_code) from error
    for warning in matrix.warnings:
        print_error_line(f"warning: {warning}")
    cells = [cell for cell in plan.cells if selects(accept, cell.identity)]
    if all(cell.real for cell in cells):
        raise UsageError(f"no cell matches --filter {filter!r}")
    if share:
        from ..plan.estimate import costs

        index, count = share
        flops = {stage: cost.flops for stage, cost in costs(plan, plan.needed(cells)).items()}
        cells = deal(plan, cells, count, flops)[index - 1]
    try:
        store = mirror.store(file, url)
    except mirror.RemoteError as error:  # nothing has begun: a usage error
        raise UsageError(str(error)) from error
    return OpenPlan(matrix, plan, cells, store)


def contents(opened: OpenPlan) -> Iterator[Text]:
    """The cells' datasets, `images: 48 train + 16 val images; 2 classes: …`, skipped rows and notes."""
    from ..plan.plan import skipped_lines

    for label in dict.fromkeys(cell.dataset for cell in opened.cells):
        for line in opened.plan.descriptions[label]:
            yield Text(f"{label}: {line}")
    for line in skipped_lines(opened.cells):
        yield Text(line)
    for note in opened.notes:
        yield Text(f"note: {note}")


def headline(opened: OpenPlan, cached: int, jobs: int | None = None) -> Text:
    """`lab2d: 12 cells (2 skipped), 80 stages, 3 cached; 4 workers`."""
    from ..leaderboard.numbers import plural

    cells = [cell for cell in opened.cells if not cell.real]
    skipped = sum(cell.skipped is not None for cell in cells)
    text = f"{opened.matrix.name}: {plural(len(cells), 'cell')}"
    if skipped:
        text += f" ({skipped} skipped)"
    text += f", {plural(len(opened.needed), 'stage')}, {cached} cached"
    if jobs:
        text += f"; {plural(jobs, 'worker')}"
    return Text(text)
