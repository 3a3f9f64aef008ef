"""The intermediate representation: dimensions, types, Values, graphs, their text and their verifier."""

from lora_graph.ir.dims import Dim, Shape, SymbolicDim, dim
from lora_graph.ir.graph import Graph, Note, replace
from lora_graph.ir.leaves import (
    Absent,
    Constant,
    Dimension,
    Input,
    Parameter,
    Project,
    absent,
    constant,
    input,  # noqa: A004
    parameter,
    project,
    size_of,
)
from lora_graph.ir.op import OPS, Op
from lora_graph.ir.opaque import Opaque
from lora_graph.ir.text import parse
from lora_graph.ir.types import TensorType, TupleType, Type, tensor
from lora_graph.ir.value import Value, apply, lift, topological
from lora_graph.ir.verify import VerificationError, verify

__all__ = [
    "OPS",
    "Absent",
    "Constant",
    "Dim",
    "Dimension",
    "Graph",
    "Input",
    "Note",
    "Op",
    "Opaque",
    "Parameter",
    "Project",
    "Shape",
    "SymbolicDim",
    "TensorType",
    "TupleType",
    "Type",
    "Value",
    "VerificationError",
    "absent",
    "apply",
    "constant",
    "dim",
    "input",
    "lift",
    "parameter",
    "parse",
    "project",
    "replace",
    "size_of",
    "tensor",
    "topological",
    "verify",
]
