"""Writes the tables of docs/benchmarks.md from measurements.

pytest tests/benchmarks --benchmark-enable -n 0 --benchmark-json RESULTS.json
python docs/make_benchmarks.py RESULTS.json   keeps these in docs/benchmarks.json, and writes the tables
python docs/make_benchmarks.py                writes them from what is kept
python docs/make_benchmarks.py --check        ends with 1 if the page isn't what this would write

Results of a file of benchmarks take the place of all that is kept of this file. Those of other files stay,
with the machine, the day and the commit of their measurement. A file without results has its command alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.benchmark_table import FOLDER, conditions, markdown_table, rows, small  # noqa: E402

Run = Mapping[str, Any]  # a small result: see helpers/benchmark_table.py

PAGE, KEPT = ROOT / "docs/benchmarks.md", ROOT / "docs/benchmarks.json"
COMMAND = "python docs/make_benchmarks.py"
BLOCK = re.compile(r"(<!-- measured: ([\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def file_of(result: Mapping[str, Any]) -> str:
    """The file of a result's benchmark, without its folder."""
    return str(result["name"]).removeprefix(FOLDER).partition("::")[0]


def joined(runs: Iterable[Run]) -> list[Run]:
    """Runs in which each file of benchmarks has the results of the latest run that has any."""
    found: list[Run] = []
    for run in runs:
        files = {file_of(result) for result in run["results"]}
        older = [{**old, "results": [r for r in old["results"] if file_of(r) not in files]} for old in found]
        alike = [old for old in older if conditions(old) == conditions(run)]
        results = [result for old in (*alike, run) for result in old["results"]]
        results = sorted(results, key=file_of)  # a file's stay in their order
        found = [old for old in older if old not in alike and old["results"]] + [{**run, "results": results}]
    return found


def written(page: str, runs: Iterable[Run]) -> str:
    """The page with each block `<!-- measured: FILE -->` … `<!-- end -->` made anew.

    Raises:
        SystemExit: there are results of a file that has no block.
    """
    of_file = {file_of(result): run for run in runs for result in run["results"]}
    if missing := set(of_file) - {name for _, name, _ in BLOCK.findall(page)}:
        raise SystemExit(f"{PAGE.name} has no `<!-- measured: FILE -->` for {', '.join(sorted(missing))}")

    def block(found: re.Match[str]) -> str:
        head, file, end = found.groups()
        return f"{head}\n{_block(file, of_file.get(file))}\n\n{end}"

    return BLOCK.sub(block, page)


def _block(file: str, run: Run | None) -> str:
    command = f"`pytest {FOLDER}{file} --benchmark-enable -n 0`"
    if run is None:
        return f"{command} measures; nothing is kept."
    results = [result for result in run["results"] if file_of(result) == file]
    return f"{command}\n\n{markdown_table(rows(results))}\n\n{conditions(run)}"


def as_text(runs: Iterable[Run]) -> str:
    """JSON with a line for each result."""
    parts = []
    for run in runs:
        head = json.dumps({key: value for key, value in run.items() if key != "results"}, ensure_ascii=False)
        lines = ",\n".join(json.dumps(result, ensure_ascii=False) for result in run["results"])
        parts.append(f'{head[:-1]}, "results": [\n{lines}\n]}}')
    return "[" + ",\n".join(parts) + "]\n"


def main() -> None:
    check = sys.argv[1:] == ["--check"]
    files = [] if check else sys.argv[1:]
    runs = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else []
    if files:
        new = [small(json.loads(Path(file).read_text(encoding="utf-8"))) for file in files]
        runs = joined([*runs, *new])
        KEPT.write_text(as_text(runs), encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    made = written(page, runs)
    if check and made != page:
        raise SystemExit(f"{PAGE} is out of date; `{COMMAND}` writes it")
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
