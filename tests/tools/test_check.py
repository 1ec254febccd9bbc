"""`bench check`: every check finds the part that breaks it, and nothing else; the command says what to do."""

import json
import re
from pathlib import Path

import pytest
from helpers.fake_subject import FakeSubject
from helpers.run import bench, bench_inline

from latentbench.bench import registry
from latentbench.bench.contracts import (
    datasets,
    evaluators,
    features,
    generators,
    references,
    regularizers,
    tokenizers,
)
from latentbench.bench.contracts.common import Part
from latentbench.bench.tools import check, small_cell

HEAD = '''"""A plugin."""
import torch
from torch import nn
from latentbench.bench.api import *
from latentbench.bench.api import FeatureExtractor, ReferenceSource
from latentbench.bench.registry import register

COUNT = []

'''

REGULARIZER = '''
@register("mine")
class Mine(Regularizer):
    """Mine."""

    def __init__(self, spec: LatentSpec, weight: float = 0.1) -> None:
        super().__init__(spec)
        self.weight = weight
        self.start()

    def start(self):
        pass

    def loss(self, z, h, step):
        return {"mine": self.weight * self.value(z, h, step)}

    def value(self, z, h, step):
        return (z.square().mean(-1).sqrt() - 1).square().mean()
'''
REGULARIZERS = {
    "documented": "__doc__ = None",
    "versioned": "version = 0",
    "declared": 'couples = "rows"',
    "latents": "def latent(self, h, noise, labels=None): return torch.cat([h, h])",
    "draws": "def latent(self, h, noise, labels=None): return h if noise is None else h + torch.rand(())",
    "finite": "def value(self, z, h, step): return 1 / (z - z).square().sum()",
    "reaches": "def value(self, z, h, step): return (z * z.detach().sign()).clamp_min(1e9).mean()",
    "repeats": "def value(self, z, h, step): return z.square().mean() * torch.rand(())",
    "learns": "def start(self): self.unused = nn.Linear(2, 2)",
    "critics": "def start(self): self.net = [nn.Linear(1, 1)]\n"
    "    def critics(self): return {'net': self.net[0]}\n"
    "    def critic_loss(self, name, z, step): return self.net[0](z[..., :1]).square().mean()",
    "shown": "def shown(self, z, step): return [Shown(z + z.mean(0), step.images)]",
    "rows_of_latents": "def latent(self, h, noise, labels=None): return h - h.mean(0)",
    "rows_of_losses": "def value(self, z, h, step): return z.mean(0).square().mean()",
    "inputs": "def value(self, z, h, step): step.labels.zero_(); return z.square().mean()",
    "reloads": "def start(self): self.by = [torch.rand(3)]\n"
    "    def value(self, z, h, step): return z.square().mean() * self.by[0].sum()",
    "on_meta": "def start(self): self.register_buffer('table', torch.zeros(3, device='cpu'))",
    "same_twice": "def begin(self, z): COUNT.append(1)\n"
    "    def value(self, z, h, step): return z.square().mean() * (1 + len(COUNT))",
    "without_weight": "def loss(self, z, h, step): "
    "return {'one': self.weight * z.square().mean(), 'two': z.abs().mean()}",
    "half": "def value(self, z, h, step): return torch.lerp(z, torch.zeros(z.shape), 0.5).square().mean()",
}

TOKENIZER = '''
@register("mine")
class Mine(Tokenizer):
    """Mine."""

    def __init__(self, image: ImageSpec, expansion: int, channels: int = 4) -> None:
        super().__init__(image, expansion)
        pixels = image.channels * image.height * image.width
        self.spec = LatentSpec(1, channels)
        self.decoder = nn.Sequential(
            nn.Linear(channels, pixels), nn.Unflatten(2, (image.channels, image.height, image.width))
        )
        self.encoder = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, -1)))
        self.encoder.append(nn.Linear(pixels, channels * expansion))
        self.start()

    def start(self):
        pass

    @property
    def heads(self):
        return {"encoder": self.encoder[2].weight, "decoder": self.decoder[0].weight}

    def decode(self, z):
        return self.decoder(z)[:, 0]
'''
TOKENIZERS = {
    "documented": "__doc__ = None",
    "versioned": "version = None",
    "shapes": "def decode(self, z): return self.decoder(z)",
    "regrids": "regrids = True",
    "extra_outputs": "plain = __init__\n"
    "    def __init__(self, image: ImageSpec, expansion: int, channels: int = 4, extra: int = 0) -> None:\n"
    "        Mine.plain(self, image, expansion, channels)",
    "repeats": "def encode(self, images): return self.encoder(images + torch.rand(()))",
    "rows": "def encode(self, images): return self.encoder(images - images.mean(0))",
    "learns": "def start(self): self.decoder.append(nn.Identity()); self.decoder.bias = "
    "nn.Parameter(torch.zeros(1))",
    "halves": "heads = property(lambda self: "
    "{'encoder': self.decoder[0].weight, 'decoder': self.encoder[2].weight})",
    "inputs": "def decode(self, z): return self.decoder(z.clamp_(-0.1, 0.1))[:, 0]",
    "reloads": "def start(self): self.by = [torch.rand(3)]\n"
    "    def encode(self, images): return self.encoder(images * self.by[0].sum())",
    "probed": "def features(self, images): return self.encode(images)",
    "seeded": "def start(self): COUNT.append(1); "
    "self.encoder.register_buffer('count', torch.tensor(float(len(COUNT))))",
    "starts_alike": "def start(self): nn.init.normal_(self.decoder[0].weight)",
    "on_meta": "def start(self): self.register_buffer('table', torch.zeros(3, device='cpu'))",
    "half": "def encode(self, images): return torch.lerp(torch.zeros(()).expand(len(images), 1, 1)"
    ", self.encoder(images), 0.5)",
}

GENERATOR = '''
@register("mine")
class Mine(Generator):
    """Mine."""

    def __init__(self, spec: LatentSpec, classes: int, width: int = 8) -> None:
        super().__init__(spec, classes)
        self.net = nn.Linear(spec.channels, spec.channels)
        self.start()

    def start(self):
        pass

    def loss(self, z, labels, noise):
        e = noise.normal(z)
        return {"mine": (self.net(e) - z - e).square().mean()}

    def sample(self, labels, guidance, noise, *, steps: int = 1):
        like = torch.empty(len(labels), self.spec.tokens, self.spec.channels)
        return self.net(noise.normal(like))
'''
LIKELIHOOD = GENERATOR.replace("Mine(Generator)", "Mine(Likelihood)") + (
    "\n    def log_prob(self, z, labels): return self.net(z).square().sum((1, 2)) * (1 + 0 * len(z))\n"
)
FLOW = GENERATOR.replace("Mine(Generator)", "Mine(Flow)") + (
    "\n    def velocity(self, x, t, labels, tap=None): "
    "return self.net(x) if tap is None else (self.net(x), x)\n"
)
GUIDED = FLOW.replace("noise, *, steps: int = 1):", "noise, weak=None, *, steps: int = 1):")
GENERATORS = {
    "documented": "__doc__ = None",
    "versioned": "version = '1'",
    "trains": "def start(self): self.unused = nn.Linear(2, 2)",
    "repeats": "def loss(self, z, labels, noise): "
    "return {'mine': (self.net(z) * torch.rand(())).square().mean()}",
    "samples": "def sample(self, labels, guidance, noise): "
    "return self.net(torch.randn(len(labels), self.spec.tokens, self.spec.channels))",
    "rows": "def sample(self, labels, guidance, noise):\n"
    "        z = noise.normal(torch.empty(len(labels), self.spec.tokens, self.spec.channels))\n"
    "        return self.net(z - z.mean(0) + z.mean())",
    "learns": "def loss(self, z, labels, noise): return {'mine': -(self.net(z) - z).square().mean()"
    " * (1 if self.training else -1)}",
    "inputs": "def loss(self, z, labels, noise): return {'mine': self.net(z.mul_(0.9)).square().mean()}",
    "reloads": "def start(self): self.by = [torch.rand(3)]\n"
    "    def sample(self, labels, guidance, noise): return self.by[0].sum() * "
    "noise.normal(torch.empty(len(labels), self.spec.tokens, self.spec.channels))",
    "on_meta": "def start(self): self.register_buffer('table', torch.zeros(3, device='cpu'))",
    "sampler": "def sample(self, labels, guidance, noise, steps: int = 1): "
    "return self.net(noise.normal(torch.empty(len(labels), self.spec.tokens, self.spec.channels)))",
    "half": "def loss(self, z, labels, noise): "
    "return {'mine': torch.lerp(z, self.net(z), 0.5).square().mean()}",
    "likelihood": "def log_prob(self, z, labels): return self.net(z - z.mean(0)).square().sum((1, 2))",
    "velocity": "def velocity(self, x, t, labels, tap=None): return self.net(x)",
    "guided_by": "changed = 0",  # takes `weak` and leaves it
}

DATASET = '''
@register("mine")
class Mine(Dataset):
    """Mine."""

    image, classes = ImageSpec(1, 4, 4), 10

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fingerprint(self):
        return f"{self.seed:064x}"

    def size(self, split):
        return 100

    def images(self, split, index):
        seed = 2 * self.seed + (split == "train")
        generator = torch.Generator().manual_seed(seed)
        return self.scaled(torch.rand(100, 1, 4, 4, generator=generator))[index]

    def scaled(self, x):
        return x * 2 - 1

    def labels(self, split):
        return torch.arange(100) % 10
'''
DATASETS = {
    "documented": "__doc__ = None",
    "versioned": "version = 0",
    "sizes": "def size(self, split): return {'train': 100, 'val': 1}[split]",
    "images": "def scaled(self, x): return x * 255",
    "labels": "def labels(self, split): return torch.arange(100) % 11",
    "disjoint": "def images(self, split, index): return torch.rand(100, 1, 4, 4, "
    "generator=torch.Generator().manual_seed(self.seed))[index]",
    "repeats": "def labels(self, split): return torch.randint(10, (100,))",
    "fingerprint": "def fingerprint(self): return '0' * 64",
}

EXTRACTOR = '''
@register("mine")
class Mine(FeatureExtractor):
    """Mine."""

    name, channels, spec = "mine", 4, LatentSpec(1, 4)

    def __init__(self, scale: int = 1) -> None:
        self.scale = scale

    def fingerprint(self):
        return "0" * 64

    def protocol(self):
        return {"weights": "0" * 64, "rounding": "8 bits", "scale": self.scale}

    def __call__(self, images):
        from latentbench.bench.data.images import round_to_8_bits
        pooled = self.scale * round_to_8_bits(images).flatten(1)[:, :2].repeat(1, 2)
        return pooled, pooled[:, None]
'''
POOLED = "        return pooled, pooled[:, None]"
EXTRACTORS = {
    "documented": "__doc__ = None",
    "versioned": "version = 0",
    "outputs": "channels = 5",
    "repeats": "def __call__(self, images): x = self._(images) * torch.rand(()); return x, x[:, None]",
    "rows": "def __call__(self, images): x = self._(images); x = x - x.mean(0); return x, x[:, None]",
    "each": "def describe(self, images, outputs): return {n: torch.zeros(len(images), 4) for n in outputs}",
    "rounds": "def __call__(self, images): x = images.flatten(1)[:, :2].repeat(1, 2) * self.scale; "
    "return x, x[:, None]",
    "inputs": "def __call__(self, images): x = self._(images.clamp_(-0.5, 0.5)); return x, x[:, None]",
    "protocol": "def protocol(self): return {'weights': '0' * 64, 'rounding': '8 bits'}",
}

REFERENCE = '''
@register("mine")
class Mine(ReferenceSource):
    """Mine."""

    spec = LatentSpec(1, 3)

    def draw(self, split, dataset, tokens, pooled):
        generator = torch.Generator().manual_seed(len(split))
        return Reference(torch.randn(dataset.size(split), 1, 3, generator=generator))
'''
REFERENCES = {
    "documented": "__doc__ = None",
    "versioned": "version = 0",
    "samples": "labelled = True",
    "repeats": "def draw(self, split, dataset, tokens, pooled): "
    "return Reference(torch.randn(dataset.size(split), 1, 3))",
    "fresh": "def draw(self, split, dataset, tokens, pooled): "
    "return Reference(torch.arange(3 * dataset.size(split)).float().view(-1, 1, 3))",
    "inputs": "def draw(self, split, dataset, tokens, pooled): "
    "return Reference(tokens.mul_(0.99)[:, :1, :3].clone())",
}

EVALUATOR = '''
from latentbench.bench.models.latents import CHUNK

@register("mine")
class Mine(Evaluator):
    """Mine."""

    metrics = {"error": Metric("tokenizer", False, "", "The mean squared error of reconstructions.")}

    def errors(self, subject):
        gap = subject.reconstructions().float() - subject.images("val").float()
        return gap.square().flatten(1).mean(1)

    def run(self, subject):
        return {"error": self.errors(subject).mean().item()}

    def protocol(self, name, subject):
        return {"n": len(subject.images("val"))}
'''
EVALUATORS = {
    "documented": "__doc__ = None",
    "versioned": "version = 0",
    "declared": "metrics = {'error': Metric('tokenizer', False)}",
    "fingerprint": "def fingerprint(self): COUNT.append(1); return str(len(COUNT))",
    "values": "def run(self, subject): return {'error': float('inf')}",
    "repeats": "def run(self, subject): COUNT.append(1); "
    "return {'error': self.errors(subject).mean().item() * (1 + len(COUNT) / 1000)}",
    "chunks": "def run(self, subject): "
    "return {'error': sum(e.mean().item() for e in self.errors(subject).split(CHUNK))}",
    "inputs": "def run(self, subject): subject.latents('val').mul_(0.9); return {'error': 1.0}",
    "directions": "metrics = {'error': Metric('tokenizer', True, '', 'The error.')}",
    "figures": "def figures(self, subject): return {'error': torch.zeros(3, 3)}",
}
KINDS = {
    "regularizers": (regularizers, REGULARIZER, REGULARIZERS),
    "tokenizers": (tokenizers, TOKENIZER, TOKENIZERS),
    "generators": (generators, GENERATOR, GENERATORS),
    "datasets": (datasets, DATASET, DATASETS),
    "features": (features, EXTRACTOR, EXTRACTORS),
    "references": (references, REFERENCE, REFERENCES),
    "evaluators": (evaluators, EVALUATOR, EVALUATORS),
}
# What is wrong in these has further consequences.
MORE = {
    "regularizers": {
        "latents": {"draws", "rows_of_losses", "same_twice", "without_weight", "learns", "inputs"},
        "draws": {"rows_of_latents", "repeats", "reloads", "without_weight"},
        "finite": {"reaches", "repeats", "rows_of_losses", "reloads", "same_twice", "without_weight", "half"},
        "rows_of_latents": {"rows_of_losses"},
        "repeats": {"rows_of_losses", "reloads"},
    },
    "tokenizers": {"repeats": {"rows", "reloads"}, "seeded": {"starts_alike"}},
    "generators": {"samples": {"rows", "reloads"}, "inputs": {"repeats"}},
    "datasets": {"repeats": {"fingerprint"}, "sizes": {"labels"}},
    "features": {"repeats": {"rows", "each", "rounds"}},
    "references": {"inputs": {"repeats"}},
    "evaluators": {"repeats": {"chunks"}},
}


def plugin(folder, text, broken=""):
    file = folder / "mine.py"
    file.write_text(f"{HEAD}{text}\n    {broken}\n")
    return file


def checked(kind, folder, text, broken=""):
    """The lines of all checks but that of cost, by the name of the check, without a cell."""
    module = KINDS[kind][0]
    registry.load_plugin(plugin(folder, text, broken))
    part = Part(kind, "mine")
    if kind == "evaluators":
        scene = evaluators.Scene(part, [lambda: FakeSubject(scope="tokenizer", val=60)])
    else:
        scene = module.Scene(part, module.SETTINGS[0])
    chosen = [one for one in module.CHECKS if one.__name__ != "cost"]
    return {one.__name__: check.look(one.__doc__, one, scene) for one in chosen}


def texts(kind, name):
    text = KINDS[kind][1]
    if kind == "generators":
        return {"likelihood": LIKELIHOOD, "velocity": FLOW, "guided_by": GUIDED}.get(name, text)
    if kind == "features":
        more = "\n    def _(self, images): return self.scale * images.flatten(1)[:, :2].repeat(1, 2)\n"
        return text + more
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_part_keeps_every_promise(kind, tmp_path):
    lines = checked(kind, tmp_path, texts(kind, ""))
    assert not {name: line.found for name, line in lines.items() if line.ok is False}
    assert all("\n" not in line.text for line in lines.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_check_has_a_part_that_breaks_it(kind):
    module, _, broken = KINDS[kind]
    assert {one.__name__ for one in module.CHECKS} - {"cost"} == set(broken)


@pytest.mark.parametrize("kind, name", [(kind, name) for kind in KINDS for name in KINDS[kind][2]])
def test_a_check_finds_the_part_that_breaks_it_and_says_why(kind, name, tmp_path):
    lines = checked(kind, tmp_path, texts(kind, name), KINDS[kind][2][name])
    broken = {key: line.found for key, line in lines.items() if line.ok is False}
    assert name in broken and len(broken[name]) > 20
    assert set(broken) - {name} <= MORE.get(kind, {}).get(name, set())


# --- the cell, and the command -----------------------------------------------------------------------------


def test_the_plugin_of_the_readme_passes_with_its_row_of_a_leaderboard(tmp_path):
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (tmp_path / "shell.py").write_text(
        readme.split("<!-- file: shell.py -->\n```python\n")[1].split("```")[0]
    )
    done = bench("check", "shell.py", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (verdict,) = json.loads(done.stdout)
    assert (verdict["kind"], verdict["name"], verdict["passed"]) == ("regularizers", "shell", True)
    rows = [line.split()[:2] for line in verdict["leaderboard"].splitlines()]
    assert ["gaussian", "shell"] in rows and ["gaussian", "none"] in rows
    assert sorted(file.name for file in tmp_path.iterdir()) == ["shell.py"]  # nothing is left behind


def test_an_evaluator_is_asked_about_a_real_cell(tmp_path):
    text = EVALUATOR + "\n    run_ = 0\n"
    (target,) = check.targets(str(plugin(tmp_path, text, EVALUATORS["chunks"])), {})
    verdict = check.Verdict(target)
    broken = [line for line in verdict.lines() if line.ok is False]
    assert [line.promise for line in broken] == ["Numbers don't depend on the size of chunks"]
    assert "chunks of 128" in broken[0].found and not verdict.passed
    assert "error" in verdict.rows


def test_a_part_that_fails_in_the_cell_alone_is_told_with_the_reason(tmp_path):
    late = "def value(self, z, h, step): return z.square().mean() * (float('nan') if step.index > 5 else 1)"
    (target,) = check.targets(str(plugin(tmp_path, REGULARIZER, late)), {"weight": 0.5})
    line = check.look(check.CELL, small_cell.run_target, target, tmp_path)
    assert line.ok is False and "'mine' is nan at step 7" in line.found


def test_the_command_says_what_is_broken_and_exits_with_1(tmp_path):
    start = "def start(self): raise RuntimeError('no such thing')"
    plugin(tmp_path, REGULARIZER, start)
    done = bench_inline("check", "mine.py", cwd=tmp_path)
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("\u2717"))
    assert re.search(r"mine\.py:\d+: RuntimeError: no such thing", line)
    assert "0 kept, 1 broken" in done.stdout


def test_files_names_and_options_that_make_no_sense_are_told(tmp_path):
    both = plugin(tmp_path, REGULARIZER + DATASET)
    assert len(check.targets(str(both), {})) == 2
    empty, bad = tmp_path / "empty.py", tmp_path / "bad.py"
    empty.write_text("x = 1\n")
    bad.write_text("import nothing_of_this_name\n")
    for what, options, told in (
        (str(both), {"weight": 1.0}, "-o is for one part"),
        (str(empty), {}, "registers no part"),
        (str(bad), {}, "cannot be used"),
        ("gaussian", {}, "generators/gaussian, references/gaussian"),
        ("kll", {}, "did you mean 'kl'"),
        ("kl", {"wieght": 1.0}, "did you mean 'weight'"),
        ("kl", {"weight": -1.0}, "a number >= 0"),
    ):
        with pytest.raises((check.CheckError, registry.PartError), match=re.escape(told)):
            check.targets(what, options)


def test_options_are_read_as_a_matrix_would():
    read = check.options(["weight=1e-3", "anchors=image", "times=[0, 1]", "norm=true", "file=null"])
    assert read == {"weight": 1e-3, "anchors": "image", "times": [0, 1], "norm": True, "file": None}
    with pytest.raises(check.CheckError, match="NAME=VALUE"):
        check.options(["weight"])


def test_a_device_that_is_not_here_is_refused_before_anything_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = bench_inline("check", "kl", "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 2 and "--device cuda: torch finds no CUDA device here" in done.stderr
    assert not done.stdout
