"""The folders' contract: a namespace without shadows, and imports in one direction."""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = [
    "regularizers",
    "tokenizers",
    "generators",
    "evaluators",
    "bench/datasets",
    "bench/features",
    "bench/references",
]


# From the lowest: a room imports rooms of its own or a lower layer, and two rooms never import each other.
LAYERS = [
    {"api", "registry", "flow", "user_error"},
    {"store", "runtime", "options", "statistics"},
    {"data", "nn", "models", "datasets", "references"},
    {"metrics", "features", "records"},
    {"training", "contracts"},
    {"matrix", "stages", "leaderboard"},
    {"plan", "report"},
    {"engine"},
    {"tools"},
    {"cli", "python"},
    {"__main__"},
]
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}


def imported(file):
    """The dotted names of modules, and of the names in them, that a file imports: late and for typing too."""
    package = ["latentbench", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def module_of(file):
    return ".".join(["latentbench", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def room_of(module):
    """The room of a module of the frame: `matrix` of `latentbench.bench.matrix.load.load_matrix`."""
    return module.split(".")[2]


def import_graph():
    """Each module of the product with the modules that it imports."""
    modules = {module_of(file): file for folder in PACKAGES for file in (ROOT / folder).rglob("*.py")}
    return {
        module: {name for name in imported(file) if name in modules and name != module}
        for module, file in modules.items()
    }


PART_FILES = [file for folder in PARTS for file in sorted((ROOT / folder).glob("*.py"))]
FRAME_FILES = sorted(set((ROOT / "bench").rglob("*.py")) - set(PART_FILES))
PACKAGES = ["bench", "regularizers", "tokenizers", "generators", "evaluators"]
PART_PACKAGES = tuple("latentbench." + folder.replace("/", ".") for folder in PARTS)


@pytest.mark.parametrize("folder", PARTS)
def test_part_folders_have_no_init_file(folder):
    # `tokenizers/__init__.py` would shadow Hugging Face's `tokenizers` for whoever runs Python from here.
    assert (ROOT / folder).is_dir() and not (ROOT / folder / "__init__.py").exists()


def test_hugging_face_transformers_works_beside_us_from_the_repo_root():
    code = (
        "import tokenizers, transformers; from latentbench.bench.registry import names; "
        "assert 'vit' in names('tokenizers'); print(tokenizers.Tokenizer.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "tokenizers"


@pytest.mark.parametrize("file", PART_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_part_imports_the_frame_and_no_other_part(file):
    ours = [name for name in imported(file) if name.startswith("latentbench")]
    frame = {module_of(one) for one in FRAME_FILES}
    for name in ours:
        assert name in frame or name.rpartition(".")[0] in frame or name == "latentbench.bench", name
        assert not name.startswith(PART_PACKAGES), f"{file.name} imports {name}"


@pytest.mark.parametrize("file", FRAME_FILES, ids=lambda file: file.stem)
def test_the_frame_imports_no_part(file):
    assert not [name for name in imported(file) if name.startswith(PART_PACKAGES)]


def test_no_modules_import_each_other_in_a_circle():
    graph = import_graph()
    graph.pop("latentbench.bench")  # which has a version for all, and the names of `python/` imported late
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_rooms_import_only_rooms_of_their_own_or_a_lower_layer_and_never_in_a_circle():
    rooms: dict[str, set[str]] = {}
    for module, names in import_graph().items():
        if not module.startswith("latentbench.bench."):
            continue
        for name in names - {"latentbench.bench"}:
            mine, other = room_of(module), room_of(name)
            assert LAYER[other] <= LAYER[mine], f"{module} imports {name}, which is of a higher layer"
            rooms.setdefault(mine, set()).add(other)
    for room in rooms:
        rooms[room].discard(room)
    tuple(TopologicalSorter(rooms).static_order())


def test_every_part_folder_is_packaged():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for folder in ["bench", *PARTS]:
        assert setup["package-dir"]["latentbench." + folder.replace("/", ".")] == folder
    assert set(setup["packages"]) == set(setup["package-dir"])
    nested = {str(file.parent.relative_to(ROOT)) for file in ROOT.glob("bench/**/*.py")}
    assert nested <= set(setup["package-dir"].values())


def test_library_code_prints_nothing_and_leaves_the_device_to_the_tensors():
    for file in [*PART_FILES, *(file for file in FRAME_FILES if file.parent.name != "cli")]:
        calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        assert "print" not in {getattr(call, "id", "") for call in calls}, file
        assert "cuda" not in {getattr(call, "attr", "") for call in calls}, file


def unnamed_encodings(tree):
    """The lines of calls that read or write text in the encoding of whoever's locale."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        on = getattr(getattr(call.func, "value", None), "id", "")
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        modes = [named["mode"]] if "mode" in named else call.args[isinstance(call.func, ast.Name) :]
        binary = any("b" in str(getattr(mode, "value", "")) for mode in modes)
        opens = name == "open" and not binary and on not in ("Image", "fs")
        texts = isinstance(call.func, ast.Attribute) and name in ("read_text", "write_text")
        pipes = name in ("run", "Popen", "check_output") and {"text", "universal_newlines"} & named.keys()
        if (opens or texts or pipes) and "encoding" not in named:
            yield call.lineno


@pytest.mark.parametrize("file", FRAME_FILES + PART_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_text_files_name_their_encoding(file):
    assert not [*unnamed_encodings(ast.parse(file.read_text(encoding="utf-8")))]


def test_a_text_file_without_an_encoding_is_found():
    wrong = ["open(f)", "open(f, 'w')", "p.open()", "p.read_text()", "p.write_text(t)", "run(w, text=True)"]
    right = [
        "open(f, 'rb')",
        "p.open(mode='wb')",
        "p.read_text(encoding='utf-8')",
        "run(w)",
        "read_text(f, n)",
    ]
    found = [bool([*unnamed_encodings(ast.parse(text))]) for text in (*wrong, *right)]
    assert found == [True] * len(wrong) + [False] * len(right)


ROOM_FILES, FUNCTION_LINES, FILE_LINES = 25, 80, 450  # at the most
RIDDLES = ("Of ", "Those ", "What ", "That ", "Which ", "As ")  # docstrings without a subject begin so


@pytest.mark.parametrize(
    "folder", sorted({file.parent for file in FRAME_FILES + PART_FILES}), ids=lambda f: f.name
)
def test_a_room_can_be_taken_in_at_a_glance(folder):
    assert len(list(folder.glob("*.py"))) <= ROOM_FILES


@pytest.mark.parametrize("file", FRAME_FILES + PART_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_short_and_docstrings_begin_with_their_subject(file):
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < FUNCTION_LINES, node.name
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            assert not (ast.get_docstring(node) or "").startswith(RIDDLES), ast.get_docstring(node)


def test_every_public_name_of_the_interfaces_has_a_docstring():
    from latentbench.bench import api

    for name in api.__all__:
        made_here = getattr(getattr(api, name), "__module__", "").startswith("latentbench")
        assert not made_here or getattr(api, name).__doc__, name


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone: of two it collects one."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
