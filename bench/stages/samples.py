"""The samples stage: images decoded from a generator's latents."""

from __future__ import annotations

from torch import Tensor

from ..api import Diverged, Noise
from ..models.latents import chunked, decode_all_uint8
from ..models.sample_labels import sample_labels
from ..runtime.recompute import prepare
from ..store.artifacts import Result
from ..training.context import Context
from .guidance import guidance_of
from .inputs import Config, Inputs
from .trained_cell import TrainedCell


def samples(config: Config, inputs: Inputs, context: Context) -> Result:
    """Decoded 8-bit samples with their labels, which have the proportions of the training images'.

    A sweep's samples are other draws than those that are ranked. Where one of them isn't finite, there are no
    images, and the sweep goes on with its other guidances.
    """
    cell = TrainedCell(inputs, context.device, config.get("snapshot"))
    count, spec = config["samples"], cell.tokenizer.spec
    labels = sample_labels(cell.dataset.labels("train") if cell.dataset.classes else None, count)
    sweep, guidance = config.get("sweep", False), guidance_of(config, inputs)
    assert guidance is not None
    noise = Noise(config["seed"], ("sweep" if sweep else "samples",))
    sampler = cell.sampler(config)
    trained = inputs.get("generator", inputs["tokenizer"])
    if context.device.startswith("cuda"):  # on a CPU a compiler takes longer than the samples
        prepare({"compile": trained.config.get("compile")}, cell.generator)

    def sample(index: Tensor, chunk: int) -> Tensor:
        chunk_labels = labels[index].to(context.device)
        z = cell.generator.sample(chunk_labels, guidance, noise.fork(chunk), **sampler)
        context.report(int(index[-1]) + 1, count, "images")
        return cell.sampled_normalisation.inverse(z.cpu())

    z = chunked(sample, count, group=context.group, file=context.scratch("z"))
    if not z.isfinite().all():
        bad = int((~z.isfinite().flatten(1).all(1)).sum())
        if sweep:
            return Result({"not_finite": bad})
        raise Diverged(f"{bad} of {count} samples are not finite")
    assert z.shape[1:] == (spec.tokens, spec.channels)
    stream, file = noise.fork("decoder"), context.scratch("images")
    images = decode_all_uint8(cell.tokenizer, z, context.device, context.group, labels, stream, file)
    return Result({}, {"images": images, "labels": labels})
