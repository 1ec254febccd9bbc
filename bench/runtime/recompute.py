"""Gradient checkpointing and `torch.compile` for the layers that a network repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .onednn import by_onednn

LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def segments(*networks: nn.Module) -> list[nn.Module]:
    """Transformer layers and residual blocks: modules in lists of modules that have submodules themselves.

    Only the innermost ones, so that a block of layers isn't one segment; each appears once.
    """
    blocks: dict[nn.Module, None] = {}
    for network in networks:
        for container in network.modules():
            if not isinstance(container, LISTS):
                continue
            for module in container.children():
                is_block = not isinstance(module, LISTS) and any(True for _ in module.children())
                if is_block and not segments(module):
                    blocks[module] = None
    return list(blocks)


def recomputable(*networks: nn.Module) -> list[nn.Module]:
    """The segments that can be computed twice: those outside of modules with a true `remembers`.

    Such a module keeps values from one call of a layer to the next, and a second call would find others.
    """
    modules = [module for network in networks for module in network.modules()]
    fixed = {inner for module in modules if getattr(module, "remembers", False) for inner in module.modules()}
    return [segment for segment in segments(*networks) if segment not in fixed]


def prepare(config: Mapping[str, Any], *networks: nn.Module) -> None:
    """Compiles and checkpoints segments where a stage's config says so; weights and their names stay."""
    again = set(recomputable(*networks))
    for segment in segments(*networks):
        if config.get("compile"):
            segment.forward = torch.compile(segment.forward)  # type: ignore[method-assign]
        if config.get("checkpointing") and segment in again:
            segment.forward = computed_again(segment)  # type: ignore[method-assign]


def prepared(segment: nn.Module) -> bool:
    """Whether `prepare` has replaced the segment's forward pass, which must then be called as a whole."""
    return "forward" in vars(segment)


def computed_again(segment: nn.Module) -> Callable[..., Any]:
    """The forward pass; autograd keeps only its inputs, and the backward pass recomputes the rest."""
    forward = segment.forward
    norms = [module for module in segment.modules() if hasattr(module, "num_batches_tracked")]

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[None]]:
        return by_onednn(), _Recomputation(norms)

    def run(*arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **options)
        return checkpoint(forward, *arguments, use_reentrant=False, context_fn=contexts, **options)

    return run


class _Recomputation:
    """Freezes batch norms' statistics while a segment is recomputed, so that no batch counts twice.

    One object serves several backward passes.
    """

    def __init__(self, norms: list[Any]) -> None:
        self.norms = norms

    def __enter__(self) -> None:
        self.onednn = by_onednn()  # the mode of the first pass doesn't reach into a backward pass
        self.onednn.__enter__()
        # Not by `track_running_stats`: without it autograd would keep other tensors than in the first pass.
        self.before = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *_: object) -> None:
        self.onednn.__exit__(None, None, None)
        for norm, (momentum, batches) in zip(self.norms, self.before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
