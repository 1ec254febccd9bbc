"""`import latentbench.bench as lb`: cheap to import, complete to look at."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import latentbench.bench as lb

BENCH = Path(lb.__path__[0])


def test_importing_the_package_imports_neither_torch_nor_pandas_and_listing_parts_not_torch():
    code = (
        "import sys, latentbench.bench as lb; assert not {'torch', 'pandas'} & sys.modules.keys(); "
        "assert 'kl' in lb.list_parts('regularizers', 'k*'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_results_needs_no_torch(tmp_path):
    digits = Path(__file__).resolve().parents[2] / "results" / "studies" / "digits"
    code = (
        "import sys, latentbench.bench as lb; r = lb.load(sys.argv[1]); r.frame(); repr(r); r._repr_html_(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(digits)], check=True)


def test_every_public_name_is_there_is_listed_and_has_a_docstring():
    for name in lb._MODULES:
        assert name in dir(lb) and getattr(lb, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        lb.rnu  # noqa: B018


def test_no_public_name_hides_a_room_which_is_an_attribute_too_once_it_is_imported():
    rooms = {entry.name.removesuffix(".py") for entry in BENCH.iterdir()}
    assert not rooms & set(lb._MODULES)


def test_type_checkers_see_the_same_names():
    tree = ast.parse((BENCH / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == lb._MODULES


def test_parts_are_made_by_name_with_their_options_checked():
    from latentbench.bench.api import LatentSpec

    spec = LatentSpec(4, 2, (2, 2))
    assert lb.create("regularizers", "kl", spec=spec, weight=0.5).weight == 0.5
    for options, said in (
        ({"spec": spec, "wieght": 1.0}, "did you mean 'weight'"),
        ({"spec": spec, "weight": -1.0}, "weight must be a number >= 0, not -1"),
        ({}, "spec=… is missing"),
    ):
        with pytest.raises(lb.UserError, match=said):
            lb.create("regularizers", "kl", **options)
    with pytest.raises(lb.UserError, match="unknown regularizer 'kll'; did you mean 'kl'"):
        lb.create("regularizers", "kll")
    with pytest.raises(lb.UserError, match="unknown kind of part 'regularizer'"):
        lb.list_parts("regularizer")


def test_parts_of_every_kind_can_be_listed():
    from latentbench.bench import registry

    for kind in registry.FOLDERS:
        assert lb.list_parts(kind) == registry.names(kind)
    assert lb.list_parts("regularizers", "zzz*") == []
