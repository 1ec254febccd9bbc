"""A run in somebody's process sees torch's defaults, and leaves everything as it was."""

import os
import random

import numpy as np
import pytest
import torch

from latentbench.bench.runtime.standard_settings import flushes_denormals, standard_settings


def state():
    return {
        "threads": torch.get_num_threads(),
        "flush": flushes_denormals(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn": torch.backends.cudnn.deterministic,
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "environment": dict(os.environ),
    }


@pytest.fixture
def odd_settings():
    """What a notebook may have set before it runs something."""
    with standard_settings():
        torch.set_num_threads(2)
        torch.set_flush_denormal(True)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            yield


def disturb():
    torch.set_default_device("meta")
    torch.set_num_threads(3)
    torch.set_flush_denormal(not flushes_denormals())
    torch.set_default_dtype(torch.float16)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    torch.set_grad_enabled(False)
    os.environ["ACCELERATE_OF_A_TEST"] = "1"
    os.environ.pop("HOME", None)


def test_the_block_has_defaults_and_trains_whatever_was_set_before(odd_settings):
    with standard_settings():
        weight = torch.ones(2, requires_grad=True)
        (weight * 2).sum().backward()
        inside = state()
    assert weight.dtype == torch.float32 and weight.grad.tolist() == [2, 2]
    assert inside["matmul"] == "highest" and not inside["deterministic"] and not inside["benchmark"]
    assert inside["gradients"] and not inside["inference"] and not inside["autocast"]


def test_everything_is_as_before_afterwards(odd_settings):
    before = state()
    with standard_settings():
        disturb()
    assert state() == before


def test_everything_is_as_before_after_an_error_too(odd_settings):
    before = state()
    with pytest.raises(KeyboardInterrupt), standard_settings():
        disturb()
        raise KeyboardInterrupt
    assert state() == before


def test_a_device_that_a_block_has_set_is_forgotten():
    before = torch.get_default_device()
    with standard_settings():
        torch.set_default_device("meta")
    assert torch.get_default_device() == before and torch.zeros(1).device == before


@pytest.mark.parametrize("flush", [False, True])
def test_whether_denormals_are_flushed_is_found_out(flush):
    with standard_settings():
        torch.set_flush_denormal(flush)
        assert flushes_denormals() is flush
