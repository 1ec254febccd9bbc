"""Torch's, numpy's and Python's global settings: their defaults within a run, and the caller's own after it.

A worker process begins with the defaults. A run in a notebook's process must not depend on what the notebook
has set, or its numbers would; nor may it leave anything changed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch


@contextmanager
def standard_settings() -> Iterator[None]:
    """Has torch's default settings within the block, with gradients; afterwards all is as it was before."""
    with ExitStack() as stack:
        for keep in (_torch_settings, _random_streams, _environment):
            stack.enter_context(keep())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def flushes_denormals() -> bool:
    """Whether this thread takes denormal numbers for zero; torch has no function that says so."""
    smallest = torch.full((), torch.finfo(torch.float32).smallest_normal, dtype=torch.float32, device="cpu")
    return not bool(smallest / 2 * 2)


@contextmanager
def _torch_settings() -> Iterator[None]:
    cudnn, device, dtype = torch.backends.cudnn, torch.get_default_device(), torch.get_default_dtype()
    threads, flushes = torch.get_num_threads(), flushes_denormals()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    switches, precision = (cudnn.benchmark, cudnn.deterministic), _matmul_precision()
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(torch.float32)
    if device.type != "cpu":
        torch.set_default_device("cpu")
    if precision is not None:
        torch.set_float32_matmul_precision("highest")
    cudnn.benchmark = cudnn.deterministic = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushes)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        if precision is not None:
            torch.set_float32_matmul_precision(precision)
        cudnn.benchmark, cudnn.deterministic = switches


def _matmul_precision() -> str | None:
    """The precision of products of float32 matrices; None where torch's newer switches were used."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


@contextmanager
def _random_streams() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _environment() -> Iterator[None]:
    """Undoes what libraries such as accelerate leave in environment variables."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
