"""Parts by name: found without import, errors that help, and failures that stay with their part."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.plugins import PLUGIN, package

from latentbench.bench import registry
from latentbench.bench.api import KINDS, Regularizer
from latentbench.bench.registry import PartError, create, get, load_plugin, names, register, sources


def plugin(folder, name, *after):
    path = folder / f"{name}_file.py"
    path.write_text(PLUGIN.format(name=name) + "\n".join(["", *after]))
    return path


def test_names_are_read_without_importing_parts_or_torch():
    code = (
        "import sys; from latentbench.bench.registry import FOLDERS, names\n"
        "print(*names('tokenizers'), *names('regularizers'))\n"
        "[names(kind) for kind in FOLDERS]\n"
        "print(*(m for m in sys.modules if m == 'torch' or m.startswith(tuple(FOLDERS.values()))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, imported = done.stdout.split("\n")[:2]
    assert {"vit", "conv", "none", "kl", "fixed_variance", "repa"} <= set(listed.split())
    assert imported == ""


@pytest.mark.parametrize("kind", registry.FOLDERS)
def test_every_file_in_a_part_folder_is_a_usable_part(kind):
    problems = {name: source.problem for name, source in sources(kind).items() if source.problem}
    assert not problems
    for name in names(kind):
        assert issubclass(get(kind, name), KINDS[kind])
        assert sources(kind)[name].about.endswith("."), f"{name} lacks a sentence about itself"


def test_an_unknown_name_suggests_the_near_one():
    with pytest.raises(
        PartError, match=r"unknown regularizer 'fixed_varianse'; did you mean 'fixed_variance'\?"
    ):
        get("regularizers", "fixed_varianse")
    known = ", ".join(names("tokenizers"))
    with pytest.raises(PartError, match=rf"unknown tokenizer 'zzz'; known: {known}.*bench list tokenizers"):
        create("tokenizers", "zzz")
    with pytest.raises(PartError, match="unknown kind of part 'regularizer'; did you mean 'regularizers'"):
        names("regularizer")


def test_a_taken_name_is_an_error_that_names_both_files(tmp_path):
    mine = plugin(tmp_path, "kl")
    with pytest.raises(PartError) as error:
        load_plugin(mine)
        names("regularizers")
    assert str(mine) in str(error.value) and str(Path("regularizers") / "kl.py") in str(error.value)


def test_two_plugins_with_one_name_are_an_error_that_names_both_files(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    load_plugin(plugin(one, "shrink"))
    with pytest.raises(PartError, match="defined twice") as error:
        load_plugin(plugin(two, "shrink"))
    assert str(one) in str(error.value) and str(two) in str(error.value)


LOADED = """
import sys
from latentbench.bench.registry import get, load_plugin
load_plugin(sys.argv[1])
print(get("regularizers", "shrink").version)
"""


def test_the_code_of_a_plugin_is_that_of_its_source_even_if_size_and_time_are_those_of_before(tmp_path):
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    found = []
    for version in (2, 3):
        file = plugin(tmp_path, "shrink", f"    version = {version}")
        os.utime(file, (1, 1))
        command = [sys.executable, "-c", LOADED, str(file)]
        found += subprocess.check_output(command, text=True, env=environment).split()
    assert found == ["2", "3"]
    assert [file.name for file in tmp_path.iterdir()] == ["shrink_file.py"]


def test_a_plugin_file_makes_its_part_available_and_loads_twice(tmp_path):
    file = plugin(tmp_path, "shrink")
    for _ in range(2):
        (source,) = load_plugin(file)
        assert (source.kind, source.name, source.file) == ("regularizers", "shrink", file)
        assert source.about == "Does shrink."
    assert "shrink" in names("regularizers")
    assert get("regularizers", "shrink").__name__ == "Mine"


def test_a_plugin_that_raises_is_listed_with_its_cause_and_hides_only_itself(tmp_path):
    good = load_plugin(plugin(tmp_path, "good"))
    file = plugin(tmp_path, "bad", "raise RuntimeError('no luck')")
    (source,) = load_plugin(file)
    assert source.name == "bad" and source.problem == f"{file}:10: RuntimeError: no luck"
    assert sources("regularizers")["bad"].problem == source.problem
    assert {"good", "kl"} <= set(names("regularizers")) and "bad" not in names("regularizers")
    assert good[0].problem is None
    with pytest.raises(PartError, match="'bad' cannot be used: .*no luck"):
        get("regularizers", "bad")


def test_a_plugin_with_a_syntax_error_is_listed_with_its_line(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("x = 1\ndef f(:\n")
    (source,) = load_plugin(file)
    assert f"{file}:2: SyntaxError" in source.problem
    assert "kl" in names("regularizers")


def test_a_plugin_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PartError, match="no plugin file .*absent.py"):
        load_plugin(tmp_path / "absent.py")


def test_registering_a_class_of_no_kind_is_an_error():
    with pytest.raises(PartError, match="Thing is registered as 'thing' but extends none of Regularizer"):
        register("thing")(type("Thing", (), {}))


def test_registering_a_class_again_from_the_same_file_is_allowed():
    for _ in range(2):
        register("again")(type("Again", (Regularizer,), {"__module__": __name__}))


def test_an_installed_package_offers_parts_and_is_imported_when_asked_for(tmp_path, monkeypatch):
    package(tmp_path, "shrinkage", PLUGIN.format(name="shrink"), "shrink = shrinkage")
    monkeypatch.syspath_prepend(tmp_path)
    assert "shrink" in names("regularizers") and "shrink" not in names("tokenizers")
    assert "shrinkage" not in sys.modules
    assert get("regularizers", "shrink").__module__ == "shrinkage"
    monkeypatch.delitem(sys.modules, "shrinkage")


def test_an_installed_package_that_raises_hides_only_itself(tmp_path, monkeypatch):
    package(tmp_path, "sad", PLUGIN.format(name="sad") + "\n1 / 0\n", "sad = sad")
    monkeypatch.syspath_prepend(tmp_path)
    assert "kl" in names("regularizers")
    with pytest.raises(PartError, match=r"'sad' cannot be used: .*sad\.py:10: ZeroDivisionError"):
        get("regularizers", "sad")
    assert get("regularizers", "kl").__name__ == "KL"


@pytest.mark.parametrize("point", ["lost = lost", "lost = lost.inner.part"])
def test_an_entry_point_to_a_missing_module_hides_only_itself(tmp_path, monkeypatch, point):
    package(tmp_path, "found", "", point)
    monkeypatch.syspath_prepend(tmp_path)
    assert "kl" in names("regularizers") and "lost" not in names("regularizers")
    assert "lost" in sources("regularizers")["lost"].problem


def test_a_part_whose_package_is_missing_says_which(tmp_path, monkeypatch):
    package(tmp_path, "needy", "import no_such_package\n" + PLUGIN.format(name="needy"), "needy = needy")
    monkeypatch.syspath_prepend(tmp_path)
    assert "needy" not in names("regularizers")
    with pytest.raises(PartError, match="'needy' cannot be used: it needs the package 'no_such_package'"):
        get("regularizers", "needy")


def test_a_plugin_may_extend_a_built_in_part_which_stays_one_whether_the_plugin_fails_or_not(tmp_path):
    text = "from latentbench.bench.registry import get, load_plugin, register\n"
    for part, cls, end in (("vit", "ViT", ""), ("conv", "Conv", "1 / 0\n")):
        file = tmp_path / f"own_{part}.py"
        file.write_text(
            "from latentbench.bench.registry import register\n"
            f"from latentbench.tokenizers.{part} import {cls}\n\n\n"
            f'@register("own_{part}")\nclass Own({cls}):\n    """Its own."""\n\n\n{end}'
        )
        text += f"print([s.name for s in load_plugin({str(file)!r})], get('tokenizers', '{part}').__name__)\n"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["['own_vit'] ViT", "['own_conv'] Conv"], done.stderr
