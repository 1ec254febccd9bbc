"""A regularizer's training steps over the plain autoencoder's: ten of the default `vit`, batch of 64.

pytest tests/benchmarks/test_steps.py --benchmark-enable -n 0
"""

import time

import pytest
import torch
from helpers.in_turns import in_turns

from latentbench.bench.api import ImageSpec, LatentSpec, Reference
from latentbench.bench.registry import build, create, get, names
from latentbench.bench.training.context import Context
from latentbench.bench.training.losses import Term, l1
from latentbench.bench.training.objective import Objective, TrainingBudget
from latentbench.bench.training.tokenizer import train_tokenizer

STEPS, BATCH = 10, 64
TEACHER = LatentSpec(16, 112, (4, 4))  # effnet_lite0's tokens at 64 px


@pytest.fixture(scope="module")
def digits():
    return create("datasets", "digits")


def built(name):
    cls = get("regularizers", name)
    torch.manual_seed(0)
    outputs = {"expansion": cls.expansion, "extra": cls.extra}
    tokenizer = create("tokenizers", "vit", image=ImageSpec(1, 8, 8), **outputs)
    facts = {"classes": 10, "teacher_spec": TEACHER, "reference_spec": TEACHER, "reference_classes": 10}
    return tokenizer, build("regularizers", name, facts | {"spec": tokenizer.spec}, {})


@pytest.mark.parametrize("name", sorted({*names("regularizers")} - {"none"}))
@pytest.mark.benchmark(timer=time.process_time)  # seconds of CPU: the same beside other work
def test_step(benchmark, name, digits, tmp_path):
    features = torch.randn(digits.size("train"), TEACHER.tokens, TEACHER.channels)
    source = Reference(features, digits.labels("train"), TEACHER.grid)
    count = 1 if benchmark.disabled else STEPS

    def fresh(way):
        tokenizer, regularizer = built(way)
        (tmp_path / way).mkdir(exist_ok=True)  # what is prepared stays for later rounds
        return tokenizer, regularizer, regularizer.reference(source), Context(tmp_path / way)

    def steps(tokenizer, regularizer, reference, context):
        return train_tokenizer(
            tokenizer,
            regularizer,
            digits,
            Objective({"l1": Term(1.0, l1)}),
            TrainingBudget(count, BATCH),
            seed=0,
            optimizer=({}, {}),
            context=context,
            teacher=lambda images, index: features[index],
            reference=reference,
        )

    states = in_turns(benchmark, {name: steps, "none": steps}, prepare=fresh)
    assert all(state.step == count for state in states.values())
