"""The frame of latentbench: it knows the interfaces and no particular part.

`import latentbench.bench as lb` is its use from Python:

    results = lb.run({"dataset": "digits", …})    trains and scores a matrix: a dict, a file, a preset's name
    lb.score(["VAE", "OTHER"], "IMAGES")          tokenizers as they are, side by side
    lb.preview("digits")                          what that would make, and what it costs
    lb.load("results/digits")                     results from a folder
    results.frame(), .compare(a, b), .figures()   tables and figures
    lb.tokenizer(results, regularizer="kl")       a trained tokenizer: .encode, .decode, .export(folder)
    lb.list_parts("regularizers", "kl*"), lb.create("regularizers", "kl", spec=…), lb.register("name")

Each of these is imported when it is first used: `import latentbench.bench` alone takes no time.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .matrix.yaml_text import MatrixError as MatrixError
    from .python.parts_by_name import create as create
    from .python.parts_by_name import list_parts as list_parts
    from .python.preview import Preview as Preview
    from .python.preview import preview as preview
    from .python.results import Results as Results
    from .python.results import load as load
    from .python.run import run as run
    from .python.score import score as score
    from .python.trained_tokenizer import TrainedTokenizer as TrainedTokenizer
    from .python.trained_tokenizer import tokenizer as tokenizer
    from .registry import register as register
    from .user_error import UserError as UserError

__version__ = "0.1.0"

_MODULES = {  # of the public names; none of them is a room's name
    "MatrixError": "matrix.yaml_text",
    "Preview": "python.preview",
    "Results": "python.results",
    "TrainedTokenizer": "python.trained_tokenizer",
    "UserError": "user_error",
    "create": "python.parts_by_name",
    "list_parts": "python.parts_by_name",
    "load": "python.results",
    "preview": "python.preview",
    "register": "registry",
    "run": "python.run",
    "score": "python.score",
    "tokenizer": "python.trained_tokenizer",
}
__all__ = ["__version__", *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with warnings.catch_warnings():  # tqdm, which libraries import, asks notebooks for widgets; we need none
        warnings.filterwarnings("ignore", message="IProgress not found")
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
