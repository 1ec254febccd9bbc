"""The tokenizer `points`: images find their row of the table, and only what is asked for moves."""

import pytest
import torch

from latentbench.bench.api import ImageSpec, Noise, Step, Unfit
from latentbench.bench.data.fixed_order import fixed_order
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.matrix.yaml_text import PACKAGED
from latentbench.bench.registry import create

POINT = ImageSpec(1, 1, 2)


def build(count=7, expansion=1, init="normal", sizes=(40, 10)):
    torch.manual_seed(0)
    dataset = create("datasets", "spiral", count=sizes[0], val=sizes[1])
    return create(
        "tokenizers", "points", image=POINT, expansion=expansion, dataset=dataset, count=count, init=init
    )


def test_images_are_found_among_train_then_val():
    model = build(sizes=(40, 20))
    index = torch.randperm(40)
    assert torch.equal(model.positions(model.dataset.images("train", index)), index)
    assert torch.equal(model.positions(model.dataset.images("val", torch.arange(20))), 40 + torch.arange(20))


def test_training_images_have_the_rows_by_turns_in_their_fixed_order():
    model = build(count=7)
    table, order = model.encoder.weight.T[:, None], fixed_order(40)
    assert torch.equal(model.encode(model.dataset.images("train", order)), table[torch.arange(40) % 7])
    held_out = model.encode(model.dataset.images("val", torch.arange(10)))
    assert torch.equal(held_out, table[torch.arange(10) % 7])


def test_a_strange_image_has_the_row_of_the_nearest():
    model = build()
    images = model.dataset.images("train", torch.tensor([3, 30, 12]))
    moved = images + 1e-6
    moved[1] = images[1]  # known ones between strange ones stay known
    assert torch.equal(model.positions(moved), torch.tensor([3, 30, 12]))


def test_decoded_latents_are_images_in_the_units_of_the_dataset():
    model = build()
    images = model.dataset.images("train", torch.arange(40))
    torch.testing.assert_close(model.decode((images / model.dataset.scale).flatten(2)), images)


def test_only_rows_of_the_batch_have_a_gradient():
    model = build(count=40)
    images = model.dataset.images("train", torch.tensor([2, 5]))
    model.encode(images).sum().backward()
    rows = fixed_order(40).argsort()[torch.tensor([2, 5])]
    expected = torch.zeros(40).index_fill(0, rows, 1.0)
    assert torch.equal(model.encoder.weight.grad[0], expected)
    assert not any(p.requires_grad for p in model.decoder.parameters())


def test_its_own_loss_leaves_the_points_where_they_are():
    model = build()
    images = model.dataset.images("train", torch.arange(40))
    z = model.encode(images)
    losses = model.loss(images, z, Step(0, images, None, Noise(0), model.decode))
    sum(losses.values()).backward()
    assert losses and not model.encoder.weight.grad.any()


@pytest.mark.parametrize("init, reach", [("normal", None), ("uniform", 1.5)])
def test_it_starts_as_it_says(init, reach):
    points = build(count=4000, init=init).encoder.weight.detach()
    spread = 1.0 if reach is None else reach / 3**0.5
    assert points.std().item() == pytest.approx(spread, rel=0.03)
    if reach:
        assert points.abs().max() <= reach


def test_what_comes_beside_the_points_starts_at_zero():
    one, two = (build(expansion=expansion).encoder.weight for expansion in (1, 2))
    assert torch.equal(two[:2], one) and not two[2:].any()


def test_pictures_do_not_fit():
    dataset = create("datasets", "ring", count=20, val=20)
    with pytest.raises(Unfit, match="1 x 8 x 8"):
        create("tokenizers", "points", image=ImageSpec(1, 8, 8), expansion=1, dataset=dataset)


def test_the_laboratorys_matrix_reads_and_every_skip_matches():
    read = load_matrix(PACKAGED / "lab2d.yaml")
    assert not read.warnings and len(read.datasets) == 7 and len(read.seeds) == 3
    assert len(load_matrix(PACKAGED / "lab2d.yaml", profile="smoke").seeds) == 1
