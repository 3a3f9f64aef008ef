"""Reading ONNX models: a model as a graph and a state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from lora_graph.errors import LoadError
from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.leaves import Leaf, Project, input, parameter, project  # noqa: A004
from lora_graph.ir.op import OPS
from lora_graph.ir.types import Array, TensorType, TupleType
from lora_graph.ir.value import Value
from lora_graph.layers.imported import ADAPTERS, read_adapters
from lora_graph.onnx.attributes import DIMENSION, PARAMETERS
from lora_graph.onnx.kernels import schema
from lora_graph.onnx.opaque import read_opaque
from lora_graph.onnx.readers import READERS
from lora_graph.onnx.scopes import rules_of, scope_of
from lora_graph.onnx.source import DEFAULT_DOMAINS, ModelSource, Opened, describe, open_model, shorten
from lora_graph.onnx.subgraphs import graphs_of
from lora_graph.onnx.tensors import dtype_of, read_tensor
from lora_graph.onnx.view import Known, NodeReader, check_attributes, check_node


@dataclass(frozen=True)
class Imported:
    """A model read from ONNX: what it computes, the arrays of its Parameters, its metadata properties and opset."""

    graph: Graph
    state: dict[str, Array]
    metadata: dict[str, str]
    opset: int


def read_model(source: ModelSource) -> Imported:
    """The graph, state and metadata of the ONNX model at a path, in bytes or in a ModelProto.

    What :func:`lower` wrote comes back as the very same graph. In other models (opset 9 to 26) float initializers
    with an axis are trainable Parameters, other small ones Constants, and unnamed dimensions are named after input and
    axis. Arrays of external data are mapped from their file. Raises LoadError naming file and tensor or node.
    """
    return _Importer(open_model(source)).run()


class _Importer:
    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._graph = opened.model.graph
        self._metadata = {prop.key: prop.value for prop in opened.model.metadata_props}
        self._trainable = self._read_trainable()
        self._known = Known(opened)
        self._notes: dict[Value, Note] = {}
        self._used = {name for node in self._graph.node for name in node.input} | {o.name for o in self._graph.output}

    def run(self) -> Imported:
        overridable = {item.name: item for item in self._graph.input}
        for tensor in self._graph.initializer:
            self._known.arrays[tensor.name] = self._array(tensor)
            self._known.values[tensor.name] = self._initializer(tensor.name, overridable.get(tensor.name))
        inputs = []
        for item in self._graph.input:
            if item.name not in self._known.arrays:
                inputs.append(self._input(item))
                self._known.values[item.name] = inputs[-1]
        for number, node in enumerate(self._graph.node):
            self._read_node(node, describe(node, number))
        outputs = {item.name: self._output(item) for item in self._graph.output}
        graph = Graph(tuple(inputs), outputs, self._notes, self._graph.name or "graph")
        self._check_adapters()
        state = {name: self._known.arrays[name] for name in graph.parameters}
        metadata = {key: text for key, text in self._metadata.items() if key != PARAMETERS}
        return Imported(graph, state, metadata, self._opened.opset)

    @property
    def _is_own(self) -> bool:
        """Whether this package wrote the model, so that everything in it is spelled as this package does."""
        return self._trainable is not None

    def _read_trainable(self) -> Mapping[str, bool] | None:
        text = self._metadata.get(PARAMETERS)
        if text is None:
            return None
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._fail(f"the metadata {PARAMETERS} is not JSON") from error
        if not isinstance(record, dict) or not all(isinstance(flag, bool) for flag in record.values()):
            raise self._fail(f"the metadata {PARAMETERS} must map names to true or false")
        return record

    def _check_adapters(self) -> None:
        try:
            read_adapters(self._metadata.get(ADAPTERS, "[]"))
        except LoadError as error:
            raise self._fail(str(error)) from error

    # leaves

    def _initializer(self, name: str, listed: onnx.ValueInfoProto | None) -> Value:
        array = self._known.arrays[name]
        if self._trainable is not None and name in self._trainable:
            shape: Sequence[Any] = array.shape if listed is None else self._type(listed).shape
            return parameter(name, array.dtype, shape, self._trainable[name])
        return self._known.leaf(name, array, trainable=not self._is_own and array.dtype.kind == "f" and array.ndim > 0)

    def _array(self, tensor: onnx.TensorProto) -> Array:
        """An array that the caller may write to: a copy, unless it is mapped copy-on-write already.

        It is copied at once, so that one tensor at a time is in memory as bytes, too.
        """
        array = read_tensor(tensor, self._opened.folder, self._opened.label)
        return array if array.flags.writeable else array.copy()

    def _input(self, item: onnx.ValueInfoProto) -> Value:
        type_ = self._type(item)
        return input(item.name, type_.dtype, type_.shape)

    def _output(self, item: onnx.ValueInfoProto) -> Value:
        """The Value of an output; LoadError if its declared type says something else."""
        value = self._known.values[item.name]
        if not item.type.HasField("tensor_type"):
            return value
        found = value.type
        declared = item.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in declared.shape.dim]
        fits = not declared.HasField("shape") or (
            len(sizes) == found.rank
            and all(a is None or not isinstance(b, int) or a == b for a, b in zip(sizes, found.shape, strict=True))
        )
        if not fits or (declared.elem_type and self._dtype(item) != found.dtype):
            raise self._fail(f"output {item.name!r} is declared as another type than its computed {found}")
        return value

    def _type(self, item: onnx.ValueInfoProto) -> TensorType:
        if not item.type.HasField("tensor_type") or not item.type.tensor_type.HasField("shape"):
            raise self._fail(f"input {item.name!r} must be a tensor with a known number of axes")
        try:
            shape = [self._dim(size, item.name, axis) for axis, size in enumerate(item.type.tensor_type.shape.dim)]
        except (ValueError, RecursionError, MemoryError) as error:
            raise self._fail(f"input {item.name!r}: {error}") from error
        return TensorType(self._dtype(item), tuple(shape))

    def _dtype(self, item: onnx.ValueInfoProto) -> np.dtype[Any]:
        try:
            return dtype_of(item.type.tensor_type.elem_type)
        except ValueError as error:
            raise self._fail(f"{item.name!r}: {error}") from error

    def _dim(self, size: onnx.TensorShapeProto.Dimension, name: str, axis: int) -> Dim:
        if size.HasField("dim_value"):
            return dims.dim(size.dim_value)
        text = size.dim_param
        if self._is_own and text:
            return dims.dim(dims.dim(text))  # text may come to an int, which may be none for a size
        return dims.dim(repr(text or f"{name}_{axis}"))

    # nodes

    def _read_node(self, node: onnx.NodeProto, what: str) -> None:
        try:
            results = self._opaque(node) if _is_opaque(node, self._opened.opset) else self._known_op(node)
        except _FAILURES as error:
            raise self._fail(f"{what}: {error}") from error
        except onnx.checker.ValidationError as error:
            raise self._fail(f"{what}: {str(error).splitlines()[0]}") from error
        for name, value in results.items():
            self._known.values[name] = value
            if value.operands:
                self._notes.setdefault(value, Note(name, scope_of(node), rules_of(node)))

    def _known_op(self, node: onnx.NodeProto) -> dict[str, Value]:
        check_node(node, self._opened.opset)
        view = NodeReader(self._known, node)
        read = _reader(node.op_type)(view)
        check_attributes(node, view.attributes, self._opened.opset)
        return dict(zip(node.output, self._results(read, view), strict=False))

    def _opaque(self, node: onnx.NodeProto) -> dict[str, Value]:
        found = read_opaque(node, self._opened, self._known.values, self._declared)
        return dict(zip((name for name in node.output if name), found, strict=True))

    @cached_property
    def _declared(self) -> dict[str, onnx.ValueInfoProto]:
        """What the file says of the types of what it computes."""
        return {item.name: item for item in (*self._graph.value_info, *self._graph.output)}

    def _results(self, read: Value | tuple[Value, ...], view: NodeReader) -> tuple[Value, ...]:
        names = view.node.output
        if isinstance(read, tuple):
            return read
        if isinstance(read.result_type, TupleType):
            return tuple(project(read, i) for i in range(min(len(names), len(read.result_type.items))))
        extra = [name for name in names[1:] if name in self._used]
        if extra:
            raise ValueError(f"its result {extra[0]!r} is not supported")
        is_size = not self._is_own or any(prop.key == DIMENSION for prop in view.node.metadata_props)
        return (self._known.contents.simplified(read) if is_size else read,)

    def _fail(self, message: str) -> LoadError:
        return LoadError(f"{self._opened.label}: {shorten(message)}")


_FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, AssertionError, NotImplementedError, RecursionError)


def _is_opaque(node: onnx.NodeProto, opset: int) -> bool:
    """Whether the IR has no word for the node: one with graphs inside, of another domain, or of an op it lacks."""
    if node.domain not in DEFAULT_DOMAINS or any(graphs_of(node)):
        return True
    is_known = node.op_type in READERS or (node.op_type in OPS and not issubclass(OPS[node.op_type], Leaf | Project))
    return not is_known and schema(node.op_type, opset) is not None


def _reader(op_type: str) -> Any:
    if op_type in READERS:
        return READERS[op_type]
    if op_type not in OPS or issubclass(OPS[op_type], Leaf | Project):
        raise ValueError("this op is not supported")
    return OPS[op_type].read
