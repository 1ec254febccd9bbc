"""Seconds of a whole run by kind of stage, and until its first comparison, against another commit's.

    python tests/benchmarks/matrix_against_commit.py 0a6092f -o FOLDER [--rounds 3] [-k FILTER] [-j 2]

Both commits run the other commit's `matrix.yaml` from a cold start, by turns, on an idle machine. A stage's
seconds are those that its run prints; as each worker has one thread, they are core-seconds. The first
comparison is complete when all rows of some generator that takes steps of training are scored. Transcripts
with the seconds since the start are written into the folder, whose complete rounds are not run again.
"""

import argparse
import csv
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from against_commit import ROOT, cpu, import_package, worktree

DONE = re.compile(r"^ *([\d.]+)  done +(\w+) +(.+?)  ([\d.]+) s\b")
SIDES = ("other", "this")
TRAINED = ("lightningdit", "mar", "tarflow")


def run(checkout, matrix, folder, options):
    """Runs the matrix by the package of a checkout, and writes the transcript, unless the folder has one."""
    transcript = folder / "transcript.txt"
    if transcript.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted round has left would be kept, and not run
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="latentbench-") as place:
        settings = {
            "PYTHONPATH": str(import_package(checkout, Path(place))),
            "LATENTBENCH_HOME": str(Path(place) / "home"),
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", "latentbench.bench", "run", "-m", matrix, "-o", folder / "results"]
        began, lines = time.monotonic(), []
        with subprocess.Popen(
            [*command, *options],
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            for line in process.stdout:
                lines.append(f"{time.monotonic() - began:8.1f}  {line}")
        if process.returncode:
            sys.exit(f"{folder}: exit status {process.returncode}\n{''.join(lines[-20:])}")
    lines.append(f"{time.monotonic() - began:8.1f}  end\n")
    transcript.write_text("".join(lines))


def read(transcript):
    """Seconds by kind of stage, when the first comparison was complete, and when all was."""
    seconds, scored = defaultdict(float), {}
    for line in transcript.read_text().splitlines():
        if found := DONE.match(line):
            at, kind, name, took = float(found[1]), *found.group(2, 3), float(found[4])
            parts = name.split(" · ")
            generator = next((part for part in parts if part in TRAINED), None)
            seconds[f"{kind} {generator or ''}".strip()] += took
            if kind == "scores" and generator:
                scored[generator] = at
    return seconds, min(scored.values()), float(line.split()[0])


def orders(results):
    """By generator, its rows in the order of gFD."""
    with (results / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    metric = next(name for name in rows[0] if name.startswith("gFD["))
    found = defaultdict(list)
    for row in sorted((row for row in rows if row[metric]), key=lambda row: float(row[metric])):
        found[row["generator"]].append(
            f"{row['regularizer']} w={float(row['guidance']):g} {float(row[metric]):.1f}"
        )
    return found


def report(folder, rounds):
    numbers = range(rounds)
    runs = {side: [read(folder / side / str(n) / "transcript.txt") for n in numbers] for side in SIDES}
    kinds = sorted({kind for seconds, *_ in runs["other"] for kind in seconds})
    print(f"{'core-seconds of':24} {'other':>8} {'this':>8}  this / other")

    def line(name, values):
        ratios = [this / other for other, this in zip(*values, strict=True) if other]
        shown = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"
        print(f"{name:24} {median(values[0]):8.1f} {median(values[1]):8.1f}  {shown}")

    for kind in kinds:
        line(kind, [[seconds[kind] for seconds, *_ in runs[side]] for side in SIDES])
    line("all stages", [[sum(seconds.values()) for seconds, *_ in runs[side]] for side in SIDES])
    line("the first comparison at", [[first for _, first, _ in runs[side]] for side in SIDES])
    line("the end at", [[end for *_, end in runs[side]] for side in SIDES])
    print("\nRows in the order of gFD, of the first round:")
    other, this = (orders(folder / side / "0" / "results") for side in SIDES)
    for generator in other:
        for side, found in (("other", other), ("this", this)):
            print(f"{generator:13} {side:5}  {' < '.join(found[generator])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-k", default="", metavar="FILTER")
    parser.add_argument("-j", default="2", metavar="WORKERS")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    chosen = ["-j", options.j, *(["-k", options.k] if options.k else [])]
    with worktree(options.commit) as other:
        for number in range(options.rounds):
            sides = {"other": other, "this": ROOT}
            for side in sorted(sides, reverse=number % 2 == 1):
                run(sides[side], other / "matrix.yaml", options.o / side / str(number), chosen)
    machine = f"{cpu()}, {options.j} workers of one thread; Python {platform.python_version()}"
    print(f"{machine}; {options.rounds} rounds\n")
    report(options.o, options.rounds)


if __name__ == "__main__":
    main()
