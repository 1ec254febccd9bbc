"""Benchmarks: ways take turns, the table says what was measured, and the page is made from kept results."""

import importlib.util
import itertools
import json
import re
import shlex

import pytest
from helpers.benchmark_table import conditions, markdown_table, plain_table, rows, small
from helpers.in_turns import in_turns
from helpers.page_blocks import fault_of
from helpers.pages import ROOT, text_of

spec = importlib.util.spec_from_file_location("make_benchmarks", ROOT / "docs/make_benchmarks.py")
make_benchmarks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_benchmarks)

PAGE, RUNS = text_of("docs/benchmarks.md"), json.loads(text_of("docs/benchmarks.json"))
OUTPUT = {
    "machine_info": {
        "node": "somebody's",
        "system": "Linux",
        "cpu": {"brand_raw": "Fast CPU", "flags": ["avx"]},
        "cores": 2,
        "threads": 1,
        "versions": {"python": "3.11.2", "torch": "2.14.1"},
    },
    "commit_info": {"id": "0123456789abcdef", "dirty": False},
    "datetime": "2026-11-30T12:00:00+00:00",
    "benchmarks": [
        {
            "fullname": "tests/benchmarks/test_x.py::test_two[a|b]",
            "extra_info": {
                "seconds": {"ours": 0.0123456, "plain": 0.04542},
                "compared": [
                    {
                        "of": "ours",
                        "over": "plain",
                        "ratio": 0.27123,
                        "quartiles": [0.26, 0.291],
                        "rounds": 3,
                    }
                ],
                "MB": 1234,
            },
            "stats": {"median": 0.0123456, "rounds": 3, "data": [0.1, 0.2]},
        },
        {
            "fullname": "tests/benchmarks/test_x.py::test_one",
            "extra_info": {},
            "stats": {"median": 1234.567, "rounds": 1},
        },
    ],
}


RESULT = small(OUTPUT)


class FakeBenchmark:
    """pytest-benchmark's fixture with a clock that the ways move on."""

    disabled = False

    def __init__(self):
        self.now, self.extra_info = 0.0, {}

    def _timer(self):
        return self.now

    def pedantic(self, target, setup, rounds, warmup_rounds):
        for _ in range(warmup_rounds + rounds):
            given, named = setup()
            target(*given, **named)


def test_ways_take_turns_so_that_a_machine_that_slows_down_changes_no_ratio():
    benchmark, calls, slowness = FakeBenchmark(), [], itertools.count(1)

    def way(name, share):
        def call(given):
            if name == "plain":  # a round begins, on a slower machine
                benchmark.slow = next(slowness)
            calls.append(name)
            benchmark.now += share * benchmark.slow
            return given

        return call

    def prepare(name):
        benchmark.now += 100  # isn't timed
        return (name.upper(),)

    found = in_turns(benchmark, {"ours": way("ours", 2), "plain": way("plain", 8)}, rounds=3, prepare=prepare)
    assert calls == ["plain", "ours"] * 4 and found == {"ours": "OURS", "plain": "PLAIN"}
    assert benchmark.extra_info == {
        "seconds": {"ours": 6, "plain": 24},  # without the round to warm up
        "compared": [{"of": "ours", "over": "plain", "ratio": 0.25, "quartiles": [0.25, 0.25], "rounds": 3}],
    }


def test_ratios_of_chosen_pairs_are_of_seconds_for_the_same_amount():
    benchmark = FakeBenchmark()

    def taking(seconds):
        def call():
            benchmark.now += seconds

        return call

    ways = {"a": taking(2), "b": taking(4), "c": taking(3)}
    in_turns(benchmark, ways, [("b", "a"), ("c", "a")], rounds=2, amounts={"a": 1, "b": 4, "c": 1})
    ratios = [(pair["of"], pair["ratio"], pair["quartiles"]) for pair in benchmark.extra_info["compared"]]
    assert ratios == [("b", 0.5, [None, None]), ("c", 1.5, [None, None])]


def test_the_table_has_a_row_for_each_pair_and_the_conditions_no_name_of_a_machine():
    run = RESULT
    assert plain_table(rows(run["results"])).splitlines() == [
        "benchmark                 compared      ratio  spread         rounds  seconds          besides",
        "test_x.py::test_two[a|b]  ours / plain  0.271  0.26 to 0.291  3       0.0123 / 0.0454  MB 1,234",
        "test_x.py::test_one       alone         –      –              1       1,235",
    ]
    assert markdown_table(rows(run["results"])).splitlines()[2:] == [
        "| `test_two[a\\|b]` | ours / plain | 0.271 | 0.26 to 0.291 | 3 | 0.0123 / 0.0454 | MB 1,234 |",
        "| `test_one` | alone | – | – | 1 | 1,235 |  |",
    ]
    assert conditions(run) == (
        "Fast CPU, 2 cores, 1 thread, Linux; 2026-11-30, commit 0123456; python 3.11.2, torch 2.14.1."
    )
    assert "somebody" not in json.dumps(run) and "data" not in json.dumps(run)


def test_a_page_has_a_block_for_each_file_with_its_command_its_table_and_its_conditions():
    page = "<!-- measured: test_x.py -->\nold\n<!-- end -->\n\nText.\n"
    new = make_benchmarks.written(page, [RESULT])
    table = markdown_table(rows(RESULT["results"]))
    assert new == (
        "<!-- measured: test_x.py -->\n\n`pytest tests/benchmarks/test_x.py --benchmark-enable -n 0`\n\n"
        f"{table}\n\n{conditions(RESULT)}\n\n<!-- end -->\n\nText.\n"
    )
    assert make_benchmarks.written(new, [RESULT]) == new
    assert "test_x.py --benchmark-enable -n 0` measures; nothing is kept." in make_benchmarks.written(
        page, []
    )
    with pytest.raises(SystemExit, match="test_x.py"):
        make_benchmarks.written("Text.\n", [RESULT])


def test_results_of_a_file_replace_its_older_ones_and_leave_those_of_other_files():
    def run(commit, *names):
        results = [{**RESULT["results"][1], "name": f"tests/benchmarks/{name}"} for name in names]
        return {**RESULT, "commit": commit, "results": results}

    def told(runs):
        return [(run["commit"], *(result["name"][17:] for result in run["results"])) for run in runs]

    old, new = run("old", "test_b.py::b1", "test_b.py::b2", "test_a.py::a"), run("new", "test_b.py::b1")
    assert told(make_benchmarks.joined([old, new])) == [("old", "test_a.py::a"), ("new", "test_b.py::b1")]
    assert told(make_benchmarks.joined([old, old])) == [
        ("old", "test_a.py::a", "test_b.py::b1", "test_b.py::b2")
    ]
    assert told(make_benchmarks.joined([old, run("new", "test_b.py::b", "test_a.py::a")])) == [
        ("new", "test_a.py::a", "test_b.py::b")
    ]
    runs = make_benchmarks.joined([old, new])
    assert json.loads(make_benchmarks.as_text(runs)) == runs


def test_the_page_is_made_of_the_committed_results():
    assert make_benchmarks.written(PAGE, RUNS) == PAGE, f"run `{make_benchmarks.COMMAND}`"
    assert make_benchmarks.as_text(RUNS) == text_of("docs/benchmarks.json")


def test_every_result_is_of_a_benchmark_that_exists():
    for result in itertools.chain.from_iterable(run["results"] for run in RUNS):
        file, _, name = result["name"].partition("::")
        assert re.search(rf"^def {name.partition('[')[0]}\(", text_of(file), re.MULTILINE), result["name"]


def test_every_figure_stands_beside_a_command_that_exists():
    text = re.sub(r"(?ms)^```.*?^```", "", PAGE)
    generated = re.compile(r"<!-- measured: [\w.]+ -->\n.*?<!-- end -->", re.DOTALL)
    assert len(generated.findall(text)) > 10
    by_hand = re.sub(r"(?<=\S)\n(?=[^\n|<#])", " ", generated.sub("", text))  # a paragraph is a line
    for line in by_hand.splitlines():
        figures = re.findall(r"\d", re.sub(r"`[^`]*`", "", line))
        assert not figures or re.search("`(?:bench|pytest) ", line), line
    for command in re.findall(r"`((?:bench|pytest) [^`]*)`", PAGE):
        words = shlex.split(command)
        if words[0] == "bench":
            assert fault_of(words) is None, command
            continue
        for word in words[1:]:
            assert not word.startswith("tests/") or (ROOT / word.partition("::")[0]).exists(), command
