"""Whether ops of one graph compute the same as others of the other: by their form, or else by numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from lora_graph.inspect.diffing.matching import Matching
from lora_graph.inspect.diffing.regions import Region
from lora_graph.inspect.diffing.side import Numbers, Side
from lora_graph.inspect.widen import widened
from lora_graph.interpret import evaluate
from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.leaves import Dimension, Input, Parameter
from lora_graph.ir.opaque import Opaque
from lora_graph.ir.types import Array, TensorType, TupleType
from lora_graph.ir.value import Value, apply, topological
from lora_graph.ops.fused import Fused
from lora_graph.rewrite.algebra import IDENTITIES
from lora_graph.rewrite.blocks import BLOCKS
from lora_graph.rewrite.engine import rewrite
from lora_graph.rewrite.fold import fold_constants
from lora_graph.rewrite.layout import LAYOUT
from lora_graph.rewrite.rebuild import rebuilt

LARGEST = 512
"""Ops of a region that are still looked at."""
ELEMENTS = 1 << 20
"""Elements that an operand may have for numbers to be tried."""
ROUNDING = 16
"""Units of the last place by which constants that are written in two ways may let results differ, of the largest."""

Leaves = Mapping[Value, Value]


class Equivalence:
    """Whether the results of a region are the same functions of what it uses.

    They are if they have the same form once fused ops are spelled out, if need be after identities of arithmetic, with
    the operands of commutative ops in any order. Where all operands are floats, they also are if random ones give the
    same numbers in float64, up to the rounding of constants such as 1/√2 and √2. What was found of one region is known
    of all that are like it, as those of a stack of layers are.
    """

    def __init__(self, known: Matching) -> None:
        self._known = known
        self._found: dict[tuple[Graph, Graph], bool] = {}

    def holds(self, region: Region) -> bool:
        graphs = _graphs(self._known, region) if len(region.before) + len(region.after) <= LARGEST else None
        if graphs is None:
            return False
        if graphs not in self._found:
            self._found[graphs] = _have_the_same_form(*graphs) or _give_the_same(*graphs)
        return self._found[graphs]


def _graphs(known: Matching, region: Region) -> tuple[Graph, Graph] | None:
    """Both sides of a region as graphs of what it uses; None where they are not functions of the same tensors."""
    kinds = _operand_types(known, region)
    befores, afters = [p for p, _ in region.results], [q for _, q in region.results]
    if kinds is None or any(isinstance(value.result_type, TupleType) for value in (*befores, *afters)):
        return None
    ours = {p: apply(Input(str(number), kind)) for number, (p, kind) in enumerate(kinds.items())}
    theirs = {known.match[p]: leaf for p, leaf in ours.items()}
    if not (_is_closed(befores, ours) and _is_closed(afters, theirs)):
        return None
    return _graph(befores, ours, known.a.sizes), _graph(afters, theirs, known.b.sizes)


def _have_the_same_form(first: Graph, second: Graph) -> bool:
    for simplify in (False, True):  # most fused ops are spelled out as they are elsewhere, and rules take their time
        numbers = Numbers()
        if _form(first, numbers, simplify) == _form(second, numbers, simplify):
            return True
    return False


def _operand_types(known: Matching, region: Region) -> dict[Value, TensorType] | None:
    """The matched Values that the ops of a region use, and their types, which have to be the same on both sides."""
    found: dict[Value, TensorType] = {}
    operands = [x for user in region.before for x in user.operands]
    others = [known.back[y] for user in region.after for y in user.operands if y in known.back]
    for p in dict.fromkeys((*operands, *others)):
        if p in known.match:
            kind = known.a.types[p]
            if not isinstance(kind, TensorType) or kind != known.b.types[known.match[p]]:
                return None
            found[p] = kind
    return found


def _is_closed(results: list[Value], leaves: Leaves) -> bool:
    """Whether ``results`` depend on no other inputs and weights than ``leaves``."""
    inside = topological(results, stop=leaves.__contains__)
    return not any(isinstance(value.op, Input | Parameter) for value in inside)


def _graph(results: list[Value], leaves: Leaves, sizes: Mapping[str, Dim]) -> Graph:
    values = replace(results, leaves, sizes)
    return Graph(tuple(leaves.values()), {str(number): value for number, value in enumerate(values)})


def _form(graph: Graph, numbers: Numbers, simplify: bool) -> list[int]:
    """Fingerprints of the outputs of ``graph``, spelled out."""
    while True:
        if simplify:
            graph, _ = fold_constants(rewrite(graph, [*IDENTITIES, *LAYOUT, *BLOCKS])[0])
        spelled = rebuilt(graph, _spelled)
        if spelled == graph:
            plain = Side(graph, {}, numbers, ports={leaf: leaf for leaf in graph.inputs})
            return [plain.what[value] for value in graph.outputs.values()]
        graph = spelled


def _spelled(value: Value, operands: tuple[Value, ...]) -> Value | None:
    """What a fused op with a single result is a name for."""
    if isinstance(value.op, Fused) and isinstance(value.result_type, TensorType):
        spelled: Value = value.op.decompose(*operands)
        return spelled
    return None


def _give_the_same(first: Graph, second: Graph) -> bool:
    """Whether two graphs of the same inputs give the same numbers for random ones, in float64."""
    types = [leaf.type for leaf in first.inputs]
    values = {*first.values, *second.values}
    if not all(kind.is_float for kind in types) or any(isinstance(value.op, Opaque) for value in values):
        return False
    sizes = {name: 2 + number for number, name in enumerate(first.dim_names)}
    is_plain = all(isinstance(d, int) or dims.plain_name(d) for kind in types for d in kind.shape)
    if not is_plain or not _names(values) <= sizes.keys() or first.assumptions or second.assumptions:
        return False
    shapes = [dims.sizes(kind.shape, sizes) for kind in types]
    if max(map(np.prod, shapes), default=0) > ELEMENTS:
        return False
    rng = np.random.default_rng(0)
    drawn = {str(number): rng.normal(size=shape) for number, shape in enumerate(shapes)}
    found = [evaluate(widened(graph).graph, drawn, {}) for graph in (first, second)]
    return all(_is_close(found[0][name], found[1][name], value) for name, value in first.outputs.items())


def _names(values: Iterable[Value]) -> set[str]:
    """The names of dimensions in what is computed."""
    tensors = [value.type for value in values if isinstance(value.result_type, TensorType)]
    sizes = [value.op.size for value in values if isinstance(value.op, Dimension)]
    return {name for size in (*sizes, *(d for kind in tensors for d in kind.shape)) for name in dims.names(size)}


def _is_close(first: Array, second: Array, value: Value) -> bool:
    if first.shape != second.shape or not value.type.is_float:
        return np.array_equal(first, second)
    largest = np.abs(first).max(initial=0.0)
    return bool(np.isfinite(largest) and np.abs(first - second).max(initial=0.0) <= tolerance(value) * largest)


def tolerance(value: Value) -> float:
    narrow = value.dtype.name == "bfloat16"
    return ROUNDING * (2.0**-8 if narrow else float(np.finfo(value.dtype).eps))
