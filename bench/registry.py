"""Parts by name, from files in the part folders, plugin files, and entry points of installed packages.

Names are read from the source (`@register("name")` above a class) without running it; a part's file is
imported when the part is first used. So listing is instant, and a part whose import fails hides only itself.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, ClassVar, TypeVar

from .user_error import UserError

FOLDERS = {
    "regularizers": "latentbench.regularizers",
    "tokenizers": "latentbench.tokenizers",
    "generators": "latentbench.generators",
    "evaluators": "latentbench.evaluators",
    "datasets": "latentbench.bench.datasets",
    "features": "latentbench.bench.features",
    "references": "latentbench.bench.references",
}
SINGULAR = {
    "regularizers": "regularizer",
    "tokenizers": "tokenizer",
    "generators": "generator",
    "evaluators": "evaluator",
    "datasets": "dataset",
    "features": "feature extractor",
    "references": "reference",
}
# A part's kind follows from its base class; in source files it is read by the base's name.
BASES = {
    "Regularizer": "regularizers",
    "Corruption": "regularizers",
    "Tokenizer": "tokenizers",
    "Generator": "generators",
    "Flow": "generators",
    "Likelihood": "generators",
    "Evaluator": "evaluators",
    "Dataset": "datasets",
    "FeatureExtractor": "features",
    "ReferenceSource": "references",
}


class PartError(UserError):
    """A part is unknown, defined twice, or cannot be imported."""


@dataclass(frozen=True)
class PartSource:
    """A part's source file; `problem` is the reason why the part cannot be used, if there is one."""

    kind: str
    name: str
    module: str
    file: Path
    about: str = ""
    problem: str | None = None


_classes: dict[tuple[str, str], type] = {}
_plugins: dict[tuple[str, str], PartSource] = {}
_set_aside: dict[tuple[str, str], type] = {}  # parts without a file, while only files count
_registered: dict[str, list[tuple[str, str]]] = {}  # kinds and names of parts by their plugin's module
_parameters: dict[type, set[str]] = {}  # of constructors, because inspecting them is slow
C = TypeVar("C", bound=type)
P = TypeVar("P")

# The type of an option that names a part, beside its interface: `prior: Annotated[Use, Flow] = "tarflow"`.
# A matrix writes `prior: tarflow`, `{use: tarflow, width: 64}` or `{tarflow: {width: 64}}`.
Use = str | Mapping[str, Any]


def register(name: str) -> Callable[[C], C]:
    """Makes a class a part called `name`, as a class decorator; the kind follows from the base class."""

    def decorate(cls: C) -> C:
        kind = kind_of(cls, f"{cls.__name__} is registered as {name!r} but")
        taken = _classes.get((kind, name))
        if taken is not None and _origin(taken) != _origin(cls):
            raise PartError(
                f"the {SINGULAR[kind]} {name!r} is defined twice: {_origin(taken)} and {_origin(cls)}"
            )
        _classes[kind, name] = cls
        return cls

    return decorate


def names(kind: str) -> list[str]:
    """The names of all usable parts of a kind, sorted."""
    return sorted(name for name, source in sources(kind).items() if source.problem is None)


def create(kind: str, name: str, /, **kwargs: Any) -> Any:  # a part's own option may be called `name`
    """A new part: `get(kind, name)(**kwargs)`."""
    return get(kind, name)(**kwargs)


def use(base: type[P], choice: Use, /, **facts: Any) -> P:
    """A new part that an option of another part names: `use(Flow, self.prior, spec=…, classes=…)`."""
    name, options = named(choice)
    return build(kind_of(base), name, facts, options)


def named(choice: Use) -> tuple[str, dict[str, Any]]:
    """A part's name and options, from `"kl"`, `{"use": "kl", "weight": 0.1}` or `{"kl": {"weight": 0.1}}`."""
    if isinstance(choice, str):
        return choice, {}
    options = dict(choice)
    if "use" in options:
        return options.pop("use"), options
    ((name, inner),) = options.items()
    return name, dict(inner or {})


def build(kind: str, name: str, facts: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """A new part from its options and those facts that its constructor names."""
    parameters = parameters_of(get(kind, name))
    named = {fact: value for fact, value in facts.items() if fact in parameters}
    return create(kind, name, **named, **options)


def parameters_of(cls: type) -> set[str]:
    """The names of a constructor's arguments and, where it passes `**options` on, its bases'."""
    if cls not in _parameters:
        _parameters[cls] = set()
        for base in cls.__mro__:
            if "__init__" in vars(base):
                parameters = inspect.signature(vars(base)["__init__"]).parameters
                _parameters[cls] |= set(parameters)
                if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
                    break
    return _parameters[cls]


def kind_of(cls: type, subject: str = "") -> str:
    """The kind of a part's class or of an interface.

    Raises:
        PartError: if the class extends no interface; the message begins with `subject` or the class's name.
    """
    from .api import KINDS

    kind = next((kind for kind, base in KINDS.items() if issubclass(cls, base)), None)
    if kind is None:
        raise PartError(f"{subject or cls.__name__} extends none of {', '.join(BASES)}")
    return kind


def get(kind: str, name: str) -> type:
    """The class of a part, which is imported if it wasn't before."""
    source = sources(kind).get(name)
    if source is None and (kind, name) in _set_aside:
        cls = _set_aside[kind, name].__name__
        raise PartError(f"unknown {SINGULAR[kind]} {name!r}; it is defined in this session: parts=[{cls}]")
    if source is None:
        raise PartError(unknown(SINGULAR[kind], name, list(sources(kind)), f"bench list {kind}"))
    if source.problem is not None:
        raise PartError(f"the {SINGULAR[kind]} {name!r} cannot be used: {source.problem}")
    if (kind, name) not in _classes:
        try:
            importlib.import_module(source.module)
        except PartError:
            raise
        except Exception as error:  # a plugin's module may fail in any way, which hides only its own parts
            raise PartError(
                f"the {SINGULAR[kind]} {name!r} cannot be used: {cause(error, source.file)}"
            ) from error
    return _classes[kind, name]


def sources(kind: str) -> dict[str, PartSource]:
    """Every known part of a kind by name, usable or not."""
    if kind not in FOLDERS:
        raise PartError(unknown("kind of part", kind, list(FOLDERS), "bench list"))
    others = (*_entry_points(tuple(sys.path)), *_plugins.values())
    known: dict[str, PartSource] = {}
    for source in (*_built_in(kind), *(source for source in others if source.kind == kind)):
        other = known.setdefault(source.name, source).file
        if other != source.file:
            raise PartError(
                f"the {SINGULAR[kind]} {source.name!r} is defined twice: {other} and {source.file}"
            )
        known[source.name] = source
    return known


def load_plugin(path: str | Path) -> list[PartSource]:
    """Runs a plugin and makes its parts available; the parts of one that fails have its `problem`.

    A plugin is a file, which may import modules beside it, or a folder with an `__init__.py`.
    """
    file = Path(os.path.realpath(path))  # unlike Path.resolve, it doesn't raise for links in a circle
    folders = None
    if file.is_dir():
        folders, file = [str(file)], file / "__init__.py"
    if not file.is_file():
        what = "no __init__.py in the plugin folder" if folders else "no plugin file"
        raise PartError(f"{what} {str(path)!r}")
    name = file.parent.name if folders else file.stem
    module = f"latentbench_plugin_{name}_{abs(hash(str(file))):x}"
    problem = None
    if module not in sys.modules:
        if not folders:
            _offer_siblings(file)
        spec = importlib.util.spec_from_file_location(
            module, file, loader=_FromSource(module, str(file)), submodule_search_locations=folders
        )
        assert spec is not None and spec.loader is not None
        before = set(_classes)
        sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module])
        except PartError:
            del sys.modules[module]
            raise
        except Exception as error:
            del sys.modules[module]
            problem = cause(error, file)
            for part in _new_parts(before):
                del _classes[part]
        _registered[module] = _new_parts(before)
    loaded = [
        PartSource(kind, name, module, file, _first_line(_classes[kind, name].__doc__))
        for kind, name in _registered[module]
    ]
    if problem is not None:
        loaded = [replace(source, problem=problem) for source in _scan(file, module, None)]
        loaded = loaded or [PartSource("regularizers", name, module, file, problem=problem)]
    for source in loaded:
        _plugins[source.kind, source.name] = source
    return loaded


def _new_parts(before: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Kinds and names of the parts that a plugin has registered, without those that it has only imported."""
    new = [part for part in _classes if part not in before]
    points = _entry_points(tuple(sys.path)) if new else ()
    return [
        (kind, name)
        for kind, name in new
        if _classes[kind, name].__module__
        not in {source.module for source in (*_built_in(kind), *points) if source.name == name}
    ]


@contextmanager
def plugins_of_this_block() -> Iterator[None]:
    """Forgets the plugins that are loaded within the block after it, so that edited files are read again.

    Within the block only files and installed packages have parts: a class that a notebook's cell or a script
    has registered is set aside, because nothing says which source it is made from.
    """
    known = {kind: sources(kind) for kind in FOLDERS}
    modules_of = {(kind, name): source.module for kind in known for name, source in known[kind].items()}
    loose = {part: cls for part, cls in _classes.items() if cls.__module__ != modules_of.get(part)}
    for part in loose:
        del _classes[part]
    _set_aside.update(loose)
    classes, plugins, modules = dict(_classes), dict(_plugins), set(sys.modules)
    try:
        yield
    finally:
        new = sys.modules.keys() - modules
        loaded = {name for name in new if _is_plugin(sys.modules[name])}
        loaded |= {name for name in new if name.startswith(tuple(f"{of}." for of in loaded))}
        for part in _classes.keys() - classes.keys():
            if _classes[part].__module__ in loaded:
                _parameters.pop(_classes.pop(part), None)
        for name in loaded:
            del sys.modules[name]
            _registered.pop(name, None)
        _plugins.clear()
        _plugins.update(plugins)
        _set_aside.clear()
        _classes.update({part: cls for part, cls in loose.items() if part not in _classes})


def _is_plugin(module: ModuleType) -> bool:
    """Whether a module is a plugin's file, or one beside it that it imports."""
    return isinstance(getattr(getattr(module, "__spec__", None), "loader", None), _FromSource)


def _offer_siblings(file: Path) -> None:
    """Lets a plugin file import the modules beside it, after all others.

    Raises:
        PartError: another plugin's module of the same name is loaded, which Python would take instead.
    """
    folder = file.parent
    if not any(isinstance(finder, _Siblings) for finder in sys.meta_path):
        sys.meta_path.append(_Siblings())
    _Siblings.folders[str(folder)] = None
    try:
        imported = set(_imported(ast.parse(file.read_text(encoding="utf-8"))))
    except (SyntaxError, ValueError):  # running the file names the fault
        return
    for name in imported:
        other = getattr(sys.modules.get(name), "__file__", None)
        own = _Siblings.file(folder, name)
        if own and other and Path(other).resolve() != own and str(Path(other).parent) in _Siblings.folders:
            raise PartError(
                f"{file} imports {name}, of which another plugin has loaded {other}: rename one, or make its "
                "folder a plugin with an __init__.py and relative imports"
            )


class _Siblings(importlib.abc.MetaPathFinder):
    """Finds the modules beside plugin files, and compiles them from their source as plugins are."""

    folders: ClassVar[dict[str, None]] = {}

    @staticmethod
    def file(folder: Path, name: str) -> Path | None:
        """The file of a module or package in a folder."""
        candidates = (folder / name / "__init__.py", folder / f"{name}.py")
        return next((candidate.resolve() for candidate in candidates if candidate.is_file()), None)

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        inside = [place for place in path or () if any(_within(place, folder) for folder in self.folders)]
        for folder in self.folders if path is None else inside:
            if file := self.file(Path(folder), name.rpartition(".")[2]):
                locations = [str(file.parent)] if file.name == "__init__.py" else None
                return importlib.util.spec_from_file_location(
                    name, file, loader=_FromSource(name, str(file)), submodule_search_locations=locations
                )
        return None


def _within(place: str, folder: str) -> bool:
    return Path(place).is_relative_to(folder)


class _FromSource(SourceFileLoader):
    """Compiles a plugin from its source, whose hash is in cache keys, and leaves no `__pycache__` beside it.

    Python takes bytecode as up to date if the size of the source and the second of its last change agree.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def unknown(what: str, value: str, known: list[str], where: str = "") -> str:
    """The message for an unknown name, with the nearest known name or all of them; `where` lists them."""
    near = get_close_matches(value, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
    return f"unknown {what} {value!r}; {hint}" + (f" ({where})" if where else "")


@cache
def _built_in(kind: str) -> tuple[PartSource, ...]:
    root = Path(__file__).parent
    folder = root / kind if kind in ("datasets", "features", "references") else root.parent / kind
    files = sorted(folder.glob("*.py"))
    return tuple(source for file in files for source in _scan(file, f"{FOLDERS[kind]}.{file.stem}", kind))


@cache
def _entry_points(path: tuple[str, ...]) -> tuple[PartSource, ...]:
    """The parts of installed packages; the search is slow, and depends only on the search path."""
    from importlib.metadata import entry_points  # slow to import, and `bench --help` lists no parts

    parts: list[PartSource] = []
    for point in entry_points(group="latentbench.plugins"):
        try:
            spec = importlib.util.find_spec(point.module)
        except ImportError:  # a parent package cannot be imported
            spec = None
        file = Path(spec.origin) if spec is not None and spec.origin else Path(point.module)
        scanned = _scan(file, point.module, None) if file.is_file() else ()
        named = [source for source in scanned if source.name == point.name]
        problem = f"no part of that name in the module {point.module!r}, which its entry point names"
        # The kind of a missing part is unknown, so that it is listed under every kind.
        missing = [PartSource(kind, point.name, point.module, file, problem=problem) for kind in FOLDERS]
        parts += named or missing
    return tuple(parts)


def _scan(file: Path, module: str, kind: str | None) -> Iterator[PartSource]:
    """The parts in a source file, by its `@register("name")` decorators."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        yield PartSource(kind or "regularizers", file.stem, module, file, problem=cause(error, file))
        return
    missing = [name for name in _imported(tree) if not _available(name)]
    problem = f"it needs the package {missing[0]!r}, which is not installed" if missing else None
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        bases = [base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases]
        kind_here = kind or next((BASES[base] for base in bases if base in BASES), "regularizers")
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "register":
                name = ast.literal_eval(decorator.args[0])
                about = _first_line(ast.get_docstring(node))
                yield PartSource(kind_here, name, module, file, about, problem)


def _imported(tree: ast.Module) -> Iterator[str]:
    """The packages that a module imports at its top level."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@cache
def _available(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().split("\n")[0]


def _origin(cls: type) -> str:
    return str(getattr(sys.modules.get(cls.__module__), "__file__", cls.__module__))


def cause(error: BaseException, file: Path) -> str:
    """An error in one line, with the line of the part's own file that it comes from."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f"{file}:{line}" if line else str(file)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{where}: {type(error).__name__}: {text}"
