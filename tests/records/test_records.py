"""Records: what is written is what is read, whole, and equal between equal runs."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from latentbench.bench.records.files import RecordError, read_records, write_record
from latentbench.bench.records.labels import natural
from latentbench.bench.records.record import Record, comparable, in_order, protocol_id

CELL = {"dataset": "digits", "tokenizer": "vit", "regularizer": "kl", "generator": "mar", "seed": "0"}


def metric(value, **more):
    return {"value": value, "n": 360, "protocol": {"reference": "val"}, "scope": "tokenizer", **more}


def record(status="done", **more):
    cell = {**CELL, **{name: more.pop(name) for name in CELL if name in more}}
    return Record(cell, "ab" * 32, status, **more)


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    third = record(
        metrics={"PSNR": metric(1 / 3, unit="dB", about="Größe ± |x|"), "SSIM": metric(0.9)},
        curves={"tokenizer": {"step": [0, 1], "l1": [0.1, 0.2]}},
        cost={"train_seconds": 1.5},
        provenance={"torch": "2.14", "seeds": {"tokenizer": 1}},
    )
    path = write_record(tmp_path, third)
    assert path.parent == tmp_path
    assert read_records(tmp_path) == [third]
    assert read_records(tmp_path)[0].metrics["PSNR"]["value"] == 1 / 3
    assert read_records(tmp_path / "elsewhere") == []


def test_a_record_is_strict_json_with_one_line_per_metric_and_curve():
    text = record(
        metrics={"b": metric(2.0), "a": metric(1.0)},
        curves={"tokenizer": {"step": [0, 1], "l1": [1.0, math.nan]}},
        cost={"seconds": math.inf},
    ).to_json()
    lines = text.splitlines()
    assert [line.split('"')[1] for line in lines if '"value"' in line] == ["a", "b"]
    assert '   "l1": [1.0,null]' in lines
    assert '  "seconds": null' in lines
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize(("value", "note"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_a_value_that_is_not_finite_is_null_with_a_note(tmp_path, value, note):
    broken = record(metrics={"gFD": metric(value)})
    write_record(tmp_path, broken)
    assert read_records(tmp_path)[0].metrics["gFD"] == {**metric(None), "note": note}
    assert comparable(read_records(tmp_path)[0]) == comparable(record(metrics={"gFD": metric(value)}))


def test_numbers_of_numpy_become_plain_ones():
    mixed = record(metrics={"x": metric(np.float32(0.5), n=np.int64(3))}, cost={"s": np.float64(2)})
    assert Record.from_json(mixed.to_json()) == mixed
    assert mixed.metrics["x"]["value"] == 0.5 and type(mixed.metrics["x"]["n"]) is int


def test_only_cost_and_provenance_may_differ_between_two_runs():
    first = record(metrics={"x": metric(0.1)}, cost={"s": 1.0}, provenance={"date": "today"})
    second = record(metrics={"x": metric(0.1)}, cost={"s": 2.0}, provenance={"date": "tomorrow"})
    other = record(metrics={"x": metric(math.nextafter(0.1, 1))})
    assert first != second and comparable(first) == comparable(second)
    assert comparable(first) != comparable(other)


def test_file_names_are_safe_readable_and_unique(tmp_path):
    assert record().filename == "digits--vit--kl--mar--0.json"
    labels = [
        "kl[weight=0.01]",
        "kl(weight=0.01)",
        "kl-weight=0.01",
        "KL",
        "kl",
        "a/../b",
        "a--b",
        "ä" * 300,
        "",
        "-",
    ]
    names = [record(regularizer=label).filename for label in labels]
    assert names[0].startswith("digits--vit--kl-weight=0.01--mar--0-")
    assert len({name.lower() for name in names}) == len(labels)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._=-") for name in names)
    assert max(map(len, names)) < 200
    swapped = [record(tokenizer="a", regularizer="b--c"), record(tokenizer="a--b", regularizer="c")]
    assert swapped[0].filename != swapped[1].filename
    for label in labels:
        write_record(tmp_path, record(regularizer=label))
    assert {r.cell["regularizer"] for r in read_records(tmp_path)} == set(labels)


def test_writing_again_replaces_the_file_and_leaves_no_other(tmp_path):
    write_record(tmp_path, record("failed", reason="boom"))
    write_record(tmp_path, record())
    assert [path.name for path in (tmp_path).iterdir()] == [record().filename]
    assert read_records(tmp_path)[0].status == "done"


def test_a_write_that_fails_leaves_the_old_record(tmp_path):
    write_record(tmp_path, record())
    with pytest.raises(TypeError):
        write_record(tmp_path, record(provenance={"oops": object()}))
    assert read_records(tmp_path) == [record()]


@pytest.mark.parametrize("better", ["higher", "lower", None])
def test_the_known_directions_of_a_metric_are_kept(tmp_path, better):
    write_record(tmp_path, record(metrics={"x": metric(1.0, better=better)}))
    assert read_records(tmp_path)[0].metrics["x"]["better"] == better


GOOD = json.loads(record(metrics={"x": metric(1.0)}).to_json())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "Expecting"),
        ("[1]", "list"),
        (b"\xff\xfe", "utf-8"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "key"}), "missing 'key'"),
        (json.dumps({**GOOD, "extra": 1}), "unknown 'extra'"),
        (json.dumps({**GOOD, "status": "fine"}), "done, failed, skipped"),
        (json.dumps({**GOOD, "cell": {"dataset": "digits"}}), "cell must have"),
        (json.dumps({**GOOD, "cell": {**CELL, "seed": 0}}), "cell.seed must be text"),
        (json.dumps({**GOOD, "metrics": {"x": 3.0}}), "'x' has no value"),
        (json.dumps({**GOOD, "metrics": {"x": metric("3")}}), "wrong type"),
        (json.dumps({**GOOD, "metrics": {"x": metric(3, scope="cell")}}), "scope 'cell'"),
        (
            json.dumps({**GOOD, "metrics": {"x": metric(3, better="low")}}),
            "better 'low'; known: higher, lower",
        ),
        (json.dumps({**GOOD, "metrics": [1]}), "metrics must be an object"),
    ],
)
def test_a_broken_record_is_named_with_what_is_wrong(tmp_path, text, says):
    write_record(tmp_path, record())
    broken = tmp_path / "broken.json"
    broken.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecordError, match=says) as error:
        read_records(tmp_path)
    assert str(broken) in str(error.value)


def test_records_come_in_the_order_of_their_numbers():
    labels = ["kl[weight=1.0e-4]", "kl[weight=0.5]", "kl[weight=0.01]", "kl", "simflow"]
    mixed = [record(regularizer=label, seed=seed) for label in labels for seed in ("10", "9")]
    real = record(tokenizer="real", regularizer="real", generator="real")
    ordered = in_order([real, *mixed])
    assert [r.cell["seed"] for r in ordered[:2]] == ["9", "10"]
    assert [r.cell["regularizer"] for r in ordered[2:10:2]] == [labels[0], labels[2], labels[1], labels[4]]
    assert ordered[-1] is real and real.real and not mixed[0].real
    assert natural("a1e999") > natural("a2")


def test_a_protocol_id_depends_on_content_alone():
    one = protocol_id({"n": 360, "resize": (64, 64), "weights": {"sha256": "ab", "name": "x"}})
    same = protocol_id({"weights": {"name": "x", "sha256": "ab"}, "resize": [64, 64], "n": 360})
    assert one == same and len(one) == 6 and int(one, 16) >= 0
    assert one != protocol_id({"n": 361, "resize": [64, 64], "weights": {"sha256": "ab", "name": "x"}})
    assert protocol_id({}) == "44136f"  # sha256 of "{}"


def test_records_and_leaderboard_import_neither_torch_nor_pandas():
    heavy = "{'torch', 'pandas', 'tabulate'}"
    code = f"import sys, latentbench.bench.report.write; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
