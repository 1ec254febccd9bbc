"""A dataset of random 8-bit images that counts what is read of it."""

import torch

from latentbench.bench.api import Dataset, ImageSpec, from_uint8
from latentbench.bench.training.steps import batch_index


class Levels(Dataset):
    """Random 8-bit images; it counts what this process reads."""

    decodes = True
    classes = 0

    def __init__(self, n=40, size=8):
        self.image = ImageSpec(3, size, size)
        rng = torch.Generator().manual_seed(0)
        self.stored = torch.randint(256, (n, 3, size, size), generator=rng).byte()
        self.read = []

    def size(self, split):
        return len(self.stored)

    def images(self, split, index):
        self.read.append(index.tolist())
        return from_uint8(self.stored[index])

    def labels(self, split):
        return None


def steps(n, size=40):
    return [batch_index(size, 8, step, "data") for step in range(n)]
