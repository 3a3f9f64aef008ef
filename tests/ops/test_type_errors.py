"""What does not fit is told when the expression is built, by the right error naming what was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph.ops as ops
from lora_graph.ir import OPS, Value, apply, input  # noqa: A004

M = input("m", np.float32, (2, 3))
D = input("d", np.float64, (2, 3))
V = input("v", np.float32, (4,))
N = input("n", np.int64, (2,))
B = input("b", np.bool_, (2, 3))
S = input("s", np.float32, ())
NAMED = input("x", np.float32, ("batch", 3))


def op(name: str, *operands: Value, attributes: tuple[Any, ...] = ()) -> Value:
    return apply(OPS[name](*attributes), *operands)


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: M + D, TypeError, r"Add: operands must share one dtype, got float32\[2, 3\], float64\[2, 3\]"),
    (lambda: op("Tanh", M, M), TypeError, "Tanh takes 1 operands, got 2"),
    (lambda: op("Add", M), TypeError, "Add takes 2 operands, got 1"),
    (lambda: M + V, ValueError, r"Add: shapes \[2, 3\] and \[4\] do not broadcast"),
    (lambda: B + B, TypeError, "Add is not defined for bool"),
    (lambda: N.exp(), TypeError, "Exp is not defined for int64"),
    (lambda: op("Mod", M, M), TypeError, "Mod: floats take fmod=1"),
    (lambda: op("And", M, M), TypeError, "And is not defined for float32"),
    (lambda: op("Where", M, M, M), TypeError, r"the condition must be bool, got float32\[2, 3\]"),
    (lambda: op("Where", B, M, D), TypeError, "must share one dtype"),
    (lambda: op("Clip", M, V, S), ValueError, r"bounds must be scalars, got float32\[4\]"),
    (lambda: op("Gelu", M, attributes=("sigmoid",)), ValueError, "approximate is 'none' or 'tanh', not 'sigmoid'"),
    (lambda: M @ V, ValueError, "dimension 3 does not equal 4"),
    (lambda: M @ D, TypeError, "MatMul: operands must share one dtype"),
    (lambda: M @ S, ValueError, "at least one axis"),
    (lambda: B @ B, TypeError, "MatMul is not defined for bool"),
    (lambda: op("Gemm", M, V), ValueError, "a and b must be matrices"),
    (lambda: op("Gemm", M, M), ValueError, "dimension 3 does not equal 2"),
    (lambda: op("Gemm", M, M.T, V), ValueError, "do not broadcast"),
    (lambda: op("Gemm", M, M.T, D), TypeError, "must share one dtype"),
    (lambda: op("Gemm", N.reshape(2, 1), N.reshape(1, 2), attributes=(0.5,)), TypeError, "scale floats only"),
    (lambda: op("EyeLike", V, attributes=(np.dtype(np.float32),)), ValueError, "must be a matrix"),
    (lambda: op("LayerNormalization", M, V), ValueError, "does not fit the normalized axes"),
    (lambda: op("LayerNormalization", M, D[0]), TypeError, "floats of one dtype"),
    (lambda: ops.softmax(N), TypeError, "Softmax is defined for floats"),
    (lambda: ops.softmax(S), ValueError, "axis -1 is out of range for 0 dimensions"),
    (lambda: B.sum(), TypeError, r"ReduceSum is not defined for bool\[2, 3\]"),
    (lambda: N.mean(), TypeError, "ReduceMean is not defined for int64"),
    (lambda: M.sum(axis=2), ValueError, "axis 2 is out of range for 2 dimensions"),
    (lambda: M.sum(axis=True), TypeError, "axis must be an int, got True"),
    (lambda: M.sum(axis=(1, -1)), ValueError, "repeat an axis"),
    (lambda: op("ReduceSum", M, attributes=((),)), ValueError, "None means all of them"),
    (lambda: op("Transpose", M, attributes=((0, 0),)), ValueError, r"perm must order the axes 0..1 .*got \(0, 0\)"),
    (lambda: M.reshape(4, 2), ValueError, r"float32\[2, 3\] has 6 elements, which \[4, 2\] has not"),
    (lambda: NAMED.reshape(-1, 2), ValueError, "cannot infer -1"),
    (lambda: M.reshape(2, -2), ValueError, "a dimension cannot be negative"),
    (lambda: ops.expand(M, (4, 3)), ValueError, "do not broadcast"),
    (lambda: ops.squeeze(M, 0), ValueError, "axis 0 of .* dimension 2 does not equal 1"),
    (lambda: op("Squeeze", M[:1], attributes=((0, 0),)), ValueError, "repeat an axis"),
    (lambda: ops.unsqueeze(M, (0, 0)), ValueError, "repeat an axis"),
    (lambda: ops.unsqueeze(M, 4), ValueError, "axis 4 is out of range for 3 dimensions"),
    (lambda: op("Slice", M, attributes=((0, 0), (1, 1), (0, -2), (1, 1))), ValueError, "repeat an axis"),
    (lambda: NAMED[3:1:-1], ValueError, "a backward slice of a named dimension has to take the whole axis"),
    (lambda: ops.concat([M, D]), TypeError, "Concat: operands must share one dtype"),
    (lambda: ops.concat([M, V]), ValueError, "Concat: operands must have one rank"),
    (lambda: ops.concat([M, M[:1]], 1), ValueError, "dimension 2 does not equal 1"),
    (lambda: ops.concat([]), ValueError, "at least one operand"),
    (lambda: op("Pad", M, attributes=((1, 1),)), ValueError, "takes 4 pads, got 2"),
    (lambda: op("Pad", M, V, attributes=((0, 0, 1, 1),)), ValueError, "must be a scalar of its dtype"),
    (lambda: op("Pad", M, attributes=((-1, 0, -2, 0),)), ValueError, "cuts more than there is"),
    (lambda: op("Pad", M, attributes=((0, 0, 0, 0), "mirror")), ValueError, "not 'mirror'"),
    (lambda: ops.gather(M, S), TypeError, "indices must be int32 or int64, got float32"),
    (lambda: ops.gather(S, N), ValueError, "axis 0 is out of range"),
    (lambda: op("GatherElements", M, N), ValueError, "must have one rank"),
    (lambda: op("ScatterElements", V, N, V, attributes=(0,)), ValueError, "do not fit"),
    (lambda: op("ScatterElements", V, N, V, attributes=(0, "div")), ValueError, "reduction is 'none', 'add'"),
    (lambda: op("GatherND", M, input("i", np.int32, (4, 1))), TypeError, "indices must be int64"),
    (lambda: op("GatherND", M, input("i", np.int64, (4, 3))), ValueError, "must index into"),
    (lambda: op("ScatterND", M, input("i", np.int64, (4, 1)), V), ValueError, "do not fit"),
    (lambda: op("SoftmaxCrossEntropyLoss", M, M), TypeError, "indices must be int32 or int64"),
    (lambda: op("SoftmaxCrossEntropyLoss", V, N), ValueError, "ints with one axis less"),
    (lambda: op("SoftmaxCrossEntropyLoss", M, input("k", np.int64, (5,))), ValueError, "dimension 2 does not equal 5"),
    (lambda: op("SoftmaxCrossEntropyLoss", M, N, attributes=("max",)), ValueError, "reduction is 'mean', 'sum'"),
]


@pytest.mark.parametrize(("build", "error", "words"), ERRORS)
def test_error(build: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build()
