"""Nodes that the IR has no op for: read as they are, run by ONNX Runtime, and written as they were read."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.leaves import Constant, project
from lora_graph.ir.opaque import OPERAND, RESULT, Opaque
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.onnx.kernels import schema
from lora_graph.onnx.source import DEFAULT_DOMAINS, Opened
from lora_graph.onnx.subgraphs import captured, graphs_of, nested_nodes, rename, tensors_in
from lora_graph.onnx.tensors import dtype_of, read_tensor

RANDOM = (
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
REDEFINED = ("GroupNormalization",)
"""Ops of which a later version takes the same operands for something else."""

TOKEN = "lora_graph.token"
"""Node metadata: what tells one draw of random numbers from another."""


def read_opaque(
    node: onnx.NodeProto, opened: Opened, values: Mapping[str, Value], declared: Mapping[str, onnx.ValueInfoProto]
) -> tuple[Value, ...]:
    """The results of ``node`` in order; ``values`` are those of the names around it, ``declared`` the file's types.

    ValueError where a type cannot be found out, or something inside the node is no ONNX.
    """
    versions = {entry.domain: entry.version for entry in opened.model.opset_import}
    _check(node, versions, opened.opset)
    outer = list(dict.fromkeys(name for name in (*node.input, *captured(node)) if name))
    missing = [name for name in outer if name not in values]
    if missing:
        raise ValueError(f"{missing[0]!r} is used inside but not defined")
    given = [values[name] for name in outer]
    stored = _canonical(node, outer, opened)
    version = versions.get(node.domain, opened.opset)
    results = [name for name in node.output if name]
    types = _types(stored, given, opened.opset, version, [declared.get(name) for name in results], results)
    op = Opaque(
        node.op_type,
        stored.SerializeToString(deterministic=True),
        types,
        opened.opset,
        "" if node.domain in DEFAULT_DOMAINS else node.domain,
        version,
        _token(node),
    )
    value: Value = apply(op, *given)
    return (value,) if len(types) == 1 else tuple(project(value, i) for i in range(len(types)))


def _check(node: onnx.NodeProto, versions: Mapping[str, int], opset: int) -> None:
    for inner in nested_nodes(node):
        if inner.domain in DEFAULT_DOMAINS:
            _check_attributes(inner, opset)
        elif inner.domain not in versions:
            raise ValueError(f"its domain {inner.domain!r} is not imported by the model, so it is not supported")
        if any(graph.sparse_initializer for graph in graphs_of(inner)):
            raise ValueError("sparse initializers are not supported")


def _check_attributes(node: onnx.NodeProto, opset: int) -> None:
    """Raise unless the op is one of ONNX's and has the attributes that it has to have, and no others."""
    known = schema(node.op_type, opset)
    if known is None:
        raise ValueError(f"the op {node.op_type!r} is not supported at opset {opset}")
    given = {attribute.name for attribute in node.attribute}
    wrong = sorted(given - set(known.attributes))
    wrong += [name for name, attribute in known.attributes.items() if attribute.required and name not in given]
    if wrong:
        what = "not an attribute of" if wrong[0] in given else "missing in"
        raise ValueError(f"{wrong[0]!r} is {what} {node.op_type} at opset {opset}")


def _canonical(node: onnx.NodeProto, outer: Sequence[str], opened: Opened) -> onnx.NodeProto:
    """``node`` with names that follow from positions alone, and with all its data in it."""
    stored = onnx.NodeProto()
    stored.CopyFrom(node)
    for field in ("name", "doc_string", "metadata_props"):
        stored.ClearField(field)
    attributes = sorted(stored.attribute, key=lambda attribute: attribute.name)
    stored.ClearField("attribute")
    stored.attribute.extend(attributes)
    for tensor in tensors_in(stored):
        array = read_tensor(tensor, opened.folder, opened.label)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), tensor.name))
    names = {name: f"{OPERAND}{i}" for i, name in enumerate(outer)}
    names.update({name: f"{RESULT}{i}" for i, name in enumerate(name for name in node.output if name)})
    rename(stored, lambda name: names.setdefault(name, f"inner{len(names)}"))
    return stored


def _token(node: onnx.NodeProto) -> str:
    for prop in node.metadata_props:
        if prop.key == TOKEN:
            return str(prop.value)
    return uuid.uuid4().hex if any(inner.op_type in RANDOM for inner in nested_nodes(node)) else ""


# types


def _types(
    node: onnx.NodeProto,
    operands: Sequence[Value],
    opset: int,
    version: int,
    declared: Sequence[onnx.ValueInfoProto | None],
    names: Sequence[str],
) -> tuple[TensorType, ...]:
    """The types of the results: what ONNX infers, and where it does not know, what the file declares."""
    known = {str(size): size for operand in operands for size in operand.shape}
    model = _model(node, [operand.type for operand in operands], [None] * len(names), opset, version)
    for i, operand in enumerate(operands):
        if isinstance(operand.op, Constant):
            model.graph.initializer.append(onnx.numpy_helper.from_array(operand.op.value, f"{OPERAND}{i}"))
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    return tuple(_type(name, found, file, known) for name, found, file in zip(names, inferred, declared, strict=True))


def _type(
    name: str, found: onnx.ValueInfoProto, file: onnx.ValueInfoProto | None, known: Mapping[str, Dim]
) -> TensorType:
    sources = [
        info.type.tensor_type for info in (found, file) if info is not None and info.type.HasField("tensor_type")
    ]
    kinds = [source.elem_type for source in sources if source.elem_type]
    shapes = [source.shape.dim for source in sources if source.HasField("shape")]
    if not kinds or not shapes or any(len(shape) != len(shapes[0]) for shape in shapes):
        raise ValueError(f"this op is not supported, and the type of its result {name!r} is not known")
    sizes = [_dim(f"{name}_{axis}", choices, known) for axis, choices in enumerate(zip(*shapes, strict=True))]
    return TensorType(dtype_of(kinds[0]), tuple(sizes))


def _dim(name: str, choices: Sequence[onnx.TensorShapeProto.Dimension], known: Mapping[str, Dim]) -> Dim:
    """The size that the first of ``choices`` gives which knows one; else one known by name only when it runs."""
    for choice in choices:
        if choice.HasField("dim_value"):
            return dims.dim(choice.dim_value)
        if choice.dim_param in known:
            return known[choice.dim_param]
    written = [choice.dim_param for choice in choices[1:] if choice.dim_param]
    return dims.dim(repr(written[0] if written else name))


# running


def run(op: Opaque, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """The results of ``op`` in ONNX Runtime."""
    session = _session(op.node, op.opset, op.version, tuple(array.dtype for array in arrays), op.results)
    try:
        found = session.run(None, {f"{OPERAND}{i}": array for i, array in enumerate(arrays)})
    except Exception as error:  # ONNX Runtime's own exceptions have no common base class but this one
        raise ValueError(f"ONNX Runtime cannot run {op.label}: {str(error).splitlines()[0]}") from error
    return tuple(found)


@lru_cache(maxsize=64)
def _session(
    content: bytes, opset: int, version: int, dtypes: tuple[np.dtype[Any], ...], results: tuple[TensorType, ...]
) -> Any:
    import onnxruntime

    node = onnx.NodeProto.FromString(content)
    operands = [TensorType(dtype, ()) for dtype in dtypes]
    model = _model(node, operands, [kind.dtype for kind in results], opset, version, with_shapes=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it calls an error is raised
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions have no common base class but this one
        label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        raise ValueError(f"ONNX Runtime cannot run {label}: {str(error).splitlines()[0]}") from error


def _model(
    node: onnx.NodeProto,
    operands: Sequence[TensorType],
    results: Sequence[np.dtype[Any] | None],
    opset: int,
    version: int,
    *,
    with_shapes: bool = True,
) -> onnx.ModelProto:
    """A model of one node."""

    def info(name: str, dtype: np.dtype[Any] | None, shape: list[int | str] | None) -> onnx.ValueInfoProto:
        if dtype is None:
            return onnx.helper.make_empty_tensor_value_info(name)
        return onnx.helper.make_tensor_value_info(name, int(ir.DataType.from_numpy(dtype)), shape)

    shapes = [[size if isinstance(size, int) else str(size) for size in kind.shape] for kind in operands]
    graph = onnx.helper.make_graph(
        [node],
        "opaque",
        [info(f"{OPERAND}{i}", kind.dtype, shapes[i] if with_shapes else None) for i, kind in enumerate(operands)],
        [info(f"{RESULT}{i}", dtype, None) for i, dtype in enumerate(results)],
    )
    imports = {"": opset, **({} if node.domain in DEFAULT_DOMAINS else {node.domain: version})}
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid(*entry) for entry in imports.items()], ir_version=10
    )


# writing


def written(op: Opaque, name_of: Callable[[str], str], opset: int) -> onnx.NodeProto:
    """The node of ``op`` with other names, in a model of ``opset``; ValueError if that would change its meaning."""
    node = onnx.NodeProto.FromString(op.node)
    for inner in nested_nodes(node):
        if inner.domain in DEFAULT_DOMAINS and not _means_the_same(inner.op_type, op.opset, opset):
            raise ValueError(
                f"{op.label} was written for opset {op.opset}, and its {inner.op_type} may not mean the same at {opset}"
            )
    rename(node, name_of)
    return node


def _means_the_same(op_type: str, then: int, now: int) -> bool:
    """Whether every node of this op at opset ``then`` is one at ``now``: later versions may only take more."""
    old, new = schema(op_type, then), schema(op_type, now)
    if new is None or old.since_version == new.since_version:
        return new is not None
    inputs, later = ([formal.name for formal in kind.inputs] for kind in (old, new))
    kept = all(_same_attribute(attribute, new.attributes.get(name)) for name, attribute in old.attributes.items())
    return op_type not in REDEFINED and kept and later[: len(inputs)] == inputs and not new.deprecated


def _same_attribute(old: Any, new: Any) -> bool:
    value = onnx.helper.get_attribute_value
    return new is not None and old.type == new.type and value(old.default_value) == value(new.default_value)
