"""Tables of vectors divided into splits, and the files of packages that they come from."""

import torch

from latentbench.bench.data.packages import package_file
from latentbench.bench.data.vectors import split_rows


def test_a_fifth_of_the_rows_are_held_out_in_an_order_that_the_name_fixes():
    table = torch.arange(42.0)[:, None]
    train, val = split_rows(table, "train", "a"), split_rows(table, "val", "a")
    assert len(val) == 8 and torch.equal(torch.cat([val, train]).sort(0).values, table)
    assert torch.equal(val, split_rows(table, "val", "a"))
    assert not torch.equal(val, split_rows(table, "val", "b"))


def test_a_package_s_file_is_found_without_importing_the_package():
    assert package_file("sklearn", "datasets/data/digits.csv.gz").stat().st_size > 10_000
    assert package_file("sklearn", "no such file") is None
    assert package_file("no_such_package", "file") is None
