"""Rows of the ops without operands."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lora_graph.ir import Absent, Constant, Dimension, Input, Parameter, dim, tensor
from tests.op_cases import Case, case


def leaves() -> Iterator[Case]:
    yield case(Input("x", tensor(np.float32, ("batch", 3))), expected=None)
    yield case(Parameter("w", tensor(np.float32, (2, 3)), False), expected=None)
    yield case(Dimension(dim("2*batch+1")), expected=None)  # type: ignore[arg-type]
    yield case(Absent(), expected=lambda: np.zeros(0, bool), onnx=False)
    for value in (1.5, -0.0, np.nan, np.inf, [[1.0, 2.0]], np.zeros((0, 2)), np.float32(0.1), np.float16(0.1)):
        yield case(Constant(np.asarray(value)), expected=lambda value=value: np.asarray(value))
    for value in (3, [True, False], np.arange(4, dtype=np.int32), np.uint8(200)):
        yield case(Constant(np.asarray(value)), expected=lambda value=value: np.asarray(value))
