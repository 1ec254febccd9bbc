"""`lb.load` and what it and `lb.run` return: the records of results folders, as tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..leaderboard.folders import ResultsFolder, one_each
from ..leaderboard.results import Results as Gathered
from ..records.files import RecordError, read_records
from ..records.record import Record
from ..report.summary import summarised, terminal_summary
from ..store.user_paths import user_path
from ..tools.compare import CompareError
from .comparison import ComparedResults, compared
from .frames import metric_frame, tidy_frame
from .tables import html_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ..engine.open_plan import OpenPlan


class Results:
    """The records of one or several results folders, and all that is made of them.

    Numbers are those of the folder's leaderboard.
    """

    def __init__(
        self, records: Sequence[Record], folders: Sequence[Path], plan: OpenPlan | None = None
    ) -> None:
        self._gathered = Gathered.of(records)
        self.folders = tuple(folders)
        self._plan = plan  # of the run that made them; None of results that were only read

    @property
    def records(self) -> list[Record]:
        """All records, in the order of their cells."""
        return self._gathered.records

    @property
    def failed(self) -> list[Record]:
        """The records of failed cells, each with its `reason`."""
        return [record for record in self.records if record.status == "failed"]

    @property
    def folder(self) -> Path:
        """The results folder.

        Raises:
            RecordError: the results are of several folders.
        """
        if len(self.folders) > 1:
            names = " ".join(map(str, self.folders))
            raise RecordError(
                f"these are results of several folders; `bench report {names} -o DIR` joins them"
            )
        return self.folders[0]

    @property
    def page(self) -> Path:
        """The path of leaderboard.html.

        Raises:
            RecordError: the folder has none.
        """
        page = self.folder / "leaderboard.html"
        if not page.is_file():
            raise RecordError(f"there is no {page}; `bench report {self.folder}` makes it")
        return page

    def frame(
        self, scope: str = "generator", metrics: str | Sequence[str] | None = None, tidy: bool = False
    ) -> pd.DataFrame:
        """A table of plain numbers over seeds, best rows first.

        A metric NAME has the columns NAME, NAME_std (over seeds), NAME_n (number of seeds) and NAME_protocol,
        an id that `attrs["protocols"]` explains; if it is named, also NAME_ci_low and NAME_ci_high.

        Args:
            scope: "generator" has a row for each generator and guidance, "tokenizer" one for each tokenizer,
                "all" everything that leaderboard.csv has.
            metrics: names or patterns such as "gFD*"; the first three of the table unless given.
            tidy: a row for each number, with its protocol, deviation, n, interval, unit and direction.

        Raises:
            FrameError: for an unknown scope, or a pattern that fits no metric.
        """
        patterns = [metrics] if isinstance(metrics, str) else metrics
        make = tidy_frame if tidy else metric_frame
        return make(self._gathered, scope, patterns)

    def compare(
        self, a: str | Results, b: str | Results | None = None, metrics: str | Sequence[str] = ()
    ) -> ComparedResults:
        """Compares two choices of rows, or these results with others, metric by metric, paired by seeds.

            results.compare("regularizer=none", "regularizer=kl*")
            results.compare(lb.load("results/yesterday"))

        Args:
            a, b: filters of these results, or results; with `a` alone these results are the first side.
            metrics: names or patterns; the directed ones that tables show unless given.

        Raises:
            CompareError: a filter fits nothing, or the sides have no row in common.
        """
        if b is None and isinstance(a, str):
            raise CompareError("compare takes two filters of these results, or other results")
        pair = (self, a) if b is None else (a, b)
        sides = [(self.records, one) if isinstance(one, str) else (one.records, "") for one in pair]
        names = [one if isinstance(one, str) else one._name for one in pair]
        patterns = [metrics] if isinstance(metrics, str) else metrics
        return compared(sides, names, patterns)

    def figures(self) -> dict[str, Figure]:
        """The figures of the report's analyses by their names, such as "interaction" and "pareto"."""
        from ..report.analysis.findings import all_of

        return {name: figure for one in all_of(self._gathered) for name, figure in one.figures.items()}

    @property
    def _name(self) -> str:
        return " + ".join(map(str, self.folders))

    def __repr__(self) -> str:
        return f"{self._name}\n{terminal_summary(self._gathered)}"

    def _repr_html_(self) -> str:
        summary = summarised(self._gathered)
        head = f"{self._name}: {summary.head}" if summary.head else self._name
        return html_table(summary.table, head, [*summary.notes, summary.tally])


def load(*folders: str | Path) -> Results:
    """The results in folders, from their records alone: nothing is trained or written.

    Raises:
        RecordError: a folder has no records, one cannot be read, or folders contradict each other.
    """
    if not folders:
        raise RecordError('load takes results folders: load("results/digits")')
    sources = []
    for folder in map(user_path, folders):
        records = read_records(folder / "records")
        if not records:
            raise RecordError(f"no records in {folder / 'records'}")
        sources.append(ResultsFolder(folder, records))
    return Results(one_each(sources)[0], [source.folder for source in sources])
