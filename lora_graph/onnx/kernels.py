"""What ONNX and ONNX Runtime can compute: which ops exist at an opset, and for which dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from lora_graph.ir.types import TensorType

FLOATS = frozenset({"float16", "float32", "float64"})

NO_KERNEL: dict[str, frozenset[str]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "AveragePool", "GlobalAveragePool"), frozenset({"float64"})),
    **dict.fromkeys(("GlobalMaxPool", "InstanceNormalization", "LSTM", "GRU", "RNN"), frozenset({"float64"})),
    **dict.fromkeys(("Erf", "Gelu", "Elu", "Softplus", "LeakyRelu", "PRelu"), frozenset({"float64"})),
    **dict.fromkeys(("Selu", "HardSigmoid", "HardSwish", "Mish", "Softsign"), frozenset({"float64"})),
    "Attention": frozenset({"float64"}),
    "Gemm": frozenset({"int32", "int64"}),
    "Relu": frozenset({"int64"}),
    "ScatterElements add": frozenset({"float16"}),
    "ScatterND add": frozenset({"float16"}),
    "Swish": FLOATS,
    "Where": frozenset({"bool"}),
}
"""The dtypes that the CPU provider of ONNX Runtime 1.31 lacks a kernel for, although ONNX allows them.

Measured at opsets 21 to 26 by making a session with one node for each op and each of float16, float32, float64, int8,
uint8, int32, int64 and bool; LSTM and GRU (float64) and the scatter ops (float16, with the reduction ``add``) make a
session and then fail when it runs. Without a kernel for float64, Attention is computed with a scale that is rounded to
float32, and is NaN for a query that sees nothing. Swish, a function of opset 24, runs in a model of opset 24 and in no
later one.
"""


def why_not(op_type: str, operands: Sequence[TensorType | None], opset: int, reduction: str = "") -> str:
    """Why a node cannot be written for operands of these types, or "" if it can. None is an operand of unknown type."""
    allowed = _operand_types(op_type, opset)
    if allowed is None:
        return f"ONNX has no {op_type} at opset {opset}"
    for operand, kinds in zip(operands, allowed, strict=False):
        if operand is None:
            continue
        if _spelling(operand.dtype) not in kinds:
            return f"ONNX has no {op_type} for {operand.dtype.name} at opset {opset}"
    computed = operands[1 if op_type == "Where" else 0] if operands else None
    lacking = NO_KERNEL.get(op_type) or NO_KERNEL.get(f"{op_type} {reduction}", frozenset())
    if computed is not None and computed.dtype.name in lacking:
        return f"ONNX Runtime's CPU provider has no {op_type} for {computed.dtype.name}"
    return ""


@cache
def schema(op_type: str, opset: int) -> Any:
    """What ONNX itself says about an op (an ``OpSchema``), or None if it has no such op at ``opset``."""
    try:
        return onnx.defs.get_schema(op_type, opset)
    except onnx.defs.SchemaError:
        return None


@cache
def results_needed(op_type: str, opset: int) -> int:
    """How many results a node has to name, used or not: all where their number is open."""
    known = schema(op_type, opset)
    is_open = known.outputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    return int(known.max_output if is_open else known.min_output)


@cache
def _operand_types(op_type: str, opset: int) -> tuple[frozenset[str], ...] | None:
    """The types that ONNX lets each operand have (a variadic one is listed once), or None if there is no such op."""
    known = schema(op_type, opset)
    return None if known is None else tuple(frozenset(formal.types) for formal in known.inputs)


@cache
def _spelling(dtype: Any) -> str:
    return f"tensor({onnx.TensorProto.DataType.Name(int(ir.DataType.from_numpy(dtype))).lower()})"
