"""Random graphs, and what they are run on."""

from __future__ import annotations

import numpy as np

from lora_graph import ops
from lora_graph.ir import Graph, Value

UNARY = [
    ops.neg, ops.tanh, ops.sigmoid, ops.relu, ops.gelu, ops.abs, ops.silu,
    lambda x: ops.clip(x, -0.5, 0.5), lambda x: (x * x + 1.0).sqrt(), lambda x: ops.softmax(x),
]  # fmt: skip
BINARY = [
    ops.add, ops.sub, ops.mul, ops.maximum, ops.minimum,
    lambda a, b: ops.where(a > b, a, b * 0.5), lambda a, b: ops.where(ops.logical_not(a > b), a, a),
]  # fmt: skip


def random_graph(rng: np.random.Generator, size: int, dtype: str = "float64") -> Graph:
    """A graph over ``[batch, 4]``, its transposes, broadcast rows and columns, with several outputs of all kinds."""
    x, y = (ops.input(name, dtype, ("batch", 4)) for name in "xy")
    w, b = ops.parameter("w", dtype, (4, 4)), ops.parameter("b", dtype, (4,))
    pool: list[Value] = [x, y, x @ w, y + b]
    for _ in range(size):
        a, c = (pool[rng.integers(len(pool))] for _ in range(2))
        choice = rng.integers(8)
        if choice < 2:
            new = UNARY[rng.integers(len(UNARY))](a)
        elif choice < 5:
            new = BINARY[rng.integers(len(BINARY))](a, c)
        else:
            new = [
                lambda a, c: a @ (w * 0.5),
                lambda a, c: (a.T + c.T * 0.1).T,
                lambda a, c: a - c.sum(axis=1, keepdims=True) * 0.1,
                lambda a, c: a * b,
                lambda a, c: ops.concat([a[:, 2:], c[:, :2]]),
                lambda a, c: a.reshape("batch", 2, 2).transpose(0, 2, 1).reshape("batch", 4),
                lambda a, c: a[:, ::-1] + c,
                lambda a, c: ops.gather(a, np.array([3, 1, 0, 2]), axis=1),
                lambda a, c: a.T.reshape(-1).reshape("batch", 4),
            ][rng.integers(9)](a, c)
        pool.append(ops.tanh(new) if rng.integers(4) == 0 else new)
    picked = [pool[i] for i in rng.choice(len(pool), size=4, replace=False)]
    outputs = {f"y{i}": value for i, value in enumerate(picked)}
    last = pool[-1]
    return Graph(
        (x, y), outputs | {"last": last, "turned": last.T, "flat": last.reshape(-1), "sum": last.sum(), "x": x}
    )


def arrays(rng: np.random.Generator, batch: int, dtype: str = "float64") -> tuple[dict, dict]:
    inputs = {name: rng.normal(size=(batch, 4)).astype(dtype) for name in "xy"}
    return inputs, {"w": rng.normal(size=(4, 4)).astype(dtype), "b": rng.normal(size=4).astype(dtype)}
