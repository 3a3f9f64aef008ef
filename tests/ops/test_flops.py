"""The arithmetic operations of every op, counted by hand. An op without a row fails the suite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.ir import OPS, Constant, Graph, Op, Parameter, Value, apply, dim, input, project, tensor  # noqa: A004
from lora_graph.ir.dims import evaluate
from lora_graph.ops.scan import Scan
from tests.op_rows.common import op

DTYPES = {"i": "int64", "l": "int32", "b": "bool"}
UNARY = [
    *("Neg", "Abs", "Sign", "Floor", "Ceil", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "IsNaN", "Relu"),
    *("Sigmoid", "Tanh", "Erf", "LeakyRelu", "Elu", "Softplus", "Swish", "Gelu", "HardSigmoid", "HardSwish", "Selu"),
]
COMPARISONS = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
BINARY = ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", *COMPARISONS, "PRelu"]
REDUCTIONS = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"]
POOL = ((2, 2), (1, 1), (0, 0, 0, 0), (1, 1))
GATED = "3 2 5", "1 8 5", "1 8 2"  # time 3, batch 2, 5 features; 4 gates of 2


def leaf(position: int, text: str) -> Value:
    """An operand such as ``"2 3"`` (float32), or ``"i:2 3"`` (int64; l: int32, b: bool)."""
    kind, _, shape = text.rpartition(":")
    sizes = [int(size) if size.isdigit() else size for size in shape.split()]
    return input(f"x{position}", DTYPES.get(kind, "float32"), sizes)


def applied(what: Op, *operands: str) -> Value:
    return apply(what, *(ops.absent() if text == "-" else leaf(i, text) for i, text in enumerate(operands)))


def body() -> Graph:
    """h' = tanh(h w + x), which is also the result of a step."""
    h, x, w = input("h", "float32", (2, 3)), input("x", "float32", (2, 3)), input("w", "float32", (3, 3))
    y = (h @ w + x).tanh()
    return Graph((h, x, w), {"h": y, "y": y})


ROWS: list[tuple[Value, int]] = [
    # an element-wise op: one an element, whichever function
    *((applied(op(name), "2 3 4"), 2 * 3 * 4) for name in UNARY),
    *((applied(op(name), "2 3 4", "4"), 2 * 3 * 4) for name in BINARY),
    *((applied(op(name), "b:2 3", "b:2 3"), 2 * 3) for name in ("And", "Or", "Xor")),
    (applied(op("Not"), "b:2 3"), 2 * 3),
    (applied(op("Mod"), "i:2 3", "i:3"), 2 * 3),
    (applied(op("Add"), "2 1", "1 3"), 2 * 3),
    (applied(op("Where"), "b:2 3", "2 3", ""), 2 * 3),
    (applied(op("Clip"), "2 3", "", ""), 2 * 3),
    (applied(op("Cast", np.dtype("float64")), "2 3"), 2 * 3),
    # a reduction: one an element that goes into it
    *((applied(op(name, (1,)), "2 3 4"), 2 * 3 * 4) for name in REDUCTIONS),
    (applied(op("ArgMax", 1), "2 3 4"), 2 * 3 * 4),
    (applied(op("CumSum", 1), "2 3 4"), 2 * 3 * 4),
    (applied(op("ReduceSumSquare", (1,)), "2 3"), 6 + 6),
    (applied(op("ReduceL2", (1,)), "2 3"), 6 + 6 + 2),  # squares, sums, roots
    (applied(op("ReduceVariance", (1,)), "2 3"), 6 + 6 + 6 + 6),  # means, differences, squares, means
    # the maximum, minus, exp, the sum, divided by (or minus its logarithm)
    *((applied(op(name), "2 3"), 5 * 2 * 3) for name in ("Softmax", "LogSoftmax", "SafeSoftmax")),
    # products: two for each product that is summed
    (applied(op("MatMul"), "2 3", "3 4"), 2 * (2 * 4) * 3),
    (applied(op("MatMul"), "5 2 3", "3 4"), 2 * (5 * 2 * 4) * 3),
    (applied(op("MatMul"), "5 2 3", "5 3 4"), 2 * (5 * 2 * 4) * 3),
    (applied(op("MatMul"), "3", "3"), 2 * 3),
    (applied(op("AddMatMul"), "2 4", "2 3", "3 4"), 2 * (2 * 4) * 3 + 2 * 4),
    (applied(op("Gemm"), "2 3", "3 4"), 2 * (2 * 4) * 3),
    (applied(op("Gemm", 1.0, 1.0, 1, 1), "3 2", "4 3", "4"), 2 * (2 * 4) * 3 + 2 * 4),
    (applied(op("Gemm", 0.5, 2.0), "2 3", "3 4", "4"), 2 * (2 * 4) * 3 + 2 * 4 + 4 + 2 * 4),  # α, β c, the sum
    (applied(op("Einsum", "ij,jk->ik"), "2 3", "3 4"), 2 * 2 * 3 * 4),
    (applied(op("Einsum", "i,j->ij"), "2", "3"), 2 * 3),
    (applied(op("Einsum", "ij->i"), "2 3"), 2 * 3),
    (applied(op("Einsum", "ij->ji"), "2 3"), 0),
    (applied(op("Einsum", "i,i,i->"), "3", "3", "3"), 3 * 3),
    # each element of y, 2x4x6x6, is a sum over 3 channels of a kernel of 9
    (applied(op("Conv", (1, 1), (0, 0, 0, 0), (1, 1)), "2 3 8 8", "4 3 3 3"), 2 * (2 * 4 * 6 * 6) * 3 * 9),
    (applied(op("Conv", (1, 1), (0, 0, 0, 0), (1, 1)), "2 3 8 8", "4 3 3 3", "4"), (2 * 3 * 9 + 1) * (2 * 4 * 6 * 6)),
    (applied(op("Conv", (2, 2), (1, 1, 1, 1), (1, 1), 2), "2 6 8 8", "4 3 3 3"), 2 * (2 * 4 * 4 * 4) * 3 * 9),
    (applied(op("ConvTranspose", (2,), (0, 0), (1,), (0,)), "2 3 5", "3 4 3"), 2 * (2 * 3 * 5) * 4 * 3),
    (applied(op("ConvTranspose", (2,), (0, 0), (1,), (0,)), "2 3 5", "3 4 3", "4"), 2 * 30 * 4 * 3 + 2 * 4 * 11),
    (applied(op("ConvWeightGradient", (3,), (1,), (0, 0), (1,)), "2 3 7", "2 4 5"), 2 * (2 * 4 * 5) * 3 * 3),
    # one for each element of each window
    *((applied(op(name, *POOL), "2 3 5 5"), (2 * 3 * 4 * 4) * 4) for name in ("MaxPool", "MaxPoolIndices")),
    (applied(op("AveragePool", *POOL), "2 3 5 5"), (2 * 3 * 4 * 4) * 4),
    *((applied(op(name), "2 3 5 5"), 2 * 3 * 5 * 5) for name in ("GlobalAveragePool", "GlobalMaxPool")),
    # mean, minus, square, mean, divided, scaled, shifted; and + ε and √ a row
    (applied(op("LayerNormalization"), "2 4", "4", "4"), 7 * 8 + 2 * 2),
    (applied(op("LayerNormalization"), "2 4", "4"), 6 * 8 + 2 * 2),
    (applied(op("RMSNormalization"), "2 4", "4"), 4 * 8 + 2 * 2),  # square, mean, divided, scaled
    (applied(op("BatchNormalization"), "2 3 5", "3", "3", "3", "3"), 4 * 30 + 2 * 3),
    # log-softmax, then minus and mean of what was picked
    (applied(op("SoftmaxCrossEntropyLoss"), "2 4", "i:2"), 5 * 8 + 2 + 2),
    (applied(op("NegativeLogLikelihoodLoss"), "2 4", "i:2"), 2 + 2),
    (applied(op("NegativeLogLikelihoodLoss", "sum"), "2 4", "i:2", "4"), 2 + 2 + 2),
    (applied(op("RotaryEmbedding"), "2 3 5 4", "2 5 2", "2 5 2"), 3 * (2 * 3 * 5 * 4)),
    # scale Q; Q Kᵀ for 3 queries and 5 keys of size 4, in 2 x 2 heads; softmax; the product with V of size 6
    (
        applied(op("Attention"), "2 2 3 4", "2 2 5 4", "2 2 5 6"),
        4 * (3 * 4 + 2 * 3 * 5 * 4 + 5 * 3 * 5 + 2 * 3 * 6 * 5),
    ),
    (
        applied(op("Attention", 1), "2 2 5 4", "2 2 5 4", "2 2 5 4"),  # and the bias that hides what comes later
        4 * (5 * 4 + 2 * 25 * 4 + 25 + 5 * 25 + 2 * 5 * 4 * 5),
    ),
    # three times: h w, + x, tanh
    (applied(Scan(body(), 1, 1), "2 3", "4 2 3", "3 3"), 4 * (2 * 2 * 3 * 3 + 6 + 6)),
    # x W for all steps; at each of them h R, the sum, the function
    (applied(op("RNN", 2), "3 2 5", "1 2 5", "1 2 2"), 2 * 6 * 2 * 5 + 3 * (2 * 2 * 2 * 2 + 4 + 4)),
    # 3 gates and the candidate of 2; f c + i g, tanh c', its product with o
    (applied(op("LSTM", 2), *GATED), 2 * 6 * 8 * 5 + 3 * 2 * (2 * 2 * 8 + 8 + 3 * 2 + 2 + 3 * 2 + 2 + 2)),
    (
        applied(op("LSTM", 2), *GATED, "1 16"),  # both biases are added up once, then to every step
        2 * 6 * 8 * 5 + 8 + 6 * 8 + 3 * 2 * (2 * 2 * 8 + 8 + 3 * 2 + 2 + 3 * 2 + 2 + 2),
    ),
    (
        applied(op("LSTM", 2, "bidirectional"), "3 2 5", "2 8 5", "2 8 2"),
        2 * (2 * 6 * 8 * 5 + 3 * 2 * (2 * 2 * 8 + 8 + 3 * 2 + 2 + 3 * 2 + 2 + 2)),
    ),
    # z and r of 2: h R, sum, function; r h, its product with R_h, sum, function; n + z (h - n)
    (applied(op("GRU", 2), "3 2 5", "1 6 5", "1 6 2"), 2 * 6 * 6 * 5 + 3 * 2 * (2 * 2 * 4 + 4 + 4 + 2 + 8 + 2 + 2 + 6)),
    # what adds or multiplies what it puts
    (applied(op("ScatterElements", 0, "add"), "4 3", "i:2 3", "2 3"), 2 * 3),
    (applied(op("ScatterND", "mul"), "4 3", "i:2 1", "2 3"), 2 * 3),
    # what only moves elements
    (applied(op("ScatterElements"), "4 3", "i:2 3", "2 3"), 0),
    (applied(op("ScatterND"), "4 3", "i:2 1", "2 3"), 0),
    (applied(op("Gather"), "5 3", "i:2"), 0),
    (applied(op("GatherElements"), "5 3", "i:2 3"), 0),
    (applied(op("GatherND"), "5 3", "i:2 1"), 0),
    (applied(op("Transpose", (1, 0)), "2 3"), 0),
    (applied(op("Reshape", (3, 2)), "2 3"), 0),
    (applied(op("Expand", (5, 2)), "2"), 0),
    (applied(op("Squeeze", (0,)), "1 2"), 0),
    (applied(op("Unsqueeze", (0,)), "2"), 0),
    (applied(op("Flatten"), "2 3 4"), 0),
    (applied(op("Slice", (0,), (1,), (0,), (1,)), "2 3"), 0),
    (applied(op("SliceTo", 0, dim("n")), "5 3", "i:1"), 0),
    (applied(op("Concat", 0), "2 3", "2 3"), 0),
    (applied(op("Pad", (1, 1)), "3"), 0),
    (applied(op("EyeLike", np.dtype("float32")), "3 3"), 0),
    (applied(op("Trilu"), "3 3"), 0),
    (applied(op("StopGradient"), "3 3"), 0),
    (applied(op("After"), "3 3", "2"), 0),
    # what computes nothing
    (leaf(0, "2 3"), 0),
    (apply(Parameter("w", tensor("float32", (2, 3)))), 0),
    (apply(Constant(np.ones(3))), 0),
    (apply(op("Dimension", dim("2*batch"))), 0),
    (ops.absent(), 0),
    (project(applied(op("RNN", 2), "3 2 5", "1 2 5", "1 2 2"), 0), 0),
]


@pytest.mark.parametrize(("value", "expected"), ROWS, ids=lambda item: item.op.name if isinstance(item, Value) else "")
def test_operations(value: Value, expected: int) -> None:
    assert value.flops == expected


def test_every_op_has_a_row() -> None:
    unknown = {"Opaque"}  # what it does is not known
    assert {value.op.name for value, _ in ROWS} == OPS.keys() - unknown


@pytest.mark.parametrize(
    ("value", "sizes", "expected"),
    [
        (applied(op("MatMul"), "batch 3", "3 4"), {"batch": 7}, 2 * 7 * 4 * 3),
        (applied(op("LayerNormalization"), "batch 4", "4"), {"batch": 7}, 6 * 7 * 4 + 2 * 7),
        (applied(op("RNN", 2), "time batch 5", "1 2 5", "1 2 2"), {"time": 3, "batch": 2}, 120 + 3 * 24),
    ],
)
def test_of_named_dimensions(value: Value, sizes: dict[str, int], expected: Any) -> None:
    assert evaluate(value.flops, sizes) == expected
