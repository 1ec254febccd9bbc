"""The layers that a network repeats: what gradient checkpointing computes again, and what torch compiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from .onednn import by_onednn

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
    norms = [module for module in segment.modules() if isinstance(module, _NormBase)]

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[None]]:
        return by_onednn(), _Again(norms)

    def run(*arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **options)
        return checkpoint(forward, *arguments, use_reentrant=False, context_fn=contexts, **options)

    return run


class _Again:
    """Batch norms have taken in this batch already; one object serves several backward passes."""

    def __init__(self, norms: list[_NormBase]) -> None:
        self.norms = norms

    def __enter__(self) -> None:
        self.products = by_onednn()  # the first pass's doesn't reach into a backward pass
        self.products.__enter__()
        # With `track_running_stats` off they would keep other tensors than in the first pass.
        self.before = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *_: object) -> None:
        self.products.__exit__(None, None, None)
        for norm, (momentum, seen) in zip(self.norms, self.before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, seen
