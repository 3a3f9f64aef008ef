"""The walk that lowers a graph: every op emits its nodes, fused ops without a kernel what they stand for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.op import Op
from lora_graph.ir.opaque import OPERAND, RESULT, Opaque
from lora_graph.ir.types import Array, TensorType, TupleType, tensor, type_of
from lora_graph.ir.value import Value, topological
from lora_graph.onnx.attributes import DIMENSION, NOTED, lowered_attributes
from lora_graph.onnx.dimensions import Dimensions
from lora_graph.onnx.kernels import results_needed, why_not
from lora_graph.onnx.names import Names
from lora_graph.ops.fused import Fused


class GraphLowering:
    """Walks a graph and lets every op emit its nodes (the Lowering of ``ir/op.py``).

    Ops refer to results by handles, which are names until an output claims one.
    """

    def __init__(self, graph: Graph, state: Mapping[str, Array], opset: int, overridable: Collection[str] = ()) -> None:
        self.opset = opset
        self._overridable = overridable
        self._graph, self._state = graph, state
        self._nodes: list[ir.Node] = []
        self._values: dict[str, ir.Value] = {}
        self._initializers: list[ir.Value] = []
        self._bound: dict[str, int] = {}
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._constants: dict[tuple[object, ...], str] = {}
        self._results: dict[str, list[str]] = {}
        self._handles: dict[Value, str] = {}
        self._types: dict[str, TensorType] = {}
        self._claims = {value: name for name, value in reversed(list(graph.outputs.items()))}
        self._names = Names()
        self._domains: dict[str, int] = {}
        self._dimensions = Dimensions(self._emit_dimension, self.constant)
        self._current: Value | None = None
        self._note = Note()

    def run(self) -> ir.Graph:
        graph = self._graph
        self._reserve()
        for leaf in graph.inputs:
            self._declare(leaf)
        for leaf in graph.parameters.values():
            self._initialize(leaf)
        for value in graph.values:
            if value not in self._handles:
                self._note = graph.notes.get(value, Note())
                self._lower(value)
        outputs = [self._output(name, value) for name, value in graph.outputs.items()]
        return ir.Graph(
            self._inputs,
            outputs,
            nodes=self._nodes,
            initializers=self._initializers,
            opset_imports={"": self.opset, **self._domains},
            name=graph.name,
        )

    # what an op may ask for

    def node(
        self,
        op_type: str,
        operands: Sequence[str],
        attributes: dict[str, Any] | None = None,
        *,
        results: int = 1,
        noted: Mapping[str, Any] | None = None,
    ) -> str:
        kinds = [self._types.get(operand) for operand in operands]
        problem = why_not(op_type, kinds, self.opset, str((attributes or {}).get("reduction", "")))
        if problem:
            raise ValueError(f"{self._where()}{problem}")
        scope = f"{self._note.scope}." if self._note.scope else ""
        notes = {NOTED + name: repr(value) for name, value in (noted or {}).items()}
        handles = self._append(scope + op_type, op_type, operands, attributes or {}, results, notes)
        self._results[handles[0]] = handles
        return handles[0]

    def type(self, operand: str) -> TensorType:
        return self._types[operand]

    def result(self, first: str, index: int) -> str:
        handles = self._results[first]
        if not handles[index]:  # a result has no name until somebody wants it
            handles[index] = self._names.new(f"{first}:{index}")
            result = self._values[handles[index]] = self._values[first].producer().outputs[index]
            result.name = handles[index]
        return handles[index]

    def constant(self, value: Any, dtype: Any = None) -> str:
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            handle = self._names.new(f"constant_{array.item()}" if array.size == 1 else "constant")
            self._constants[key] = handle
            self._add_initializer(handle, array, type_of(array))
        return self._constants[key]

    def shape(self, shape: Shape, *, may_infer: bool = False) -> str:
        symbolic = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
        operand = self._current.operands[0].type if self._current is not None else None
        follows = operand is not None and operand.size == dims.product(shape)
        if may_infer and len(symbolic) == 1 and follows and 0 not in shape:
            shape = tuple(-1 if axis == symbolic[0] else size for axis, size in enumerate(shape))
        return self._dimensions.vector(shape)

    def dimension(self, size: Dim) -> str:
        return self._dimensions.scalar(size)

    def subgraph(self, body: Graph, captured: Sequence[str]) -> ir.Graph:
        from lora_graph.onnx.nested import BodyLowering

        return BodyLowering(self, body).run_inside(captured)

    def verbatim(self, op: Opaque, operands: Sequence[str]) -> str:
        from lora_graph.onnx.opaque import TOKEN, written

        first = self._names.new(f"{self._note.scope}.{op.op_type}" if self._note.scope else op.op_type)
        handles = [first, *(self._names.new(f"{first}:{i}") for i in range(1, len(op.results)))]
        names = {f"{OPERAND}{i}": str(self._values[operand].name) for i, operand in enumerate(operands)}
        names.update({f"{RESULT}{i}": handle for i, handle in enumerate(handles)})
        node = written(op, lambda name: names.setdefault(name, self._names.new(name)), self.opset)
        by_name = {str(self._values[operand].name): self._values[operand] for operand in operands}
        outputs = [ir.Value(name=name or None) for name in node.output]
        if op.domain:
            self._domains[op.domain] = op.version
        self._nodes.append(
            ir.Node(
                op.domain,
                op.op_type,
                [by_name[name] if name else None for name in node.input],
                [ir.serde.deserialize_attribute(attribute) for attribute in node.attribute],
                outputs=outputs,
                name=first,
                metadata_props={TOKEN: op.token} if op.token else {},
            )
        )
        self._values.update({str(value.name): value for value in outputs if value.name})
        self._results[first] = handles
        return first

    # the walk

    def _lower(self, value: Value) -> None:
        op = value.op
        handles = [self._handles[operand] for operand in value.operands]
        if isinstance(op, Fused) and op.spelled_out and self._why_decompose(op, handles):
            result = self._decomposed(op, value)
            self._handles[value] = self._handles[result]
            return
        self._current = value
        handle = op.lower(self, *handles)
        self._current = None
        self._handles[value] = handle
        if handle and handle not in self._types and not isinstance(value.result_type, TupleType):
            self._describe(handle, value.type)
            name = self._claims.get(value) or (self._names.new(self._note.name) if self._note.name else "")
            if name:
                self._values[handle].name = name

    def _why_decompose(self, op: Op, handles: Sequence[str]) -> str:
        """What speaks against the op itself: no kernel, or a number that ONNX's float32 attributes would round."""
        kinds = [self._types.get(handle) for handle in handles]
        problem = why_not(op.name, kinds, self.opset)
        if not problem and kinds[0] is not None and kinds[0].dtype == np.float64:
            rounded = [a for a in op.attributes().values() if isinstance(a, float) and float(np.float32(a)) != a]
            return f"{op.name} has the attribute {rounded[0]}, which float32 rounds" if rounded else ""
        return problem

    def _decomposed(self, op: Fused, value: Value) -> Value:
        """The Value that ``value`` is a name for, lowered. It takes over the name of the output, if there is one."""
        result: Value = op.decompose(*value.operands)
        if value in self._claims:
            self._claims.setdefault(result, self._claims[value])
        note = self._note
        for inner in topological([result], stop=self._handles.__contains__):
            self._note = Note(scope=note.scope, name=note.name if inner is result else "")
            self._lower(inner)
        self._note = note
        return result

    def _emit_dimension(
        self, op_type: str, operands: Sequence[str], attributes: dict[str, Any], shape: Shape, of: str
    ) -> str:
        handle = self._append(f"size.{op_type}", op_type, operands, attributes, 1, {DIMENSION: of})[0]
        self._describe(handle, tensor(np.int64, shape))
        return handle

    def _append(
        self,
        name: str,
        op_type: str,
        operands: Sequence[str],
        attributes: dict[str, Any],
        results: int,
        metadata: Mapping[str, str] | None = None,
    ) -> list[str]:
        inputs = [self._values[operand] if operand else None for operand in operands]
        while inputs and inputs[-1] is None:
            inputs.pop()
        written, exact = lowered_attributes(attributes)
        first = self._names.new(name)
        needed = results_needed(op_type, self.opset)
        handles = [first, *(self._names.new(f"{first}:{i}") if i < needed else "" for i in range(1, results))]
        outputs = [ir.Value(name=handle) for handle in handles]
        self._nodes.append(
            ir.Node(
                "", op_type, inputs, written, outputs=outputs, name=first, metadata_props={**exact, **(metadata or {})}
            )
        )
        self._values.update(zip(handles, outputs, strict=True))
        return handles

    # names, leaves and outputs

    def _reserve(self) -> None:
        """Claim the names that are part of the interface; ValueError where two things have the same one."""
        taken: dict[str, str] = {}
        graph = self._graph
        for kind, names in (("input", graph.input_names), ("parameter", graph.parameters), ("output", graph.outputs)):
            for name in names:
                if not name or name in taken:
                    clash = f"is also the name of the {taken[name]}" if name else "is empty"
                    raise ValueError(f"an ONNX model needs its own name for every value: {kind} {name!r} {clash}")
                taken[name] = f"{kind} {name!r}"
        self._names.reserve(taken)

    def _declare(self, leaf: Value) -> None:
        assert isinstance(leaf.op, Input)
        name = leaf.op.label
        self._values[name] = ir.Value(name=name)
        self._handles[leaf] = name
        self._add_input(name, leaf.type)

    def _add_input(self, handle: str, type_: TensorType) -> None:
        self._dimensions.offer(handle, type_.shape, expressions=True)
        self._describe(handle, type_)
        self._inputs.append(self._values[handle])

    def _initialize(self, leaf: Value) -> None:
        """A Parameter as an initializer; one that can be overridden, as with a symbolic shape, is an input as well."""
        assert isinstance(leaf.op, Parameter)
        name = leaf.op.label
        if name not in self._state:
            raise ValueError(f"the state has no array for parameter {name!r}: {leaf.type}")
        array = np.asarray(self._state[name])
        try:
            self._bind(leaf.type, array)
        except ValueError as error:
            raise ValueError(f"parameter {name!r} is {leaf.type}, but its array is {type_of(array)}") from error
        self._add_initializer(name, array, leaf.type)
        self._handles[leaf] = name
        if name in self._overridable or not leaf.type.is_static:
            self._add_input(name, leaf.type)

    def _bind(self, declared: TensorType, array: Array) -> None:
        if array.dtype != declared.dtype or array.ndim != declared.rank:
            raise ValueError(declared)
        for size, actual in zip(declared.shape, array.shape, strict=True):
            name = dims.plain_name(size)
            if name:
                self._bound.setdefault(name, actual)
        for size, actual in zip(declared.shape, array.shape, strict=True):
            if set(dims.names(size)) <= set(self._bound) and dims.evaluate(size, self._bound) != actual:
                raise ValueError(size)

    def _output(self, name: str, value: Value) -> ir.Value:
        """The value called ``name``, with an Identity where ``value`` is known under another name already."""
        handle = self._handles[value]
        if self._values[handle].name != name:
            handle = self._append(name, "Identity", [handle], {}, 1)[0]
            self._values[handle].name = name
        self._describe(handle, value.type)
        return self._values[handle]

    def _add_initializer(self, handle: str, array: Array, type_: TensorType) -> None:
        tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=handle)
        self._values[handle] = ir.Value(name=handle, const_value=tensor)
        self._types[handle] = type_
        self._initializers.append(self._values[handle])

    def _describe(self, handle: str, type_: TensorType) -> None:
        value = self._values[handle]
        value.type = ir.TensorType(ir.DataType.from_numpy(type_.dtype))
        value.shape = ir.Shape([size if isinstance(size, int) else str(size) for size in type_.shape])
        self._types[handle] = type_
        self._offer(handle, type_.shape)

    def _offer(self, handle: str, shape: Shape) -> None:
        self._dimensions.offer(handle, shape, expressions=False)

    def _where(self) -> str:
        scope = self._note.scope or self._note.name
        return f"{scope}: " if scope else ""
