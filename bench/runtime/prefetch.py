"""Images decoded ahead by worker processes, in the order in which they are needed.

The images depend neither on the number of processes nor on where a run was resumed.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import count
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data

from ..api import Dataset, Split, from_uint8
from ..api.returned import checked_images
from ..api.transfer import pinned, sent
from .parent import die_with_parent

AHEAD = 2  # batches that a process decodes before they are needed


class _EightBitImages(data.Dataset[Tensor | NDArray[np.uint8]]):
    """The images of an index as uint8: a quarter of the bytes of float32 to send between processes.

    A process sends them by shared memory or, where that is full (containers often have 64 MB), as an array,
    which goes through a pipe: an error while they are sent would leave the reader waiting for ever. For the
    same reason an index is an array.
    """

    def __init__(self, dataset: Dataset, split: Split) -> None:
        self.dataset, self.split = dataset, split

    def __getitem__(self, index: NDArray[np.int64]) -> Tensor | NDArray[np.uint8]:
        given = self.dataset.levels(self.split, torch.from_numpy(index))
        levels = checked_images(self.dataset, "levels", given, len(index))
        if data.get_worker_info() is None:
            return levels
        try:
            return levels.share_memory_()
        except RuntimeError:  # torch finds no room in /dev/shm
            return levels.numpy()


def prefetch(
    dataset: Dataset,
    split: Split,
    indices: Iterable[Tensor],
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Images (B, c, H, W) of one index (B,) after the other, on a device.

    With workers, `indices` are consumed further than images are taken; they may be endless. Datasets that
    don't decode files, or decode by a network, are read without workers, and so are all where processes
    cannot share semaphores.
    """
    if not dataset.decodes:
        for index in indices:
            yield sent(checked_images(dataset, "images", dataset.images(split, index), len(index)), device)
        return
    images = _EightBitImages(dataset, split)
    ahead = 0 if dataset.decoded or not loaders_work() else workers  # a network stays in its process
    for levels in _batches(images, indices, ahead, device):
        yield from_uint8(torch.as_tensor(levels).to(device, non_blocking=True))


def _batches(
    images: _EightBitImages, indices: Iterable[Tensor], workers: int, device: torch.device | str
) -> Iterator[Any]:
    """The 8-bit images of each index; without processes if there is no room for their semaphores."""
    loader = data.DataLoader(
        images,
        batch_size=None,
        collate_fn=_as_it_is,
        sampler=(index.numpy() for index in indices),
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        # A forked process has the dataset's file list and plugins without importing torch again.
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_start_worker,
        pin_memory=torch.device(device).type == "cuda",
        generator=torch.Generator(),  # else the loader draws a seed from torch's global generator
    )
    try:
        return iter(loader)
    except OSError:  # /dev/shm is full, and no index has been taken yet
        if not workers:
            raise
        return _batches(images, indices, 0, device)


@cache
def loaders_work() -> bool:
    """Whether this machine has the semaphores that loaders' queues need: they lie in /dev/shm."""
    try:
        multiprocessing.get_context("fork").Lock()
    except (ImportError, OSError, ValueError):  # without the system call; without the folder; on Windows
        return False
    return True


def _as_it_is(levels: Any) -> Any:
    """A batch as the dataset gives it: torch's own function would make a tensor of an array too early."""
    return levels


class BatchReader:
    """Reads the images of training steps ahead, by position in one or more streams.

    Positions of a stream should follow each other; any other position restarts the stream's reading there.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        index: Callable[[int, str], Tensor],
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            index: maps (position, stream) to the images' indices (B,).
        """
        self.dataset, self.split, self.index = dataset, split, index
        self.workers, self.device = workers, device
        self._open: dict[str, tuple[int, Iterator[Tensor]]] = {}

    def __call__(self, position: int, stream: str) -> Tensor:
        """The images (B, c, H, W) at a position of a stream."""
        due, images = self._open.get(stream, (None, iter(())))
        if due != position:
            indices = (self.index(later, stream) for later in count(position))
            images = prefetch(self.dataset, self.split, indices, self.workers, self.device)
        self._open[stream] = position + 1, images
        return next(images)

    def close(self) -> None:
        """Ends the worker processes."""
        self._open.clear()


class Ahead:
    """Reads the tensors of training steps; for a GPU, those of the next step during the current one.

    A thread reads them into pinned memory, so that the copy to the GPU is asynchronous too.
    """

    def __init__(self, read: Callable[[int], tuple[Tensor, ...]], device: torch.device | str) -> None:
        self.read, self.thread = read, None
        if torch.device(device).type == "cuda":
            self.thread = ThreadPoolExecutor(1)
        self._due: tuple[int, Future[tuple[Tensor, ...]]] | None = None

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        if self.thread is None:
            return self.read(step)
        if self._due and self._due[0] == step:
            tensors = self._due[1].result()
        else:
            tensors = self._pinned(step)
        self._due = step + 1, self.thread.submit(self._pinned, step + 1)
        return tensors

    def _pinned(self, step: int) -> tuple[Tensor, ...]:
        return tuple(map(pinned, self.read(step)))

    def close(self) -> None:
        """Ends the reading thread."""
        if self.thread is not None:
            self.thread.shutdown()


def _start_worker(worker: int) -> None:
    """Lets a worker process end with the training process, which alone handles interrupts."""
    die_with_parent()
    sys.excepthook = _report
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints an error unless it is that the training process has gone, with which this process ends too.

    torch sends errors of the dataset to the training process; what is printed is of the thread that hands
    shared memory over.
    """
    if not isinstance(error, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
