"""Images decoded ahead by worker processes, in the order in which they are asked for.

What comes out depends neither on the number of processes nor on where a run was resumed.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count

import torch
from torch import Tensor
from torch.utils import data

from ..api import Dataset, Split, from_uint8
from .parent import die_with_parent

AHEAD = 2  # batches that a process decodes before they are asked for


class _Levels(data.Dataset[Tensor]):
    """The images of an index, as the 8 bits that they are: a quarter of the bytes to hand over."""

    def __init__(self, dataset: Dataset, split: Split) -> None:
        self.dataset, self.split = dataset, split

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.dataset.levels(self.split, index)


def prefetch(
    dataset: Dataset,
    split: Split,
    indices: Iterable[Tensor],
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Images (B, c, H, W) of one index (B,) after the other, on a device.

    With workers `indices` are drawn further than images are taken: they may be endless. Datasets that don't
    decode are read here and now.
    """
    if not dataset.decodes:
        yield from (dataset.images(split, index).to(device) for index in indices)
        return
    loader = data.DataLoader(
        _Levels(dataset, split),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        # A fork has the dataset's listing, and plugins, without importing torch again.
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_begin,
        pin_memory=torch.device(device).type == "cuda",
        generator=torch.Generator(),  # else the loader draws a seed from torch's global one
    )
    for levels in loader:
        yield from_uint8(levels.to(device, non_blocking=True))


class BatchReader:
    """Images of a training's steps: positions in one or more streams, each read ahead of its latest one.

    Positions of a stream are expected one after the other; another one starts its reading anew.
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
            index: (position, stream) -> (B,): which images.
        """
        self.dataset, self.split, self.index = dataset, split, index
        self.workers, self.device = workers, device
        self._open: dict[str, tuple[int, Iterator[Tensor]]] = {}

    def __call__(self, position: int, stream: str) -> Tensor:
        """The images (B, c, H, W) of a position."""
        due, images = self._open.get(stream, (None, iter(())))
        if due != position:
            indices = (self.index(one, stream) for one in count(position))
            images = prefetch(self.dataset, self.split, indices, self.workers, self.device)
        self._open[stream] = position + 1, images
        return next(images)

    def close(self) -> None:
        """Ends the processes."""
        self._open.clear()


class Ahead:
    """Tensors of one training step after the other; for a GPU, those of the next are read meanwhile.

    A thread reads them, into pinned memory, so that copying them to the GPU doesn't wait either.
    """

    def __init__(self, read: Callable[[int], tuple[Tensor, ...]], device: torch.device | str) -> None:
        self.read, self.thread = read, None
        if torch.device(device).type == "cuda":
            self.thread = ThreadPoolExecutor(1)
        self._due: tuple[int, Future[tuple[Tensor, ...]]] | None = None

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        if self.thread is None:
            return self.read(step)
        found = self._due[1].result() if self._due and self._due[0] == step else self._pinned(step)
        self._due = step + 1, self.thread.submit(self._pinned, step + 1)
        return found

    def _pinned(self, step: int) -> tuple[Tensor, ...]:
        return tuple(tensor.pin_memory() for tensor in self.read(step))

    def close(self) -> None:
        """Ends the thread."""
        if self.thread is not None:
            self.thread.shutdown()


def _begin(worker: int) -> None:
    """A reading process ends with the one that trains, which alone decides what a signal means."""
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
