"""Options of parts may have any name: what a part calls `name`, `kind` or `label` reaches its constructor."""

import json

import pytest
import yaml
from helpers.matrices import problems
from helpers.run import TINY, bench_inline, results

from latentbench.bench import registry
from latentbench.bench.matrix.load import load_matrix, resolved
from latentbench.bench.matrix.matrix import MatrixRow

KINDS = {
    "datasets": "bench.datasets.digits.Digits",
    "features": "bench.features.effnet_lite.EffNetLite0",
    "references": "bench.references.teacher.Teacher",
    "tokenizers": "tokenizers.vit.ViT",
    "regularizers": "regularizers.kl.KL",
    "generators": "generators.gaussian.Gaussian",
    "evaluators": "evaluators.reconstruction.Reconstruction",
}
HEAD = '''"""Parts that stand for built-in ones, and insist on their options."""
from latentbench.bench.registry import register


def insist(*options):
    if options not in (("a", "b", "c", "d", "e"), ("n", "k", "l", "b", "c")):
        raise ValueError(f"the part got {options}")
'''
PART = '''
from latentbench.{module} import {cls} as Plain{cls}


@register("own_{kind}")
class Own{cls}(Plain{cls}):
    """{kind} with options of unusual names."""

    def __init__(
        self, name: str = "a", kind: str = "b", label: str = "c", base: str = "d", choice: str = "e", **rest
    ) -> None:
        super().__init__(**rest)
        insist(name, kind, label, base, choice)
'''
OPTIONS = "name: n, kind: k, label: l, base: b, choice: c"
PLAIN = TINY.replace("  kl: {weight: 1.0e-3}\n", "")
CHANGES = {
    "datasets": ("dataset: {use: digits}", "dataset: {use: own_datasets, OPTIONS}"),
    "features": ("{use: effnet_lite0, ", "{use: own_features, OPTIONS, "),
    "references": ("{use: teacher}", "{use: own_references, OPTIONS}"),
    "tokenizers": ("vit: {", "own: {use: own_tokenizers, OPTIONS, "),
    "regularizers": ("none: {}", "own: {use: own_regularizers, OPTIONS}"),
    "generators": ("gaussian: {}", "own: {use: own_generators, OPTIONS}"),
    "evaluators": ("[reconstruction,", "[{own_evaluators: {OPTIONS}},"),
}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """A plugin with a part of every kind, known to the registry only while these tests run."""
    file, text = tmp_path_factory.mktemp("plugin") / "own.py", HEAD
    for kind, path in KINDS.items():
        module, _, cls = path.rpartition(".")
        text += PART.format(module=module, cls=cls, kind=kind)
    file.write_text(text)
    yield file
    for table in (registry._plugins, registry._classes):
        for key in [key for key in table if key[1].startswith("own_")]:
            del table[key]


def test_a_part_of_every_kind_gets_options_called_as_the_frame_s_own_arguments(plugin, tmp_path):
    text = PLAIN.replace(
        "  lightningdit: {width: 32, depth: 1, heads: 2, guidance: [1.0, 1.5], sampler: {steps: 4}}\n", ""
    )
    for old, new in CHANGES.values():
        assert old in text
        text = text.replace(old, new.replace("OPTIONS", OPTIONS))
    (tmp_path / "m.yaml").write_text(text)
    done = bench_inline(
        "run", "-q", "-m", "m.yaml", "--plugin", plugin, "-o", "out", cwd=tmp_path, home=tmp_path / "home"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = results(tmp_path / "out").values()
    assert {record["status"] for record in records} == {"done"}
    assert {record["cell"]["dataset"] for record in records} == {"own_datasets[label=l]"}
    lock = yaml.safe_load((tmp_path / "out/matrix.lock.yaml").read_text())
    assert "own_datasets" in json.dumps(lock["dataset"]) and lock["dataset"][0]["label"] == "l"


@pytest.mark.parametrize("kind", CHANGES)
def test_a_matrix_tells_the_options_of_each_kind_of_part_from_its_own_keys(plugin, tmp_path, kind):
    old, new = CHANGES[kind]
    (tmp_path / "m.yaml").write_text(PLAIN.replace(old, new.replace("OPTIONS", OPTIONS)))
    matrix = load_matrix(tmp_path / "m.yaml", plugins=[plugin])
    rows = {
        "references": [matrix.reference],
        **{name: getattr(matrix, name) for name in KINDS if name != "references"},
    }[kind]
    (row,) = [row for row in rows if row.part == f"own_{kind}"]
    assert [row.options[name] for name in ("name", "kind", "label", "base", "choice")] == list("nklbc")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(resolved(matrix), sort_keys=False))
    again = load_matrix(tmp_path / "again.yaml")
    assert getattr(again, kind if kind != "references" else "reference") == getattr(
        matrix, kind if kind != "references" else "reference"
    )


def test_a_dataset_with_an_option_label_stands_in_a_matrix_once_for_each_of_its_values(plugin, tmp_path):
    two = "dataset: [{use: own_datasets}, {use: own_datasets, label: breed}, {use: digits, label: scans}]"
    (tmp_path / "m.yaml").write_text(PLAIN.replace("dataset: {use: digits}", two))
    rows = load_matrix(tmp_path / "m.yaml", plugins=[plugin]).datasets
    assert [row.label for row in rows] == ["own_datasets", "own_datasets[label=breed]", "scans"]
    assert [row.options.get("label") for row in rows] == ["c", "breed", None]
    assert isinstance(rows[0], MatrixRow) and rows[1].fits("own_datasets")


TAKEN = '''
from latentbench.bench.registry import register
from latentbench.{module} import {cls}


@register("own_taken_{key}")
class Taken({cls}):
    """A part with an option that rows have too."""

    def __init__(self, {key}: str = "a", **rest) -> None:
        super().__init__(**rest)
'''


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        *(("tokenizers", key) for key in ("weights", "start", "budget", "optimizer")),
        *(("regularizers", key) for key in ("teacher", "reference")),
        *(("generators", key) for key in ("init", "guidance", "sampler")),
    ],
)
def test_an_option_that_rows_have_too_is_refused_and_not_dropped(plugin, tmp_path, kind, key):
    module, _, cls = KINDS[kind].rpartition(".")
    (tmp_path / "taken.py").write_text(TAKEN.format(module=module, cls=cls, key=key))
    old = CHANGES[kind][0]
    label = old.partition(":")[0]
    row = f"{label}: {{use: own_taken_{key}, {key}: {{}}" + ("" if old.endswith("{") else "}")
    row += ", " if old.endswith("{") else ""
    (tmp_path / "m.yaml").write_text(PLAIN.replace(old, row))
    said = "\n".join(problems(tmp_path / "m.yaml", plugins=[tmp_path / "taken.py"]))
    one = registry.SINGULAR[kind]
    assert f"the {one} 'own_taken_{key}' has an option '{key}', which it would not get" in said
