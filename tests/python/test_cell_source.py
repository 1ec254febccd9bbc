"""The source of a class that a cell defines: all that it uses, in an order that runs, or an error."""

import linecache
import textwrap
from itertools import count

import pytest

from latentbench.bench.python.cell_parts import write_parts
from latentbench.bench.python.cell_source import CellError, module_of

HEAD = """
import math
import torch
import torch.nn.functional as F
from math import sqrt
from torch import Tensor, randn
import latentbench.bench as lb
from latentbench.bench.api import Regularizer, Step
"""
numbers = count()


class Notebook:
    """Cells that are run one after the other, each with a file name that `linecache` knows."""

    def __init__(self, *cells):
        self.names = {"__name__": "cells_of_a_test"}
        self.cell(HEAD)
        for cell in cells:
            self.cell(cell)

    def cell(self, text):
        text, name = textwrap.dedent(text), f"<cell {next(numbers)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        exec(compile(text, name, "exec"), self.names)

    def source(self, name="Shell"):
        return module_of(self.names[name])


@pytest.fixture(autouse=True)
def module_of_cells(monkeypatch):
    import sys
    from types import ModuleType

    monkeypatch.setitem(sys.modules, "cells_of_a_test", ModuleType("cells_of_a_test"))


def shell(body, above=""):
    text = f"{above}\n" if above else ""
    return f"{text}@lb.register('shell')\nclass Shell(Regularizer):\n" + textwrap.indent(
        textwrap.dedent(body).strip(), "    "
    )


def test_the_class_stands_alone_with_its_imports_and_constants_from_other_cells():
    book = Notebook("SCALE, TABLE = 0.5, {'a': (1, float('inf')), 'b': {2}}", shell(LOSS))
    source = book.source()
    assert "SCALE = 0.5" in source and "TABLE = {'a': (1, float(\"inf\"),), 'b': {2}}" in source
    assert "import torch.nn.functional as F" in source and "from math import sqrt" in source
    assert "from torch import randn" in source
    assert "import math\n" not in source  # which it doesn't use
    assert_same_loss(book, source)


LOSS = """
def loss(self, z, h, step: Step) -> dict[str, Tensor]:
    table = TABLE["a"][0] + len(TABLE["b"])
    return {"x": SCALE * F.relu(z).mean() * sqrt(4) * table + 0 * randn(()).to(z)}
"""


def assert_same_loss(book, source):
    """Running the source anew gives a class with the same loss."""
    import torch

    from latentbench.bench import registry

    names = {"__name__": "elsewhere"}
    with registry.plugins_of_this_block():
        exec(compile(source, "<elsewhere>", "exec"), names)
        registry._classes.pop(("regularizers", "shell"))
    z = torch.linspace(-1, 1, 12).reshape(2, 3, 2)
    losses = [cls.loss(None, z, z, None) for cls in (book.names["Shell"], names["Shell"])]
    assert losses[0]["x"].item() == losses[1]["x"].item()


def test_functions_and_bases_of_other_cells_come_before_what_uses_them():
    book = Notebook(
        "FACTOR = 3.0",
        "def norm(z):\n    return double(z).square().mean()\n",
        "def double(z):\n    return FACTOR * z\n",
        "class Base(Regularizer):\n    def measured(self, z):\n        return norm(z)\n",
        "@lb.register('shell')\nclass Shell(Base):\n    def loss(self, z, h, step):\n"
        "        return {'x': Base.measured(None, z)}\n",
    )
    source = book.source()
    order = [
        source.index(text) for text in ("FACTOR = 3.0", "def double", "def norm", "class Base", "class Shell")
    ]
    assert order == sorted(order)
    assert_same_loss(book, source)


def test_functions_that_call_each_other_are_written_once():
    book = Notebook(
        "def odd(n):\n    return n > 0 and even(n - 1)\ndef even(n):\n    return n == 0 or odd(n - 1)\n",
        shell("def loss(self, z, h, step):\n    return {'x': z.sum() * odd(3)}"),
    )
    source = book.source()
    assert source.count("def odd") == source.count("def even") == 1
    assert_same_loss(book, source)


@pytest.mark.parametrize(
    "change",
    ["SCALE = 0.25", "def norm(z):\n    return z.abs()", "from math import cos as sqrt"],
)
def test_a_change_of_what_the_class_uses_changes_its_source(change):
    body = "def loss(self, z, h, step):\n    return {'x': SCALE * norm(z).mean() * sqrt(2)}"
    book = Notebook("SCALE = 0.5\ndef norm(z):\n    return z.square()", shell(body))
    before = book.source()
    book.cell("UNUSED = 3")
    assert book.source() == before
    book.cell(change)
    assert book.source() != before


def test_a_cell_that_runs_again_counts_as_it_is_now():
    book = Notebook(shell("def loss(self, z, h, step):\n    return {'x': z.sum()}"))
    before = book.source()
    book.cell("@lb.register('shell')\nclass Shell(Regularizer):\n    def loss(self, z, h, step): return {}")
    assert book.source() != before and "return {}" in book.source()


def test_an_alias_of_the_same_cell_is_taken_as_it_is_written():
    above = "from typing import Annotated\nfrom annotated_types import Ge\nPositive = Annotated[float, Ge(0)]"
    body = "def __init__(self, spec, weight: Positive = 1.0) -> None:\n    super().__init__(spec)"
    source = Notebook(shell(body, above)).source()
    assert "Positive = Annotated[float, Ge(0)]" in source and "from annotated_types import Ge" in source


LOSS_OF_NOTHING = "def loss(self, z, h, step):\n    return {}"
IN_A_FUNCTION = "def make():\n" + textwrap.indent(shell(LOSS_OF_NOTHING), "    ") + "\n    return Shell"
CLOSURE = "def f():\n    k = 2\n    def g(z):\n        return k * z\n    return g\ng = f()"


@pytest.mark.parametrize(
    "cells, said",
    [
        (
            ["t = torch.ones(3)", shell("def loss(self, z, h, step):\n    return t")],
            "'t', which is made elsewhe",
        ),
        ([shell("def loss(self, z, h, step):\n    return nowhere")], "'nowhere', which is not defined"),
        (
            [CLOSURE, shell("def loss(self, z, h, step):\n    return g(z)")],
            "the source of g cannot be found",
        ),
        ([shell("couples = 'loss'")], "it has no method, which would say its cell"),
        (
            [shell(LOSS_OF_NOTHING), "Shell.loss = lambda *_: {}"],
            "its code is in no definition of that name",
        ),
        ([shell(LOSS_OF_NOTHING), "Shell.latent = lambda *_: {}"], "was set outside of the class"),
        ([shell(LOSS_OF_NOTHING), "Shell.extra = 1"], "Shell.extra was set outside"),
        ([shell("version = 1\n" + LOSS_OF_NOTHING), "Shell.version = 2"], "Shell.version was set outside"),
        ([IN_A_FUNCTION, "Shell = make()"], "is defined in a function: define it at the top of a cell"),
    ],
)
def test_what_no_file_could_say_is_refused(cells, said):
    with pytest.raises(CellError, match=said):
        Notebook(*cells).source()


def test_a_module_of_ones_own_is_refused_as_its_text_is_in_no_key(tmp_path, monkeypatch):
    (tmp_path / "my_helper_of_a_test.py").write_text("def f(z):\n    return z\n")
    monkeypatch.syspath_prepend(tmp_path)
    book = Notebook(
        "import my_helper_of_a_test", shell("def loss(self, z):\n    return my_helper_of_a_test.f(z)")
    )
    with pytest.raises(
        CellError, match="is your own file .*my_helper_of_a_test.py; save the class as a file"
    ):
        book.source()


def test_a_function_of_a_module_of_ones_own_comes_along_with_what_it_uses(tmp_path, monkeypatch):
    (tmp_path / "my_functions_of_a_test.py").write_text("K = 4.0\ndef f(z):\n    return K * z\n")
    monkeypatch.syspath_prepend(tmp_path)
    book = Notebook(
        "from my_functions_of_a_test import f",
        shell("def loss(self, z, h, step):\n    return {'x': f(z).mean()}"),
    )
    source = book.source()
    assert "K = 4.0" in source and "my_functions_of_a_test" not in source
    assert_same_loss(book, source)


def test_a_file_is_written_once_for_a_text_and_again_if_it_was_changed(tmp_path):
    book = Notebook(shell("def loss(self, z, h, step):\n    return {}"))
    (file,) = write_parts([book.names["Shell"]], tmp_path)
    assert file.name == "Shell.py" and file.read_text() == book.source()
    state = file.stat().st_mtime_ns
    assert write_parts([book.names["Shell"]], tmp_path) == [file] and file.stat().st_mtime_ns == state
    file.write_text("broken")
    write_parts([book.names["Shell"]], tmp_path)
    assert file.read_text() == book.source()


def test_parts_are_classes_with_a_name(tmp_path):
    book = Notebook("class Shell(Regularizer):\n    def loss(self, z, h, step):\n        return {}")
    with pytest.raises(CellError, match="has no name for a matrix: write @lb.register"):
        write_parts([book.names["Shell"]], tmp_path)
    with pytest.raises(CellError, match="parts are classes, not 'shell'"):
        write_parts(["shell"], tmp_path)
