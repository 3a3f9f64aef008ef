"""A layer and those below it as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_graph.layers.interface import described

if TYPE_CHECKING:
    from lora_graph.layers.layer import Layer


def tree(layer: Layer) -> str:
    """One line a layer: its name, its shapes, and how many of its parameters train where it stands."""
    slots = layer.slots()
    lines = []
    for part, place in layer.places().items():
        inside = [(slot.array.size, trains) for label, (slot, trains) in slots.items() if place.holds(label)]
        trained, total = sum(size for size, trains in inside if trains), sum(size for size, _ in inside)
        path = place.path.split(".") if place.path else []
        name = f"{path[-1]}: {part.layer_name}" if path else part.layer_name
        shapes = f"{described(part.input_shapes)} -> {described(part.output_shapes)}"
        lines.append(f"{'  ' * len(path)}{name} {shapes}, {trained:,} of {total:,} parameters train")
    return "\n".join(lines)
