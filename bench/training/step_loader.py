"""Makes the `Step` of a tokenizer's update: its images and everything that losses may ask of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from ..api import Dataset, Noise, Reference, Step, Tokenizer
from ..api.transfer import sent
from ..data.augment import Augmentation, augmented
from ..models.latents import decode_batch
from ..runtime.prefetch import BatchReader
from .context import Context
from .objective import TrainingBudget
from .steps import batch_index


class StepLoader:
    """Loads training batches: position, stream and seed alone decide which images and which noise."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        dataset: Dataset,
        budget: TrainingBudget,
        seed: int,
        accelerator: Accelerator,
        context: Context,
        augmentation: Augmentation | None = None,
        teacher: Callable[[Tensor, Tensor], Tensor] | None = None,
        reference: Reference | None = None,
    ) -> None:
        self.tokenizer, self.dataset, self.budget, self.seed = tokenizer, dataset, budget, seed
        self.accelerator, self.group = accelerator, context.group
        self.augmentation, self.teacher, self.reference = augmentation, teacher, reference
        self.size, self.labels = dataset.size("train"), dataset.labels("train")
        self._images = BatchReader(dataset, "train", self._rows, context.loaders, accelerator.device)

    def __call__(self, update: int, position: int, stream: str, views: bool = False) -> Step:
        """The batch at a position of a stream, for an update; `views` also encodes other augmentations."""
        tokenizer, device = self.tokenizer, self.accelerator.device
        index = self._rows(position, stream)
        noise = self.group.noise(Noise(self.seed, ("tokenizer", stream, str(position))))
        labels = None if self.labels is None else sent(self.labels[index], device)
        images, reference, other_views = self._images(position, stream), None, None
        if views:
            with self.accelerator.autocast():
                other_views = tokenizer.encode(self._augment(images, noise.fork("other view"))).float()
        if self.reference is not None:
            samples, batch = self.reference.samples, self.budget.batch
            drawn = batch_index(len(samples), batch, position, self.seed, stream, "reference")
            reference = sent(samples[self.group.rows(drawn)], device)
        images = self._augment(images, noise.fork("view"))
        return Step(
            update,
            images,
            labels,
            noise,
            lambda z, grid=None: decode_batch(tokenizer, z, labels, noise.fork("decoder"), grid),
            self._teacher_features(images, index) if update < self.budget.steps else None,
            reference,
            other_views,
        )

    def first_batch(self) -> tuple[Tensor, Tensor | None]:
        """The images of the first update, of all processes and not augmented, and their labels."""
        index, device = self._batch_index(0, "data"), self.accelerator.device
        images = self.dataset.images("train", index).to(device)
        return images, None if self.labels is None else self.labels[index].to(device)

    def close(self) -> None:
        """Ends the processes that decode images."""
        self._images.close()

    def _batch_index(self, position: int, stream: str) -> Tensor:
        return batch_index(self.size, self.budget.batch, position, self.seed, stream)

    def _rows(self, position: int, stream: str) -> Tensor:
        return self.group.rows(self._batch_index(position, stream))

    def _augment(self, images: Tensor, noise: Noise) -> Tensor:
        return images if self.augmentation is None else augmented(images, noise, self.augmentation)

    @torch.no_grad()
    def _teacher_features(self, images: Tensor, index: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        with self.accelerator.autocast():
            return sent(self.teacher(images, index), self.accelerator.device).float()
