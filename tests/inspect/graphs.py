"""Graphs of several shapes, to be laid out and drawn."""

from __future__ import annotations

import random

from lora_graph import ops
from lora_graph.ir import Graph, Value
from lora_graph.ir.graph import Note

X = ops.input("x", "float32", ("batch", 4))


def chain(length: int) -> Graph:
    h = X
    for _ in range(length):
        h = ops.tanh(h)
    return Graph((X,), {"y": h})


def fan(width: int) -> Graph:
    return Graph((X,), {f"y{index}": X * float(index + 2) for index in range(width)})


def nested(depth: int) -> Graph:
    """A module in a module in a module, each with an op before and one after what is inside."""
    h, notes = X, {}
    for level in (*range(depth), *reversed(range(depth))):
        h = ops.tanh(h)
        notes[h] = Note(scope=".".join(f"m{index}" for index in range(level + 1)))
    return Graph((X,), {"y": h}, notes)


def tangled(seed: int, size: int = 120, modules: int = 6) -> Graph:
    """Ops on random operands in random modules, so that modules need one another in circles."""
    rng = random.Random(seed)
    names = [".".join(rng.choice("abc") for _ in range(rng.randrange(4))) for _ in range(modules)]
    values: list[Value] = [X, ops.parameter("w", "float32", (4,)), ops.parameter("v", "float32", (4,))]
    notes = {}
    for _ in range(size):
        one, other = rng.choice(values[-12:]), rng.choice(values)
        made = rng.choice([lambda a, b: a + b, lambda a, b: a * b, lambda a, _: a * 0.5, lambda a, _: ops.tanh(a)])(
            one, other
        )
        notes[made] = Note(scope=rng.choice(names))
        values.append(made)
    return Graph((X,), {"y": values[-1], "z": values[len(values) // 2]}, notes)


def residual(blocks: int) -> Graph:
    h, notes = X, {}
    for index in range(blocks):
        inner = ops.relu(h @ ops.parameter(f"b{index}.w", "float32", (4, 4)))
        notes[inner] = notes[inner.operands[0]] = Note(scope=f"b{index}")
        h = h + inner
    return Graph((X,), {"y": h}, notes)


GRAPHS = {
    "chain": chain(300),
    "fan": fan(200),
    "nested": nested(50),
    "residual": residual(12),
    "empty": Graph((), {}),
    **{f"tangled{seed}": tangled(seed) for seed in range(8)},
}
