"""A graph and its state as an ONNX model."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import onnx
import onnx_ir as ir

from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array
from lora_graph.onnx.attributes import PARAMETERS, VERSION
from lora_graph.onnx.lowering import GraphLowering
from lora_graph.version import __version__

IR_VERSIONS = {21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}
"""The IR version that came with each opset a model can be written in."""

PROTO_LIMIT = 2**31 - 2**20
"""Bytes of weights that still fit a model held in one message, with room for everything else."""


def lower(
    graph: Graph,
    state: Mapping[str, Array],
    *,
    opset: int = 21,
    metadata: Mapping[str, str] | None = None,
    doc: str = "",
    overridable: Collection[str] = (),
) -> onnx.ModelProto:
    """``graph`` as an ONNX model with the arrays of ``state`` as initializers.

    Inputs, outputs and Parameters keep their names, named dimensions become ``dim_param``, every Value gets its
    inferred type, and ``metadata`` becomes metadata properties. A Parameter that ``overridable`` names, or whose shape
    is symbolic, can be given in place of its array when the model runs. Raises ValueError for an opset outside 21..26,
    a state that does not fit, an op with no ONNX form for its dtype or opset, or more than 2 GB of weights.
    """
    model = build(graph, state, opset=opset, metadata=metadata, doc=doc, overridable=overridable)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size > PROTO_LIMIT:
        raise ValueError(f"{size} bytes of weights do not fit a model in memory (2 GB): give a path to write it to")
    return ir.to_proto(model)


def build(
    graph: Graph,
    state: Mapping[str, Array],
    *,
    opset: int = 21,
    metadata: Mapping[str, str] | None = None,
    doc: str = "",
    overridable: Collection[str] = (),
) -> ir.Model:
    """As :func:`lower`, as a model that refers to the arrays of ``state`` without copying them."""
    if opset not in IR_VERSIONS:
        raise ValueError(f"opset must be in {min(IR_VERSIONS)}..{max(IR_VERSIONS)}, got {opset!r}")
    parameters = {name: name in graph.trainable for name in graph.parameters}
    own = {VERSION: __version__, PARAMETERS: json.dumps(parameters)}
    for key, text in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"metadata maps str to str, got {key!r}: {text!r}")
        if own.setdefault(key, text) != text:
            raise ValueError(f"metadata key {key!r} is written by the exporter itself")
    return ir.Model(
        GraphLowering(graph, state, opset, overridable).run(),
        ir_version=IR_VERSIONS[opset],
        producer_name="lora_graph",
        producer_version=__version__,
        doc_string=doc or None,
        metadata_props=own,
    )
