"""What a training step computes from frozen parameters alone, split off so that it is computed once for each sample."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.accumulate import AddMatMul
from lora_graph.ops.attention import Attention
from lora_graph.ops.convolution import Conv, ConvTranspose
from lora_graph.ops.einsum import Einsum
from lora_graph.ops.linalg import Gemm, MatMul
from lora_graph.ops.recurrence import Recurrent
from lora_graph.ops.shape import inverse
from lora_graph.train.samples import Samples

PRODUCTS = (MatMul, AddMatMul, Gemm, Conv, ConvTranspose, Einsum, Attention, Recurrent)
"""The ops whose results are worth their memory; everything else is computed again."""

ENDLESS = 2**31 - 1


@dataclass(frozen=True)
class Split:
    """A graph in two: ``once`` gives the held values by name, samples first, and ``rest`` has them as inputs."""

    once: Graph
    rest: Graph


def split(graph: Graph, data: Collection[Value], fixed: Collection[str], count: int) -> Split | None:
    """``graph`` without the products that depend on ``data`` and the ``fixed`` parameters alone; None if it has none.

    ``data`` are inputs whose first axis, and no other, is the batch, of ``count`` samples as an example. Held are the
    values that take the fewest bytes among all from which the rest can be computed without such a product.
    """
    batch = next(iter(data)).shape[0]
    samples = Samples.of(graph, data, fixed, batch, count)
    needed = [o for value in graph.values if value not in samples.axes for o in value.operands]
    needed = [v for v in dict.fromkeys([*needed, *graph.outputs.values()]) if v in samples.axes]
    chosen = cheapest(needed, samples) if needed else []
    if not chosen:
        return None
    outputs: dict[str, Value] = {}
    restored: dict[Value, Value] = {}
    for number, value in enumerate(chosen):
        axis, label = samples.axes[value], f"held {number}"
        outputs[label] = _samples_first(value, axis, batch)
        restored[value] = _as_before(apply(Input(label, outputs[label].type)), value, axis)
    results = dict(zip(graph.outputs, replace(graph.outputs.values(), restored), strict=True))
    held = [leaf for value in restored.values() for leaf in Graph((), {"": value}).values if isinstance(leaf.op, Input)]
    used = {*Graph((), results).values}
    return Split(
        Graph(tuple(data), outputs, name=f"{graph.name}: held values"),
        Graph(tuple(leaf for leaf in [*graph.inputs, *held] if leaf in used), results, name=graph.name),
    )


def cheapest(needed: Sequence[Value], samples: Samples) -> list[Value]:
    """The values of fewest bytes a sample through which every path from a product to ``needed`` leads.

    That is a minimum vertex cut, and of several equal ones the one nearest to ``needed``, found as a maximum flow in
    which each value is an edge from its entry to its exit (Ford & Fulkerson, 1956).
    """
    behind = _behind(needed, samples)
    number = {value: 2 * i for i, value in enumerate(behind)}
    source, sink = 2 * len(behind), 2 * len(behind) + 1
    edges = {(i, i + 1): _capacity(value, samples) for value, i in number.items()}
    for value, i in number.items():
        if isinstance(value.op, PRODUCTS):
            edges[source, i] = ENDLESS
        else:
            edges.update({(number[o] + 1, i): ENDLESS for o in value.operands if o in number})
    edges.update({(number[value] + 1, sink): ENDLESS for value in needed})
    reaching = _reaching(edges, source, sink)
    return [value for value, i in number.items() if i not in reaching and i + 1 in reaching]


def _behind(needed: Sequence[Value], samples: Samples) -> list[Value]:
    """The values by samples that ``needed`` are computed from, back to the products."""
    found: dict[Value, None] = {}
    waiting = [*needed]
    while waiting:
        value = waiting.pop()
        if value not in found:
            found[value] = None
            if not isinstance(value.op, PRODUCTS):
                waiting.extend(operand for operand in value.operands if operand in samples.axes)
    return [*found]


def _capacity(value: Value, samples: Samples) -> int:
    """The bytes that a sample of ``value`` takes; what is no array cannot be held."""
    if not isinstance(value.result_type, TensorType):
        return ENDLESS
    one = dict.fromkeys(dims.names(samples.batch), 1)
    count = dims.substitute(value.type.size, one)
    assert isinstance(count, int)
    return min(count * value.dtype.itemsize, ENDLESS - 1)


def _reaching(edges: Mapping[tuple[int, int], int], source: int, sink: int) -> set[int]:
    """The nodes from which the sink can be reached along what a maximum flow leaves of the edges."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    rows, columns = np.array([*edges], np.int32).reshape(-1, 2).T
    capacity = csr_array((np.array([*edges.values()], np.int32), (rows, columns)), shape=(sink + 1, sink + 1))
    left = (capacity - maximum_flow(capacity, source, sink).flow).T.tocsr()
    left.eliminate_zeros()
    return {int(node) for node in breadth_first_order(left, sink, return_predecessors=False)}


def _samples_first(value: Value, axis: int, batch: Dim) -> Value:
    """``value`` as [batch, …]; an axis that has several rows for each sample is split."""
    others = [i for i in range(value.rank) if i != axis]
    first = value.transpose((axis, *others))
    rows = dims.exact_quotient(first.shape[0], batch)
    assert rows is not None
    return first if rows == 1 else first.reshape((batch, rows, *first.shape[1:]))


def _as_before(held: Value, value: Value, axis: int) -> Value:
    """The inverse of :func:`_samples_first`."""
    order = (axis, *(i for i in range(value.rank) if i != axis))
    return held.reshape([value.shape[i] for i in order]).transpose(inverse(order))
