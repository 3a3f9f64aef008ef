"""Which values of a graph belong to single samples: along one axis of each, sample after sample, as along the batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_graph.interpret.reference import compute
from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.graph import Graph, substitute_dims
from lora_graph.ir.leaves import Absent, Constant, Dimension, Parameter, Project
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value, topological
from lora_graph.ops.fused import Fused, results_of
from lora_graph.ops.gather import Gather, GatherND
from lora_graph.ops.pooling import AveragePool
from lora_graph.ops.recurrence import Recurrent
from lora_graph.ops.shape import Expand, Reshape
from lora_graph.train.axes import Axis, only_axis, sample_axis


@dataclass
class Samples:
    """The values of a graph that are the same for a sample whatever batch it is in, given the ``fixed`` parameters.

    ``axes`` has the axis of those that depend on the sample, ``free`` those that do not. In neither are values that
    depend on anything else than ``data`` (whose first axis is ``batch``), that mix samples, such as a mean over them,
    or whose op has no rule here. ``counted`` are those that follow from the number of samples alone, as the numbers
    0, 1, 2 … by which models look up their own rows; such are looked at for a few numbers, ``count`` among them.
    """

    batch: Dim
    fixed: Collection[str]
    count: int
    axes: dict[Value, int] = field(default_factory=dict)
    free: set[Value] = field(default_factory=set)
    counted: set[Value] = field(default_factory=set)

    @classmethod
    def of(cls, graph: Graph, data: Collection[Value], fixed: Collection[str], batch: Dim, count: int) -> Samples:
        found = cls(batch, fixed, count, dict.fromkeys(data, 0))
        found.follow(graph.values)
        return found

    def follow(self, values: Sequence[Value]) -> None:
        """Classify ``values``, which come after their operands."""
        for value in values:
            if self._is_known(value):
                continue
            if self._is_free(value):
                self.free.add(value)
            elif isinstance(value.op, Dimension) or self._is_counted(value):
                self.counted.add(value)
            elif value.operands and value.op.is_pure and all(map(self._is_known, value.operands)):
                axis = self._axis(value)
                if axis is not None and self._is_fixed(value, axis):
                    self.axes[value] = axis

    def _is_known(self, value: Value) -> bool:
        return value in self.axes or value in self.free or value in self.counted

    def _is_counted(self, value: Value) -> bool:
        """Whether constants and sizes are all it depends on, the number of samples among them."""
        if not value.operands or not value.op.is_pure or any(operand in self.axes for operand in value.operands):
            return False
        return all(isinstance(v.op, Constant | Absent | Dimension) for v in topological([value]) if not v.operands)

    def _is_free(self, value: Value) -> bool:
        match value.op:
            case Constant() | Absent():
                return True
            case Parameter(label=label):
                return label in self.fixed
            case Dimension(size=size):
                return not self._mentions(size)
        if not value.operands or not value.op.is_pure or any(operand not in self.free for operand in value.operands):
            return False
        return not self._depends(value)

    def _is_fixed(self, value: Value, axis: int) -> bool:
        """Whether how many samples there are shows nowhere but along the axis."""
        if isinstance(value.op, Reshape | Expand):
            return not any(self._mentions(size) for i, size in enumerate(value.shape) if i != axis)
        return not self._depends(value)

    def _depends(self, value: Value) -> bool:
        """Whether an attribute of the op mentions the number of samples."""
        return substitute_dims(value.op, dict.fromkeys(dims.names(self.batch), 1)) is not value.op

    def _mentions(self, size: Dim) -> bool:
        return not {*dims.names(size)}.isdisjoint(dims.names(self.batch))

    def _axis(self, value: Value) -> Axis:
        if isinstance(value.op, Project):
            # of a recurrence: Y is [time, directions, batch, hidden], a state [directions, batch, hidden]
            return value.rank - 2
        if (
            isinstance(value.op, Fused)
            and not value.op.elementwise
            and not isinstance(value.op, AveragePool | Recurrent)
        ):
            return self._inside(value)
        if (
            isinstance(value.op, Gather | GatherND)
            and value.operands[0] in self.axes
            and value.operands[1] in self.counted
        ):
            return self._looked_up(value.op, *value.operands)
        axes = [self._uniform(o) if o in self.counted else self.axes.get(o) for o in value.operands]
        if any(axis is None and o in self.counted for axis, o in zip(axes, value.operands, strict=True)):
            return None
        return sample_axis(value, axes, self.batch)

    def _uniform(self, value: Value) -> Axis:
        """The axis of a counted value that is the same for all samples."""
        axis = only_axis(value.shape, self.batch)
        rows = [] if axis is None else [np.moveaxis(found, axis, 0) for found in self._numbers(value)]
        return axis if all((found == rows[0][:1]).all() for found in rows) else None

    def _looked_up(self, op: Gather | GatherND, data: Value, indices: Value) -> Axis:
        """Where each sample looks up rows of its own, the same among them whatever its number is."""
        at, axis = self.axes[data], only_axis(indices.shape, self.batch)
        depth = indices.shape[-1] if isinstance(op, GatherND) else None
        is_inside = at == op.axis % data.rank if isinstance(op, Gather) else isinstance(depth, int) and at < depth
        each = dims.exact_quotient(data.shape[at], self.batch)
        if axis is None or not is_inside or not isinstance(each, int):
            return None
        first: Array | None = None
        for found in self._numbers(indices):
            rows = np.moveaxis(found, axis, 0).astype(np.int64)
            own = rows if depth is None else rows[..., at]
            own -= (np.arange(len(rows)) * each).reshape(-1, *(1,) * (own.ndim - 1))
            first = rows[:1] if first is None else first
            if not (rows == first).all() or (own < 0).any() or (own >= each).any():
                return None
        return at + axis if depth is None else axis

    def _numbers(self, value: Value) -> Iterator[Array]:
        """A counted value for some numbers of samples."""
        for count in sorted({1, 2, 3, self.count}):
            known: dict[Value, Any] = {}
            compute([value], known, dict.fromkeys(dims.names(self.batch), count))
            yield np.asarray(known[value])

    def _inside(self, value: Value) -> Axis:
        """The axis that the decomposition has."""
        results = results_of(value.op.decompose(*value.operands))  # type: ignore[attr-defined]
        self.follow(topological(results, stop=set(value.operands).__contains__))
        return self.axes.get(results[0]) if len(results) == 1 else None
