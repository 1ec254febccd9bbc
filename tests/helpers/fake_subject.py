"""A small cell made of random tensors, for the tests of evaluators."""

import torch

from latentbench.bench.api import (
    Dataset,
    FeatureExtractor,
    ImageSpec,
    LatentSpec,
    Noise,
    Reference,
    Regularizer,
    Subject,
    to_uint8,
)


class FakeDataset(Dataset):
    image, classes = ImageSpec(1, 8, 8), 10

    def __init__(self, train: int, val: int):
        self.sizes = {"train": train, "val": val}

    def size(self, split):
        return self.sizes[split]

    def images(self, split, index):
        return self.sets[split][index]


class FakeExtractor(FeatureExtractor):
    """The pixels themselves, and the four quadrants as tokens."""

    channels, spec = 64, LatentSpec(4, 16, (2, 2))

    def __init__(self, name="pixels"):
        self.name = name

    def protocol(self):
        return {"extractor": self.name}

    def __call__(self, images):
        return images.flatten(1), images.reshape(-1, 4, 16)


class FakeSubject(Subject):
    """Images (train, val, reconstructions, samples) and latents are given, or drawn at random."""

    def __init__(self, train=60, val=20, scope="generator", real=False, extractor="pixels", seed=0, **given):
        generator = torch.Generator().manual_seed(seed)

        def images(n):
            return torch.rand(n, 1, 8, 8, generator=generator) * 2 - 1

        self.scope, self.real, self.left_out = scope, real, {}
        self.dataset, self.noise = FakeDataset(train, val), Noise(seed)
        self.extractors = tuple(map(FakeExtractor, [extractor] if isinstance(extractor, str) else extractor))
        self.sets = {
            "train": images(train),
            "val": images(val),
            "reconstructions": images(val),
            "samples": images(train),
        } | {name: value for name, value in given.items() if name in ("reconstructions", "samples", "val")}
        self.dataset.sets = self.sets
        self.mean_reconstructions = given.get("mean_reconstructions", self.sets["reconstructions"])
        self.samples, self.sample_labels = self.sets["samples"], None
        self.z = given.get("z") or {
            split: torch.randn(n, 4, 3, generator=generator) for split, n in (("train", train), ("val", val))
        }
        self.mean_z = given.get("mean_z", self.z)
        self.references = given.get("references") or {
            split: torch.randn(n, 4, 3, generator=generator) for split, n in (("train", train), ("val", val))
        }
        self.tokenizer, self.regularizer = given.get("tokenizer"), given.get("regularizer")
        self.generator, self.guidance = given.get("generator"), None
        self.facts, self.latent_batch = given.get("facts", {}), given.get("latent_batch")
        self.costs, self.sampling_options = given.get("costs", {}), given.get("sampler", {})

    def images(self, split):
        return to_uint8(self.sets[split])

    def labels(self, split):
        return torch.arange(len(self.sets[split])) % 10

    def sampler(self):
        return self.sampling_options

    def reconstructions(self, deterministic=False):
        return to_uint8(self.mean_reconstructions if deterministic else self.sets["reconstructions"])

    def latents(self, split, deterministic=False):
        return self.mean_z[split] if deterministic else self.z[split]

    def features(self, of, output="pooled", extractor=None):
        return (extractor or self.extractors[0]).describe(self.sets[of], [output])[output]

    def reference_protocol(self, own=False):
        return {"extractor": self.extractors[0].name}

    @property
    def own_reference(self):
        return type(self.regularizer).reference is not Regularizer.reference

    def trajectory(self):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, 0, 4, 3)

    def reference(self, split, own=False):
        reference = Reference(self.references[split])
        return self.regularizer.reference(reference) if own else reference
