"""What a report says of the code, the machine and the days that its records are from."""

from latentbench.bench.leaderboard.details import provenance
from latentbench.bench.records.record import Record


def record(seed, **facts):
    cell = {"dataset": "d", "tokenizer": "vit", "regularizer": "kl", "generator": "mar", "seed": seed}
    return Record(cell, "k", "done", provenance=facts)


def test_versions_of_parts_are_one_list_whatever_parts_each_cell_has():
    one = record("0", parts={"tokenizer.vit": 1, "regularizer.kl": 2})
    other = record("10", parts={"tokenizer.vit": 1, "generator.mar": 1, "regularizer.kl": 3})
    found = provenance([one, other, record("2")])
    assert found["parts"] == ["generator.mar 1, regularizer.kl 2 or 3, tokenizer.vit 1"]
    assert found["seeds"] == ["0, 2, 10"]


def test_dates_are_a_range_and_other_fields_have_each_value_once():
    found = provenance([record(str(i), date=f"2026-11-0{i + 1}", device="cpu") for i in (2, 0, 1)])
    assert found["date"] == ["2026-11-01 to 2026-11-03"] and found["device"] == ["cpu"]
