"""The source of a class that a notebook's cell or a script defines, as a module that runs on its own.

The module has the class and all that it uses: imports, constants, and functions and classes beside it. So its
text is all that the class's numbers depend on, and any process can run it.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import math
import symtable
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ..user_error import UserError

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
AS_PLUGIN = "save the class as a file, and name that in the matrix's `plugins`"


class CellError(UserError):
    """A class whose source cannot be found, or doesn't say all that it does."""


def module_of(cls: type) -> str:
    """A module's text with the class and what it uses.

    Raises:
        CellError: saying what cannot be found, or put into a file.
    """
    module = _Module(cls)
    module.add(cls.__name__, cls)
    imports = sorted(dict.fromkeys(module.imports))
    doc = f'"""`{cls.__name__}`, as a notebook or a script defined it."""'
    head = [doc, "from __future__ import annotations", "\n".join(imports)]
    return "\n\n".join([*head, *module.body]) + "\n"


@dataclass(frozen=True)
class _Found:
    """A definition in a text: its source, and the names of the module that it reads."""

    source: str
    text: str  # of the whole cell or file

    @property
    def names(self) -> list[str]:
        return list(_global_names(symtable.symtable(self.source, "cell", "exec")))


class _Module:
    """Collects statements, each after those that it uses."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.imports: list[str] = []
        self.body: list[str] = []
        self.seen: set[str] = set()

    def add(self, name: str, value: Any) -> None:
        """Adds a class or function of the cell, after what it uses."""
        self.seen.add(name)
        found = _definition(value)
        for used in found.names:
            if used not in self.seen:
                self._use(used, value, found)
        self.body.append(found.source)

    def _use(self, name: str, user: Any, found: _Found) -> None:
        """Adds what a name of a definition stands for."""
        names = _globals(user)
        if name not in names:
            if not hasattr(builtins, name):
                raise self._refusal(user, name, "is not defined; define it above the class")
            return
        self.seen.add(name)
        value = names[name]
        if line := _import_line(name, value):
            self.imports.append(line)
        elif (text := _constant(value)) is not None:
            self.body.append(f"{name} = {text}")
        elif isinstance(value, type | FunctionType) and value.__name__ == name:
            self.add(name, value)
        elif isinstance(value, ModuleType):
            raise self._refusal(user, name, f"is your own file {value.__file__}; {AS_PLUGIN}, beside it")
        elif statement := _assignment(found.text, name):
            for used in _Found(statement, found.text).names:
                if used not in self.seen:
                    self._use(used, user, found)
            self.body.append(statement)
        else:
            made = f"is made elsewhere, a {type(value).__name__}"
            raise self._refusal(user, name, f"{made}; make it in the class's cell, or {AS_PLUGIN}")

    def _refusal(self, user: Any, name: str, why: str) -> CellError:
        whose = "" if user is self.cls else f" (in {user.__name__})"
        return CellError(f"{self.cls.__name__} uses {name!r}{whose}, which {why}")


def _definition(value: type | FunctionType) -> _Found:
    """The source of a class or function with its decorators.

    `inspect.getsource` finds no class of a notebook before Python 3.13; the code of a method says the cell.
    """
    name = value.__name__
    for code in _codes(value):
        text = "".join(linecache.getlines(code.co_filename))
        try:
            tree = ast.parse(text)
        except SyntaxError:  # a file that isn't Python, or has changed
            continue
        for node in tree.body:
            if isinstance(node, Definition) and node.name == name and _encloses(node, code):
                if stray := _set_later(value, node, code):
                    raise CellError(f"{name}.{stray} was set outside of the class: write it inside")
                return _Found(_segment(text, node), text)
    if isinstance(value, type) and "<locals>" in value.__qualname__:
        raise CellError(f"{value.__qualname__} is defined in a function: define it at the top of a cell")
    why = "its code is in no definition of that name at the top of a cell or file"
    if not any(_codes(value)):
        why = "it has no method, which would say its cell: give it one"
    raise CellError(f"the source of {name} cannot be found: {why}, or {AS_PLUGIN}")


def _codes(value: type | FunctionType) -> Iterator[CodeType]:
    """The code of a function, or of all methods that a class defines itself."""
    if isinstance(value, FunctionType):
        yield inspect.unwrap(value).__code__
        return
    for member in vars(value).values():
        if isinstance(member, property):
            members = [member.fget, member.fset]
        else:
            members = [getattr(member, "func", member)]  # of a cached property
        for one in members:
            function: Any = getattr(one, "__func__", one)  # of a static or class method
            if callable(function):
                function = inspect.unwrap(function)
            if isinstance(function, FunctionType) and function.__module__ == value.__module__:
                yield function.__code__


def _encloses(node: Definition, code: CodeType) -> bool:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return first <= code.co_firstlineno <= (node.end_lineno or 0)


def _set_later(value: type | FunctionType, node: Definition, own: CodeType) -> str | None:
    """The name of what a class has and its source doesn't: set after its definition, or set anew."""
    for code in _codes(value):
        by_decorator = not linecache.getlines(code.co_filename)  # such as `dataclass`
        if not by_decorator and not (code.co_filename == own.co_filename and _encloses(node, code)):
            return code.co_name
    if isinstance(value, FunctionType):
        return None
    written: dict[str, ast.expr | None] = {}
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            written.setdefault(part.id, None)
        elif isinstance(part, Definition | ast.alias):
            written.setdefault(part.name, None)
    for part in node.body:
        targets = part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", None)]
        written |= {t.id: getattr(part, "value", None) for t in targets if isinstance(t, ast.Name)}
    for name, member in vars(value).items():
        if not name.startswith("_") and (name not in written or _differs(member, written[name])):
            return name
    return None


def _differs(member: object, written: ast.expr | None) -> bool:
    """Whether a class's attribute isn't the plain value that its source gives it."""
    try:
        return written is not None and bool(ast.literal_eval(written) != member)
    except (ValueError, TypeError, SyntaxError, RuntimeError):  # no plain value, or one without a comparison
        return False


def _segment(text: str, node: Definition) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])


def _global_names(table: symtable.SymbolTable, top: bool = True) -> Iterator[str]:
    """The names that a definition reads and doesn't define, those of annotations too."""
    own = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()} if top else set()
    found: dict[str, None] = {}
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or (top and not symbol.is_assigned())):
            found[symbol.get_name()] = None
    for child in table.get_children():
        found |= dict.fromkeys(_global_names(child, top=False))
    yield from (name for name in found if name not in own)


def _globals(user: Any) -> Mapping[str, Any]:
    """The names of the module that a class or function is defined in."""
    if isinstance(user, FunctionType):
        return user.__globals__
    for member in vars(user).values():
        function = getattr(member, "__func__", member)
        if isinstance(function, FunctionType) and function.__module__ == user.__module__:
            return function.__globals__
    return vars(sys.modules[user.__module__])


def _import_line(name: str, value: Any) -> str | None:
    """The import of a module, or of what an installed module defines; None of anything else."""
    if isinstance(value, ModuleType):
        return (f"import {value.__name__} as {name}") if _installed(value) else None
    home = sys.modules.get(getattr(value, "__module__", None) or "")
    called = getattr(value, "__qualname__", name)
    if home is not None and _installed(home):
        for known in (called, name):
            if vars(home).get(known) is value:
                return _from(home, known, name)
    if isinstance(value, type | FunctionType) or _constant(value) is not None:
        return None
    for module in sorted(list(sys.modules), key=lambda module: (module.count("."), len(module))):
        home = sys.modules[module]
        if isinstance(home, ModuleType) and vars(home).get(name) is value and _installed(home):
            return _from(home, name, name)  # such as `randn` of torch, which doesn't name its module
    return None


def _from(home: ModuleType, called: str, name: str) -> str:
    return f"from {home.__name__} import {called}" + (f" as {name}" if called != name else "")


@cache
def _installed(module: ModuleType) -> bool:
    """Whether a module is Python's, ours or that of an installed package, which keys need not know."""
    import site
    import sysconfig

    if module.__name__ == "__main__" or sys.modules.get(module.__name__) is not module:
        return False
    file, package = getattr(module, "__file__", None), module.__name__.partition(".")[0]
    if file is None or package in ("latentbench", *sys.stdlib_module_names):
        return True
    folders = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    if any(file.startswith(folder + "/") for folder in folders):
        return True
    from importlib.metadata import packages_distributions  # reads all packages: slow

    return package in packages_distributions()


def _constant(value: Any) -> str | None:
    """Plain data as Python writes it; None of anything else."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return repr(value)
    brackets: dict[type, Callable[[str], str]] = {
        list: lambda text: f"[{text}]",
        tuple: lambda text: f"({text},)" if text else "()",
        set: lambda text: f"{{{text}}}" if text else "set()",
        frozenset: lambda text: f"frozenset([{text}])",
    }
    if type(value) is dict:
        pairs = [(_constant(key), _constant(item)) for key, item in value.items()]
        if any(None in pair for pair in pairs):
            return None
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
    if type(value) not in brackets:
        return None
    items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
    texts = [_constant(item) for item in items]
    return None if None in texts else brackets[type(value)](", ".join(map(str, texts)))


def _assignment(text: str, name: str) -> str | None:
    """The statement of a cell that gives a name its value, such as an alias of a type."""
    found = None
    for node in ast.parse(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            found = None if isinstance(node, ast.AugAssign) else ast.get_source_segment(text, node)
    return found
