"""Digests of records: an edit is found, and neither a rewrite nor a merge changes them."""

import json
from dataclasses import replace

import pytest
from helpers import fabricated_records

from latentbench.bench.records.digest import KEY, content_digest, with_digest
from latentbench.bench.records.files import RecordError, read_record, rewrite_record, write_record
from latentbench.bench.records.record import Record
from latentbench.bench.tools.compact import compact

MADE = fabricated_records.records(("kl",), ("mar",), ("0",))


def test_an_edited_value_is_refused_in_either_form_of_the_file(tmp_path):
    record = with_digest(MADE[1])
    path = write_record(tmp_path, record)
    assert read_record(path) == record
    for text in (path.read_text(), record.to_json()):
        path.write_text(text)
        assert read_record(path) == record
        value = f'"value": {record.metrics["PSNR"]["value"]!r}'
        assert text.count(value) == 1
        path.write_text(text.replace(value, f'"value": {record.metrics["PSNR"]["value"] + 1e-9!r}'))
        with pytest.raises(RecordError, match=r"it was changed after it was written: its digest is \w{12}"):
            read_record(path)


@pytest.mark.parametrize("field", ["cell", "key", "status", "curves", "cost", "provenance", "missing"])
def test_every_field_counts(field):
    record = with_digest(MADE[1])
    changes = {
        "cell": record.cell | {"seed": "7"},
        "key": "0" * 64,
        "status": "failed",
        "curves": {},
        "cost": record.cost | {"tokenizer_seconds": 1.0},
        "provenance": record.provenance | {"git_dirty": True},
        "missing": {"cost": {"reason": "x", "failed": True, "scope": "tokenizer"}},
    }
    assert content_digest(replace(record, **{field: changes[field]})) != record.provenance[KEY]


def test_the_order_of_keys_does_not_count():
    record = with_digest(MADE[1])
    shuffled = json.loads(record.to_json())
    shuffled = dict(reversed(shuffled.items())) | {"cost": dict(reversed(record.cost.items()))}
    assert content_digest(Record.from_fields(shuffled)) == record.provenance[KEY]


def test_a_rewrite_keeps_the_digest_and_gives_none_to_older_records(tmp_path):
    old, new = MADE[0], with_digest(MADE[1])
    folder = tmp_path / "records"
    for record in (old, new):
        write_record(folder, record)
        (folder / record.filename).write_text(record.to_json())  # the longer form
    compact(tmp_path)
    assert read_record(folder / new.filename).provenance[KEY] == new.provenance[KEY]
    assert KEY not in read_record(folder / old.filename).provenance
    before = (folder / old.filename).read_bytes()
    rewrite_record(folder / old.filename, read_record(folder / old.filename))
    assert (folder / old.filename).read_bytes() == before
