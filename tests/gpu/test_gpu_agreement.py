"""Losses, samples and metrics of a GPU are those of the CPU within the bounds of helpers/gpu.py."""

import pytest
import torch
from helpers.gpu import BOUNDS, GPU, computing, require_close
from torch.nn import functional as F

from latentbench.bench.api import Noise, Unfit
from latentbench.bench.contracts import generators, regularizers, tokenizers
from latentbench.bench.contracts.common import Part, rand_images, randn
from latentbench.bench.metrics.epps_pulley import sigreg
from latentbench.bench.metrics.frechet import frechet_distance
from latentbench.bench.metrics.kernel import kernel_distance
from latentbench.bench.metrics.local_correlation import local_correlation
from latentbench.bench.metrics.lpips import Distance, Lpips
from latentbench.bench.metrics.precision_recall import precision_recall
from latentbench.bench.metrics.projections import sliced_wasserstein
from latentbench.bench.registry import create, names

PRECISIONS = tuple(BOUNDS)
SEVERAL = 10  # bounds that a mean over many steps of computation may be apart
SAMPLES = 200


def everywhere(parts, here):
    """(name, precision, device) for all parts on the GPU, and for some of them on the CPU."""
    return pytest.mark.parametrize(
        ("name", "precision", "device"),
        [
            *here,
            *(pytest.param(n, p, *GPU.values, marks=GPU.marks) for n in parts for p in PRECISIONS),
        ],
    )


def numbers(values):
    return {name: value.float().item() for name, value in values.items()}


def regularizer_losses(name, device, precision):
    """The losses of a regularizer and of its critics, in evaluation mode: no averages are updated."""
    scene = regularizers.Scene(Part("regularizers", name), regularizers.SETTINGS[0], device=device)
    method, step = scene.regularizer.eval(), scene.step()  # a reference is projected without autocast
    with computing(device, precision):
        z = scene.latent(scene.h)
        losses = {"latent": z.square().mean(), **method.loss(z, scene.h, step)}
        losses |= {name: method.critic_loss(name, z.detach(), step) for name in method.critics()}
        return numbers(losses)


@everywhere(names("regularizers"), [("kl", "bf16", "cpu"), ("lzn", "fp32", "cpu")])
def test_a_regularizer_s_losses_are_those_of_the_cpu(name, precision, device):
    try:
        expected = regularizer_losses(name, "cpu", "fp32")
    except Unfit as reason:
        pytest.skip(str(reason))
    require_close(regularizer_losses(name, device, precision), expected, BOUNDS[precision])


def generator_numbers(name, device, precision):
    """A generator's losses, or the mean log-likelihood of one that is fitted, and the norm of its samples."""
    with computing(device, precision), torch.no_grad():
        scene = generators.Scene(Part("generators", name), generators.SETTINGS[0], device=device)
        model = scene.trained(1) if scene.fitted else scene.model.eval()
        if scene.fitted:
            losses = {"log_prob": model.log_prob(scene.z, scene.labels).mean()}
        else:
            losses = scene.terms(model, scene.labels, Noise(0))
        return numbers(losses), model.sample(scene.sample_labels, 1.5, Noise(0)).float().cpu()


@everywhere(names("generators"), [("gaussian", "bf16", "cpu"), ("velocity_mlp", "fp32", "cpu")])
def test_a_generator_s_losses_and_samples_are_those_of_the_cpu(name, precision, device):
    expected, drawn = generator_numbers(name, "cpu", "fp32")
    found, samples = generator_numbers(name, device, precision)
    require_close(found, expected, BOUNDS[precision])
    apart = (samples - drawn).square().mean().sqrt() / drawn.square().mean().sqrt()
    assert apart < SEVERAL * BOUNDS[precision]


def decoded(name, device, precision):
    with computing(device, precision), torch.no_grad():
        scene = tokenizers.Scene(Part("tokenizers", name), tokenizers.SETTINGS[2], device=device)
        model = scene.model.eval()
        return model.decode(scene.first(model.encode(scene.images))).float().cpu()


@everywhere(["vit", "conv", "softvq"], [("vit", "bf16", "cpu"), ("conv", "fp32", "cpu")])
def test_decoded_images_are_those_of_the_cpu(name, precision, device):
    apart = (decoded(name, device, precision) - decoded(name, "cpu", "fp32")).square().mean().sqrt()
    assert apart < SEVERAL * BOUNDS[precision]


def judged(device, precision):
    """Metrics of images that the device describes; their formulas compute in float64 on the CPU."""
    with computing(device, precision), torch.no_grad():
        extractor = create("features", "effnet_lite0", resolution=32)
        image = tokenizers.SETTINGS[2][0]
        real, made = (rand_images(image, SAMPLES, seed, device) for seed in (0, 1))
        pair = [extractor(images)[0].float() for images in (made.mul(0.8), real)]
    precise, recalled = precision_recall(*pair)
    return {
        "fd": frechet_distance(*pair),
        "kd": kernel_distance(*pair),
        "sliced": sliced_wasserstein(*(features.cpu().double() for features in pair)),
        "precision": precise,
        "recall": recalled,
    }


def of_latents(device, precision):
    """Measures of latents and images that are computed where these are."""
    z, axes = randn(SAMPLES, 16, 8, device=device), F.normalize(randn(128, 64, seed=5), dim=0)
    images = rand_images(tokenizers.SETTINGS[2][0], 4, device=device)
    with computing(device, precision), torch.no_grad():
        found = {
            "sigreg": sigreg(z.flatten(1), axes.to(z)),
            "local correlation": local_correlation(z, (4, 4)),
            "lpips": Distance(Lpips("alex", "random")).to(device)(images, images.flip(0)),
        }
        return numbers(found)


@pytest.mark.parametrize(
    ("measure", "precision", "device"),
    [
        (of_latents, "bf16", "cpu"),
        pytest.param(judged, "bf16", "cpu", marks=pytest.mark.nightly),
        *(
            pytest.param(measure, precision, *GPU.values, marks=GPU.marks)
            for measure in (judged, of_latents)
            for precision in PRECISIONS
        ),
    ],
)
def test_metrics_are_those_of_the_cpu(measure, precision, device):
    require_close(measure(device, precision), measure("cpu", "fp32"), SEVERAL * BOUNDS[precision])
