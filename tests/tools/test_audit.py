"""`bench audit`: the same images under several protocols, each with its id, and how far they disagree."""

import json

import numpy as np
import pytest
import torch
from helpers.run import bench_inline
from PIL import Image

from latentbench.bench import registry
from latentbench.bench.api import from_uint8, to_uint8
from latentbench.bench.data.images import adm_centre_crop, resize, round_to_8_bits, squash
from latentbench.bench.metrics.frechet import frechet_distance
from latentbench.bench.tools.audit import AuditError, ImageSet, audit, of_dataset, read, stored_as_jpeg


@pytest.fixture(scope="module")
def extractor():
    return registry.create("features", "effnet_lite0", resolution=32)


@pytest.fixture(scope="module")
def digits():
    return of_dataset(registry.create("datasets", "digits"), "digits")


@pytest.fixture(scope="module")
def table(extractor, digits):
    samples = ImageSet("noisy", (digits[1].images + 0.3 * torch.randn(360, 1, 8, 8)).clamp(-1, 1))
    return samples, audit(samples, digits, extractor)


def test_the_first_row_is_the_suites_own_protocol(table, digits, extractor):
    samples, found = table
    own = frechet_distance(*(extractor(one)[0] for one in (samples.images, digits[0].images)))
    assert found["FD[effnet_lite0:32]"][0] == pytest.approx(own) and found.ratio[0] == 1


def test_every_protocol_has_an_id_and_a_value_of_its_own(table):
    _, found = table
    assert found.protocol.is_unique and found["FD[effnet_lite0:32]"].is_unique
    changed = found.changed.str.partition(":")[0]
    assert set(changed) == {"nothing", "reference", "resizing", "rounding", "stored", "n"}


def test_an_audit_leaves_the_extractor_as_it_was(table, extractor):
    assert (extractor.resizing, extractor.rounds) == ("clean", True)
    assert not {"resizing", "rounds"} & set(vars(extractor))


def test_images_of_8_bits_have_no_variant_without_rounding(digits, extractor):
    found = audit(ImageSet("val", round_to_8_bits(digits[1].images[:32])), digits[:1], extractor)
    assert not found.changed.str.startswith("rounding").any()


def test_references_of_other_shapes_are_cropped_or_squashed(extractor):
    rng = np.random.default_rng(0)
    photographs = [rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in [(40, 60), (60, 40)] * 6]
    samples = ImageSet("samples", torch.rand(12, 3, 32, 32) * 2 - 1)
    found = audit(samples, [ImageSet("photographs", photographs)], extractor)
    row = found[found.changed.str.startswith("crop")]
    assert list(row.crop) == ["squash"] and row.ratio.iloc[0] != 1


def test_the_centre_crop_keeps_proportions_and_the_middle():
    image = np.zeros((40, 80, 1), dtype=np.uint8)
    image[:, 20:60] = 255  # the middle square
    assert (adm_centre_crop(image, (20, 20)) == 255).mean() > 0.95
    assert (squash(image, (20, 20)) > 127).mean() == pytest.approx(0.5, abs=0.06)


def test_legacy_resizing_aliases_where_clean_resizing_averages():
    stripes = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    stripes[..., ::2] = 255  # one pixel wide: nothing of them is left at a quarter of the size
    assert resize(stripes, 15).std() < resize(stripes, 15, "legacy").std() / 3
    rounded = resize(stripes, 48, "clean_rounded")
    assert torch.equal(rounded, rounded.round())
    assert (rounded - resize(stripes, 48)).abs().max() <= 0.5


def test_jpeg_loses_more_at_lower_quality():
    photographs = from_uint8((torch.rand(4, 3, 32, 32) * 255).to(torch.uint8))
    errors = [(stored_as_jpeg(photographs, q) - photographs).square().mean() for q in (95, 75)]
    assert 0 < errors[0] < errors[1]


def test_folders_arrays_and_artifacts_are_read_alike(tmp_path):
    levels = (torch.rand(9, 1, 8, 8) * 255).to(torch.uint8)
    array = levels.permute(0, 2, 3, 1).numpy()
    (tmp_path / "png").mkdir()
    for i, one in enumerate(array):
        Image.fromarray(one.squeeze(2)).save(tmp_path / f"png/{i}.png")
    np.savez(tmp_path / "samples.npz", array)
    np.save(tmp_path / "samples.npy", array.astype(np.float32) / 255)
    for path in ("png", "samples.npz", "samples.npy"):
        assert torch.equal(to_uint8(read(tmp_path / path).images), levels), path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "holds no images"),
        (lambda path: np.save(path.with_suffix(".npy"), np.zeros((3, 3))), r"must hold \(n, H, W, 1 or 3\)"),
        (lambda path: np.save(path.with_suffix(".npy"), np.full((9, 4, 4, 1), 200.0)), r"in \[200, 200\]"),
        (lambda path: (path.mkdir(), (path / "a.png").write_bytes(b"x")), "no image that can be read"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, make, message):
    path = tmp_path / "images"
    make(path)
    with pytest.raises(AuditError, match=message):
        read(path if path.exists() else path.with_suffix(".npy"))


def test_the_command_shows_how_far_protocols_disagree(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", rng.integers(0, 255, (64, 8, 8, 1), dtype=np.uint8))
    done = bench_inline("audit", "samples.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the same images score FD[effnet_lite0]" in done.stdout and "digits val" in done.stdout.replace(
        "\n", " "
    )
    rows = json.loads(bench_inline("audit", "samples.npz", "--json", cwd=tmp_path).stdout)
    assert rows[0]["ratio"] == 1 and rows[0]["resizing"].startswith("clean-fid")
    wrong = bench_inline("audit", "samples.npz", "-r", "nowhere", cwd=tmp_path)
    assert wrong.returncode == 2 and "neither a path nor a dataset" in wrong.stderr
