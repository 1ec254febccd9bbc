"""Figures as pixels."""

import torch
from matplotlib.figure import Figure

from latentbench.bench.stages.figures import rendered


def test_a_figure_becomes_its_pixels_always_the_same():
    def drawn():
        figure = Figure(figsize=(2, 1), dpi=50)
        figure.add_axes((0, 0, 1, 1)).set_facecolor("#d1495b")
        return rendered(figure)

    pixels = drawn()
    assert pixels.shape == (50, 100, 3) and pixels.dtype == torch.uint8
    assert pixels[25, 50].tolist() == [0xD1, 0x49, 0x5B] and torch.equal(pixels, drawn())
