"""The layers that a network repeats: what gradient checkpointing computes again, and what torch compiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def segments(*networks: nn.Module) -> list[nn.Module]:
    """Transformer layers and residual blocks: what stands in lists of modules and is made of modules.

    The innermost ones, so that a block of layers isn't one segment, each once.
    """
    found: dict[nn.Module, None] = {}
    for network in networks:
        for container in network.modules():
            if not isinstance(container, LISTS):
                continue
            for module in container.children():
                whole = not isinstance(module, LISTS) and any(True for _ in module.children())
                if whole and not segments(module):
                    found[module] = None
    return list(found)


def prepare(config: Mapping[str, Any], *networks: nn.Module) -> None:
    """What a stage's config asks for, before its training; weights and their names stay as they are."""
    for segment in segments(*networks):
        if config.get("compile"):
            segment.forward = torch.compile(segment.forward)  # type: ignore[method-assign]
        if config.get("checkpointing"):
            segment.forward = computed_again(segment)  # type: ignore[method-assign]


def computed_again(segment: nn.Module) -> Callable[..., Any]:
    """Its forward pass, of which autograd keeps the inputs alone; the backward pass starts with it anew."""
    forward = segment.forward
    norms = [m for m in segment.modules() if isinstance(m, _NormBase) and m.track_running_stats]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _untracked(norms)

    def run(*arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **options)
        return checkpoint(forward, *arguments, use_reentrant=False, context_fn=contexts, **options)

    return run


@contextmanager
def _untracked(norms: list[_NormBase]) -> Iterator[None]:
    """Batch norms have taken in this batch already."""
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
