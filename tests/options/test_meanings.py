"""Docstrings say what each option means."""

import pytest

from latentbench.bench import registry
from latentbench.bench.data.augment import Augmentation
from latentbench.bench.matrix import keys, parts
from latentbench.bench.matrix.matrix import Skip
from latentbench.bench.matrix.settings import Budget, Optimizer, Probes, Settings
from latentbench.bench.options.meanings import meanings_of, prose_of, split_docstring
from latentbench.bench.options.options import options_of
from latentbench.bench.training.losses import LOSSES

SECTIONS = [Budget, Probes, Settings, Optimizer, Skip, Augmentation, *LOSSES.values()]


@pytest.mark.parametrize("kind", registry.FOLDERS)
def test_every_option_of_every_part_has_a_meaning_and_no_meaning_is_of_an_option_that_is_gone(kind):
    for name in registry.names(kind):
        cls = registry.get(kind, name)
        for method in ("", "sample") if kind == "generators" else ("",):
            unexplained = set(options_of(cls, method)) - set(meanings_of(cls, method))
            assert not unexplained, f"{name}: add {unexplained} to the Args of its docstring"
        own = split_docstring(getattr(vars(cls).get("__init__"), "__doc__", None) or "")[1]
        assert set(own) <= set(options_of(cls)), name


@pytest.mark.parametrize("target", SECTIONS, ids=lambda target: target.__name__)
def test_every_setting_of_a_matrix_has_a_meaning(target):
    assert set(meanings_of(target)) == set(options_of(target))


def test_every_key_of_a_matrix_and_of_its_rows_has_a_meaning():
    settings = set(options_of(Settings))
    assert set(keys.KEYS) == set(keys.SECTION_KEYS) | settings
    assert not set(keys.SECTION_KEYS) & settings
    rows = {name for names in (*parts.FRAME.values(), *parts.OWN.values()) for name in names}
    assert rows <= set(keys.ROW_KEYS)
    required = {name for name, key in keys.SECTION_KEYS.items() if key.default == "required"}
    assert required == set(parts.EXAMPLES) - {"reference"}


class Base:
    """A base.

    Args:
        shared: of the base.
    """

    def __init__(self, first: int, last: int) -> None:
        """Text before.

        Args:
            first, last: bounds: both
                included.

            shared: of the constructor.

        Raises:
            ValueError: never.
        """


class Derived(Base):
    """A derived class."""

    def __init__(self, first: int) -> None:
        """
        Args:
            first: another bound.
        """


def test_a_meaning_is_of_the_nearest_docstring_over_lines_and_for_several_names():
    both = "bounds: both included."
    assert meanings_of(Base) == {"first": both, "last": both, "shared": "of the constructor."}
    assert meanings_of(Derived) == meanings_of(Base) | {"first": "another bound."}
    assert meanings_of(len) == {} and meanings_of(Base, "missing") == {}


def test_prose_has_no_arguments_but_all_that_follows_them():
    assert prose_of(Base) == "A base.\n\nText before.\n\nRaises:\n    ValueError: never."
    assert prose_of(Derived) == "A derived class."
    assert split_docstring("") == ("", {})
