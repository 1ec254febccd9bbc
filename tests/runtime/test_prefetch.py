"""Images that are read ahead: the same ones in the same order, whatever reads them and wherever it starts."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.eight_bit_images import Levels, steps
from helpers.machines import with_mounts
from helpers.run import gone_within, workers_of

from latentbench.bench.models.latents import encode
from latentbench.bench.registry import create
from latentbench.bench.runtime.prefetch import BatchReader, prefetch
from latentbench.bench.training.context import Context, Stopped
from latentbench.bench.training.losses import RECONSTRUCTION, Term
from latentbench.bench.training.objective import Objective, TrainingBudget
from latentbench.bench.training.steps import batch_index
from latentbench.bench.training.tokenizer import train_tokenizer


class Kept(Levels):
    decodes = False


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_images_come_in_the_order_of_the_indices_with_any_number_of_workers(workers):
    dataset = Levels()
    found = list(prefetch(dataset, "train", steps(7), workers))
    expected = [dataset.images("train", index) for index in steps(7)]
    assert len(found) == 7 and all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_only_workers_read_what_decodes_and_nobody_what_does_not():
    here, away, kept = Levels(), Levels(), Kept()
    for dataset, workers in ((here, 0), (away, 1), (kept, 1)):
        list(prefetch(dataset, "train", steps(2), workers))
    assert here.read == kept.read == [index.tolist() for index in steps(2)] and away.read == []


READS = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from helpers.eight_bit_images import Levels, steps
from latentbench.bench.runtime.prefetch import loaders_work, prefetch

dataset = Levels(size=64)  # 98 kB a batch
found = list(prefetch(dataset, "train", steps(7), 2))
print(loaders_work(), bool(dataset.read))
expected = [dataset.images("train", index) for index in steps(7)]
assert len(found) == 7 and all(map(torch.equal, found, expected))
"""


@pytest.mark.parametrize(
    "options, said",
    [
        pytest.param("ro", "False True", id="none"),
        pytest.param("size=128k", "True False", id="too small for the images"),
        pytest.param("size=20k", "True True", id="too small for semaphores"),
    ],
)
def test_images_are_read_ahead_with_little_shared_memory_and_at_all_without(options, said):
    """`said`: whether there are semaphores, and whether the images were read in the process that asked."""
    words = [sys.executable, "-c", READS, str(Path(__file__).parents[1])]
    done = with_mounts({"/dev/shm": options}, words, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == said


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_leaves_torchs_global_generator_alone(workers):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    images = prefetch(Levels(), "train", steps(3), workers)
    next(images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_reader_serves_streams_side_by_side_from_any_position(workers):
    dataset = Levels()

    def index(position, stream):
        return batch_index(40, 4, position, stream)

    read = BatchReader(dataset, "train", index, workers)
    for position, stream in [
        (5, "data"),
        (6, "data"),
        (20, "critic"),
        (21, "critic"),
        (7, "data"),
        (2, "data"),
    ]:
        expected = dataset.images("train", index(position, stream))
        assert torch.equal(read(position, stream), expected)
    read.close()


def test_an_image_that_cannot_be_read_is_named_in_the_process_that_asked():
    class Broken(Levels):
        def images(self, split, index):
            raise ValueError("x.JPEG cannot be decoded")

    with pytest.raises(ValueError, match="x.JPEG cannot be decoded"):
        next(prefetch(Broken(), "train", steps(2), workers=1))


def trained(folder, loaders, stop=None, dataset=None):
    """Weights after 6 steps, stopped before step `stop` and taken up again."""
    dataset = dataset or Levels()
    folder.mkdir(exist_ok=True)
    for stopping in (stop, None) if stop is not None else (None,):
        torch.manual_seed(0)
        tokenizer = create("tokenizers", "conv", image=dataset.image, expansion=1, width=4)
        regularizer = create("regularizers", "none", spec=tokenizer.spec)
        asked = iter(range(1000))
        context = Context(
            folder, stopping=lambda n=stopping, a=asked: n is not None and next(a) + 1 >= n, loaders=loaders
        )
        try:
            train_tokenizer(
                tokenizer,
                regularizer,
                dataset,
                Objective({"l1": Term(1.0, RECONSTRUCTION["l1"])}),
                TrainingBudget(6, 8, refine_steps=2),
                seed=0,
                optimizer=({}, {}),
                context=context,
            )
        except Stopped:
            assert stopping is not None
    return tokenizer


def same(a, b):
    return all(
        torch.equal(*pair) for pair in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_training_gives_the_same_weights_with_any_number_of_workers_and_resumed(tmp_path):
    straight = trained(tmp_path / "0", loaders=0)
    assert same(straight, trained(tmp_path / "1", loaders=2))
    assert same(straight, trained(tmp_path / "2", loaders=1, stop=3))
    assert same(straight, trained(tmp_path / "3", loaders=0, dataset=Kept()))


def test_latents_are_the_same_with_and_without_workers():
    dataset = Levels(300)  # three chunks, the last not full
    tokenizer = create("tokenizers", "conv", image=dataset.image, expansion=1, width=4)
    alone, helped = (encode(tokenizer, dataset, "train", "cpu", loaders=n) for n in (0, 2))
    assert len(alone) == 300 and torch.equal(alone, helped)


PROGRAM = """
import sys, time, torch
sys.path.insert(0, {tests!r})
from helpers.eight_bit_images import Levels, steps
from helpers.machines import with_mounts
from latentbench.bench.runtime.prefetch import prefetch
images = prefetch(Levels(), "train", steps(50), 2)
next(images)
print("reading", flush=True)
time.sleep(60)
"""


def test_reading_processes_end_with_the_one_that_is_killed(tmp_path):
    program = PROGRAM.format(tests=str(Path(__file__).resolve().parents[1]))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "reading\n"
    readers = workers_of(process.pid)
    assert len(readers) == 2
    process.kill()
    process.wait()
    assert gone_within(5, readers)


def test_reading_processes_end_with_the_reading():
    import os

    others = set(workers_of(os.getpid()))
    images = prefetch(Levels(), "train", steps(50), 2)
    next(images)
    readers = set(workers_of(os.getpid())) - others
    del images
    time.sleep(0.1)
    assert len(readers) >= 2 and gone_within(30, readers)  # one is who was asked


ABANDONED = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import torch
from multiprocessing import connection, get_context, process
from multiprocessing.resource_sharer import DupFd
from latentbench.bench.runtime.prefetch import _start_worker

def serve(pipe):
    _start_worker(0)
    pipe.send(DupFd(0)._id[0])  # a thread waits there for a process that takes shared memory
    pipe.recv()
    raise SystemExit

context = get_context("fork")
here, there = context.Pipe()
worker = context.Process(target=serve, args=(there,))
worker.start()
address = here.recv()
connection.SocketClient(address).close()  # a process that dies before it says which
time.sleep(0.3)
here.send(None)
worker.join()
"""


def test_a_process_that_reads_ahead_says_nothing_when_the_training_process_is_killed():
    words = [sys.executable, "-c", ABANDONED, str(Path(__file__).parents[1])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
