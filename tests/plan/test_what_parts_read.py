"""Whatever a plugin reads from disk is in its cache keys: its modules, and the files that it opens."""

import json

import pytest
from helpers.run import TINY, bench_inline

from latentbench.bench import registry
from latentbench.bench.store.source_files import source_files, source_hash

SCALED = '''
"""A linear tokenizer whose decoder is scaled by a number from a file."""
from pathlib import Path
import torch
from torch import nn
from latentbench.bench.api import LatentSpec, Tokenizer
from latentbench.bench.registry import register
IMPORTS

@register("NAME")
class Scaled(Tokenizer):
    """Takes a number from a file."""

    def __init__(self, image, expansion, file: str = "FILE"):
        super().__init__(image, expansion)
        self.file, self.spec = file, LatentSpec(1, 8)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8 * expansion), nn.Unflatten(1, (1, -1)))
        self.decoder = nn.Sequential(nn.Flatten(), nn.Linear(8, 64), nn.Unflatten(1, (1, 8, 8)))
        READ

    @property
    def heads(self):
        return {"encoder": self.encoder[1].weight, "decoder": self.decoder[1].weight}
'''
MATRIX = TINY.replace("  kl: {weight: 1.0e-3}\n", "")


def keys(folder, plugin, name):
    text = MATRIX.replace("vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}", f"{name}: {{}}")
    (folder / "m.yaml").write_text(text)
    words = ("plan", "-m", "m.yaml", "--json", "--stages", "--plugin", plugin)
    done = bench_inline(*words, cwd=folder, home=folder / "home")
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    return {stage["key"] for stage in stages if stage["kind"] == "tokenizer"}


READS = {
    "torch": "self.scale = torch.load(file, weights_only=True)",
    "open": "self.scale = float(open(file, 'rb').read()[:1] == b'1')",
    "path": "self.scale = sum(Path(file).read_bytes())",
    "fingerprint": """pass

    def fingerprint(self):
        import hashlib

        return hashlib.sha256(Path(self.file).read_bytes()).hexdigest()""",
}


@pytest.mark.parametrize("way", READS)
def test_another_file_is_another_key(way, tmp_path):
    import torch

    text = SCALED.replace("READ", READS[way]).replace("IMPORTS", "").replace("NAME", f"scaled_{way}")
    plugin, file = tmp_path / f"scaled_{way}.py", tmp_path / "scale.pt"
    plugin.write_text(text.replace("FILE", str(file)))
    torch.save(torch.tensor(1.0), file)
    first = keys(tmp_path, plugin, f"scaled_{way}")
    assert keys(tmp_path, plugin, f"scaled_{way}") == first
    torch.save([torch.tensor(0.1)] * 2, file)
    assert keys(tmp_path, plugin, f"scaled_{way}").isdisjoint(first)


def test_a_missing_file_that_the_part_names_is_said_before_the_run(tmp_path):
    text = SCALED.replace("READ", "pass\n\n    def fingerprint(self):\n        return None")
    (tmp_path / "absent.py").write_text(text.replace("IMPORTS", "").replace("NAME", "absent"))
    (tmp_path / "m.yaml").write_text(
        MATRIX.replace("vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}", "absent: {}")
    )
    done = bench_inline("run", "-m", "m.yaml", "--plugin", "absent.py", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 2 and "its data or weights are not on this machine" in done.stderr


def test_a_plugin_imports_modules_beside_it_and_their_text_is_in_its_key(tmp_path, monkeypatch):
    (tmp_path / "beside_it.py").write_text("from deeper_beside_it import SCALE\n")
    (tmp_path / "deeper_beside_it.py").write_text("SCALE = 1\n")
    text = SCALED.replace("IMPORTS", "from beside_it import SCALE").replace("READ", "self.scale = SCALE")
    plugin = tmp_path / "with_siblings.py"
    plugin.write_text(text.replace("NAME", "with_siblings"))
    assert [file.name for file in source_files(plugin)] == [
        "with_siblings.py",
        "beside_it.py",
        "deeper_beside_it.py",
    ]
    first = keys(tmp_path, plugin, "with_siblings")
    (tmp_path / "deeper_beside_it.py").write_text("SCALE = 2\n")
    assert keys(tmp_path, plugin, "with_siblings").isdisjoint(first)
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_plugin_may_be_a_folder_with_relative_imports(tmp_path):
    package = tmp_path / "my_parts"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from .scaled import Scaled\n")
    (package / "inner/__init__.py").write_text("from .numbers import SCALE\n")
    (package / "inner/numbers.py").write_text("SCALE = 1\n")
    text = SCALED.replace("IMPORTS", "from .inner import SCALE").replace("READ", "self.scale = SCALE")
    (package / "scaled.py").write_text(text.replace("NAME", "in_a_folder"))
    assert len(source_files(package / "__init__.py")) == 4
    first = keys(tmp_path, package, "in_a_folder")
    (package / "inner/numbers.py").write_text("SCALE = 2\n")
    assert keys(tmp_path, package, "in_a_folder").isdisjoint(first)


def test_a_folder_that_is_no_package_is_refused(tmp_path):
    (tmp_path / "parts").mkdir()
    with pytest.raises(registry.PartError, match="no __init__.py in the plugin folder"):
        registry.load_plugin(tmp_path / "parts")


def test_two_plugins_with_different_modules_of_one_name_are_refused(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "namesake_module.py").write_text(f"NAME = {folder!r}\n")
        (tmp_path / folder / "plugin.py").write_text("import namesake_module\n")
    registry.load_plugin(tmp_path / "one/plugin.py")
    with pytest.raises(registry.PartError, match="imports namesake_module, of which another plugin"):
        registry.load_plugin(tmp_path / "two/plugin.py")


def test_a_single_file_s_hash_is_that_of_its_text(tmp_path):
    import hashlib

    (tmp_path / "alone.py").write_text("import json\nimport torch\n")
    assert source_hash(tmp_path / "alone.py") == hashlib.sha256(b"import json\nimport torch\n").hexdigest()


@pytest.mark.parametrize("text", ["def broken(:\n", "import beside_that_imports_it_back\n"])
def test_files_that_are_broken_or_import_each_other_have_a_hash(text, tmp_path):
    (tmp_path / "plugin.py").write_text(text)
    (tmp_path / "beside_that_imports_it_back.py").write_text("import plugin\n")
    assert len(source_hash(tmp_path / "plugin.py")) == 64
