"""Results of benchmarks: the table that a run prints, and the same in little JSON for the documentation.

A result is a dict:

    name      "tests/benchmarks/test_x.py::test_y[case]"
    compared  for each pair of ways, "of" and "over" which other, "ratio", its "quartiles", and "rounds"
    seconds   the median of each way, or of the only one
    besides   what else the benchmark has measured, by its name
"""

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

FOLDER = "tests/benchmarks/"
HEAD = ("benchmark", "compared", "ratio", "spread", "rounds", "seconds", "besides")
LIBRARIES = ("torch", "numpy", "scipy", "torch-fidelity", "pytest-benchmark")
THREADS = "OMP_NUM_THREADS"
ALONE = "alone"  # in place of a pair: nothing was measured beside it


def machine_facts(info: dict[str, Any]) -> None:
    """Adds to pytest-benchmark's facts of the machine what its results depend on besides."""
    import torch

    info["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info["threads"] = torch.get_num_threads()
    info["versions"] = {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def small(output: Mapping[str, Any]) -> dict[str, Any]:
    """pytest-benchmark's JSON without raw times and without the name of the machine."""
    machine, commit = output["machine_info"], output["commit_info"]
    return {
        "machine": {
            "cpu": machine["cpu"]["brand_raw"],
            "cores": machine["cores"],
            "threads": machine["threads"],
            "system": machine["system"],
        },
        "date": output["datetime"][:10],
        "commit": (commit["id"] or "unknown")[:7] + ("+changes" if commit.get("dirty") else ""),
        "versions": machine["versions"],
        "results": [_result(benchmark) for benchmark in output["benchmarks"]],
    }


def _result(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    known = ("seconds", "compared")
    info, stats = benchmark["extra_info"], benchmark["stats"]
    seconds = info.get("seconds", {ALONE: stats["median"]})
    pairs = info.get("compared", [{"of": ALONE, "rounds": stats["rounds"]}])
    return {
        "name": benchmark["fullname"],
        "compared": [{key: _rounded(value) for key, value in pair.items()} for pair in pairs],
        "seconds": {way: _rounded(taken) for way, taken in seconds.items()},
        "besides": {name: _rounded(value) for name, value in info.items() if name not in known},
    }


def _rounded(value: Any) -> Any:
    """A number with four digits, which is more than any repeats; lists number by number."""
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def conditions(run: Mapping[str, Any]) -> str:
    """The machine, the day, the commit and the versions of a small result, as a sentence."""
    machine = run["machine"]
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {threads}, {machine['system']}; {run['date']}, "
        f"commit {run['commit']}; {versions}."
    )


def rows(results: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Texts in the order of `HEAD` for each pair of ways; a result's first has what else was measured."""
    found = []
    for result in results:
        name = result["name"].removeprefix(FOLDER)
        besides = ", ".join(f"{what} {number(value)}" for what, value in result["besides"].items())
        for pair in result["compared"]:
            found.append((name, *_pair(pair, result["seconds"]), besides))
            besides = ""
    return found


def _pair(pair: Mapping[str, Any], seconds: Mapping[str, float]) -> tuple[str, ...]:
    rounds = str(pair["rounds"])
    if "over" not in pair:
        return ALONE, "–", "–", rounds, number(seconds[pair["of"]])
    low, high = pair["quartiles"]
    spread = "–" if low is None else f"{number(low)} to {number(high)}"
    both = f"{number(seconds[pair['of']])} / {number(seconds[pair['over']])}"
    return f"{pair['of']} / {pair['over']}", number(pair["ratio"]), spread, rounds, both


def number(value: Any) -> str:
    """Three digits of a number, without an exponent; other values as they are."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if value >= 100:
        return f"{value:,.0f}"
    digits = f"{value:.3g}"
    return f"{value:.6f}" if "e" in digits else digits


def plain_table(found: Iterable[tuple[str, ...]]) -> str:
    """Rows under their head, in columns of a terminal; an empty last column is left out."""
    lines = [HEAD, *found]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown_table(found: Iterable[tuple[str, ...]]) -> str:
    """Rows under their head, without the file, which a page names above; numbers to the right."""
    lines = [HEAD, ("---", "---", "--:", "--:", "--:", "--:", "---")]
    for name, *rest in found:
        lines.append((f"`{name.partition('::')[2]}`", *rest))
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
