"""Parts by name: a file in a part folder, a plugin file, or an installed package's entry point.

Names are read from the source (`@register("name")` above a class) without running it; a part's file is
imported when that part is asked for. So listing is instant, and a part whose import fails hides only itself.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

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
# The kind follows from the base class; a plugin's is read from the source by these names.
BASES = {
    "Regularizer": "regularizers",
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
    """A part that is unknown, taken, or cannot be imported."""


@dataclass(frozen=True)
class PartSource:
    """Where a part comes from; `problem` says why it cannot be used."""

    kind: str
    name: str
    module: str
    file: Path
    about: str = ""
    problem: str | None = None


_classes: dict[tuple[str, str], type] = {}
_plugins: dict[tuple[str, str], PartSource] = {}
_asked: dict[type, set[str]] = {}  # of constructors, which is slow to look up
C = TypeVar("C", bound=type)
P = TypeVar("P")

# An option that names a part, annotated with what it must be: `prior: Annotated[Use, Flow] = "tarflow"`.
# In a matrix `prior: tarflow` or `prior: {use: tarflow, width: 64}`; the rest has that part's defaults.
Use = str | Mapping[str, Any]


def register(name: str) -> Callable[[C], C]:
    """Class decorator: makes the class a part called `name`; its kind follows from its base class."""

    def decorate(cls: C) -> C:
        try:
            kind = kind_of(cls)
        except PartError as error:
            raise PartError(
                f"{cls.__name__} is registered as {name!r} but {str(error).partition(' ')[2]}"
            ) from None
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


def create(kind: str, name: str, **kwargs: Any) -> Any:
    """A new part: `get(kind, name)(**kwargs)`."""
    return get(kind, name)(**kwargs)


def use(base: type[P], choice: Use, **facts: Any) -> P:
    """The part that an option of another part names: `use(Flow, self.prior, spec=…, classes=…)`."""
    options = {"use": choice} if isinstance(choice, str) else dict(choice)
    return build(kind_of(base), options.pop("use"), facts, options)


def build(kind: str, name: str, facts: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """A new part with its options, and those of the facts that its constructor names."""
    asked = parameters_of(get(kind, name))
    named = {fact: value for fact, value in facts.items() if fact in asked}
    return create(kind, name, **named, **options)


def parameters_of(cls: type) -> set[str]:
    """The names that a constructor takes, and, where it passes `**options` on, its bases'."""
    if cls not in _asked:
        _asked[cls] = set()
        for base in cls.__mro__:
            if "__init__" in vars(base):
                parameters = inspect.signature(vars(base)["__init__"]).parameters
                _asked[cls] |= set(parameters)
                if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
                    break
    return _asked[cls]


def kind_of(cls: type) -> str:
    """The kind of a part's class, or of an interface's."""
    from .api import KINDS

    kind = next((kind for kind, base in KINDS.items() if issubclass(cls, base)), None)
    if kind is None:
        raise PartError(f"{cls.__name__} extends none of {', '.join(BASES)}")
    return kind


def get(kind: str, name: str) -> type:
    """The class of a part, imported now if it wasn't."""
    source = sources(kind).get(name)
    if source is None:
        raise PartError(unknown(SINGULAR[kind], name, list(sources(kind)), f"bench list {kind}"))
    if source.problem is not None:
        raise PartError(f"the {SINGULAR[kind]} {name!r} cannot be used: {source.problem}")
    if (kind, name) not in _classes:
        try:
            importlib.import_module(source.module)
        except PartError:
            raise
        except Exception as error:  # a plugin's module may fail in any way; that hides only its own parts
            raise PartError(
                f"the {SINGULAR[kind]} {name!r} cannot be used: {cause(error, source.file)}"
            ) from error
    return _classes[kind, name]


def sources(kind: str) -> dict[str, PartSource]:
    """Every known part of a kind by name, usable or not."""
    if kind not in FOLDERS:
        raise PartError(unknown("kind of part", kind, list(FOLDERS), "bench list"))
    found: dict[str, PartSource] = {}
    mine = [source for source in _plugins.values() if source.kind == kind]
    for source in (*_built_in(kind), *_installed(kind), *mine):
        if source.name in found and found[source.name].file != source.file:
            other = found[source.name].file
            raise PartError(
                f"the {SINGULAR[kind]} {source.name!r} is defined twice: {other} and {source.file}"
            )
        found[source.name] = source
    return found


def load_plugin(path: str | Path) -> list[PartSource]:
    """Runs a plugin file and makes its parts available; one that fails is listed with its cause."""
    file = Path(os.path.realpath(path))  # which, of links in a circle, doesn't raise
    if not file.is_file():
        raise PartError(f"no plugin file {str(path)!r}")
    module = f"latentbench_plugin_{file.stem}_{abs(hash(str(file))):x}"
    problem = None
    if module not in sys.modules:
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec is not None and spec.loader is not None
        sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module])
        except PartError:
            del sys.modules[module]
            raise
        except Exception as error:
            del sys.modules[module]
            problem = cause(error, file)
            for part in [part for part, cls in _classes.items() if cls.__module__ == module]:
                del _classes[part]
    defined = [(kind, name, cls) for (kind, name), cls in _classes.items() if cls.__module__ == module]
    loaded = [PartSource(kind, name, module, file, _first_line(cls.__doc__)) for kind, name, cls in defined]
    if problem is not None:
        loaded = [
            PartSource(s.kind, s.name, module, file, s.about, problem) for s in _scan(file, module, None)
        ]
        loaded = loaded or [PartSource("regularizers", file.stem, module, file, problem=problem)]
    for source in loaded:
        _plugins[source.kind, source.name] = source
    return loaded


def unknown(what: str, value: str, known: list[str], where: str = "") -> str:
    """The sentence for a name that isn't known, with the nearest one or the choices."""
    near = get_close_matches(value, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
    return f"unknown {what} {value!r}; {hint}" + (f" ({where})" if where else "")


@cache
def _built_in(kind: str) -> tuple[PartSource, ...]:
    root = Path(__file__).parent
    folder = root / kind if kind in ("datasets", "features", "references") else root.parent / kind
    files = sorted(folder.glob("*.py"))
    return tuple(source for file in files for source in _scan(file, f"{FOLDERS[kind]}.{file.stem}", kind))


def _installed(kind: str) -> Iterator[PartSource]:
    yield from (source for source in _entry_points(tuple(sys.path)) if source.kind == kind)


@cache
def _entry_points(path: tuple[str, ...]) -> tuple[PartSource, ...]:
    """The parts of installed packages; looking for them is slow, and depends on the search path alone."""
    found: list[PartSource] = []
    for point in entry_points(group="latentbench.plugins"):
        try:
            spec = importlib.util.find_spec(point.module)
        except ImportError:  # of a parent package
            spec = None
        file = Path(spec.origin) if spec is not None and spec.origin else Path(point.module)
        parts = _scan(file, point.module, None) if file.is_file() else ()
        mine = [source for source in parts if source.name == point.name]
        problem = f"no part of that name in the module {point.module!r}, which its entry point names"
        # Where nothing tells the kind, the cause is shown under each.
        lost = [PartSource(kind, point.name, point.module, file, problem=problem) for kind in FOLDERS]
        found += mine or lost
    return tuple(found)


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
        its_kind = kind or next((BASES[base] for base in bases if base in BASES), "regularizers")
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "register":
                name = ast.literal_eval(decorator.args[0])
                yield PartSource(its_kind, name, module, file, _first_line(ast.get_docstring(node)), problem)


def _imported(tree: ast.Module) -> Iterator[str]:
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
    """One line: what went wrong, and where in the part's own file."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f"{file}:{line}" if line else str(file)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{where}: {type(error).__name__}: {text}"
