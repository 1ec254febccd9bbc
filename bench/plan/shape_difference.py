"""Whether one tokenizer's weights fit another."""

from __future__ import annotations

from ..api import Tokenizer


def shape_difference(model: Tokenizer, start: Tokenizer) -> str | None:
    """The first tensor whose shape differs between two state dicts, in words; None without a difference."""
    shapes, start_shapes = (
        {name: tensor.shape for name, tensor in module.state_dict().items()} for module in (model, start)
    )
    for name in sorted(shapes.keys() | start_shapes.keys()):
        if shapes.get(name) != start_shapes.get(name):
            here, there = (
                " x ".join(map(str, known.get(name, ["nothing"]))) for known in (shapes, start_shapes)
            )
            return f"{name} is {here}, and {there} there"
    return None
