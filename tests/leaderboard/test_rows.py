"""Records become rows: which numbers share a column."""

from helpers.fabricated_records import records

from latentbench.bench.leaderboard.rows import rows_of


def columns(found, real):
    return {column.name for row in rows_of(found) if row.real is real for column in row.values}


def test_held_out_images_stand_in_the_column_of_samples_that_are_as_many():
    found = records(guidances=(1.0,))
    held_out = next(record for record in found if record.real)
    assert columns(found, real=True) == {"gFD@360[net]"}  # samples are 1,437
    sampled = next(record for record in found if "gFD[net]@1" in record.metrics)
    entry = sampled.metrics["gFD[net]@1"]
    held_out.metrics["gFD@360[net]"] |= {"protocol": entry["protocol"], "n": entry["n"]}
    assert columns(found, real=True) == {"gFD[net]"} <= columns(found, real=False)
