"""The matrix products of a training step, counted from its graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_graph.ir.graph import Graph
    from lora_graph.ir.value import Value
    from lora_graph.train.step import TrainingStep


@dataclass(frozen=True)
class Product:
    """``stack`` products of a ``[rows, inner]`` and a ``[inner, columns]`` matrix; ``frozen`` where the right one is a
    weight that no step changes."""

    rows: int
    inner: int
    columns: int
    stack: int = 1
    frozen: bool = False

    @property
    def flops(self) -> int:
        """2 m n k for each, as :meth:`Op.flops` counts them."""
        return 2 * self.rows * self.inner * self.columns * self.stack


Products = dict[Product, int]
"""How many there are of each."""


def products_of_step(training: TrainingStep, inputs: Any, targets: Any) -> Products:
    """The products of a step of ``training`` on such a batch, in the graph that the NumPy engine runs."""
    from lora_graph.layers.interface import feed
    from lora_graph.train.data import Batch
    from lora_graph.train.prepared import Prepared

    fed = feed(training.model, inputs, "inputs")
    prepared = Prepared.build(training, fed.types, Batch.of((inputs, targets)), fed.binding)
    return products(prepared.step.graph, fed.binding, prepared.graphs.fixed)


def products(graph: Graph, binding: Mapping[str, int], fixed: Iterable[str]) -> Products:
    """The products of ``graph`` where named dimensions have the sizes of ``binding``.

    ValueError for an op that multiplies matrices in another form than that of a product.
    """
    from lora_graph.ops.accumulate import AddMatMul
    from lora_graph.ops.linalg import MatMul
    from lora_graph.train.hold import PRODUCTS

    constant = frozenset(fixed)
    found: Counter[Product] = Counter()
    for value in graph.values:
        if isinstance(value.op, MatMul | AddMatMul):
            found[_product(value, binding, constant)] += 1
        elif isinstance(value.op, PRODUCTS):
            raise ValueError(f"no floor for {type(value.op).__name__}: only for MatMul and AddMatMul")
    return dict(found)


def _product(result: Value, binding: Mapping[str, int], fixed: frozenset[str]) -> Product:
    from lora_graph.ir import dims

    def size(*shape: Any) -> int:
        return dims.evaluate(dims.product(shape), binding)

    a, b = result.operands[-2:]
    frozen = _source(b) in fixed
    inner = size(a.shape[-1])
    if a.rank == 1 or b.rank == 1:
        raise ValueError(f"no floor for a product with a vector: {a.type} and {b.type}")
    if b.rank == 2:
        return Product(size(*a.shape[:-1]), inner, size(b.shape[-1]), 1, frozen)
    return Product(size(result.shape[-2]), inner, size(result.shape[-1]), size(*result.shape[:-2]), frozen)


def _source(value: Value) -> str | None:
    """The name of the parameter that ``value`` is, or is the transpose of."""
    from lora_graph.ir.leaves import Parameter
    from lora_graph.ops.shape import Transpose

    while isinstance(value.op, Transpose):
        value = value.operands[0]
    return value.op.label if isinstance(value.op, Parameter) else None


def listed(found: Products) -> list[list[Any]]:
    """As JSON has it: the fields of each product, and how many there are of it."""
    return [[*astuple(product), count] for product, count in found.items()]


def from_list(rows: Iterable[list[Any]]) -> Products:
    """The inverse of :func:`listed`."""
    return {Product(*fields): count for *fields, count in rows}
