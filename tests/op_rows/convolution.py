"""Rows of convolutions, their transposes and the gradient of their kernels, against plain loops."""

from __future__ import annotations

from collections.abc import Iterator

from tests.op_cases import Case, case, x
from tests.op_rows.common import op
from tests.op_rows.convolution_formulas import Ints, convolved, transposed, weighed

GEOMETRIES: tuple[tuple[str, str, Ints, Ints, Ints, int], ...] = (
    ("batch 2 5", "3 2 3", (1,), (1, 1), (1,), 1),
    ("batch 2 6", "4 1 2", (2,), (1, 0), (2,), 2),
    ("batch 2 4 5", "3 2 3 3", (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("batch 2 3 2", "3 2 1 1", (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ("batch 2 5 4", "2 2 3 2", (2, 1), (1, 0, 0, 2), (1, 1), 1),
    ("batch 1 6 5", "2 1 2 2", (1, 2), (0, 1, 1, 0), (3, 2), 1),
    ("batch 4 3 3", "2 2 2 2", (1, 1), (0, 0, 1, 1), (1, 1), 2),
    ("batch 3 4 3", "6 1 3 3", (2, 2), (1, 1, 1, 1), (1, 1), 3),
    ("batch 1 3 2 3", "2 1 2 2 2", (1, 1, 2), (0, 1, 0, 1, 0, 1), (1, 1, 1), 1),
    ("batch 2 time width", "2 2 3 3", (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("batch 2 time width", "4 1 2 3", (2, 3), (1, 1, 0, 2), (1, 1), 2),
    ("2 2 width", "3 2 2", (1,), (0, 0), (1,), 1),
)
"""Shapes of x and w, strides, pads, dilations and group."""

TRANSPOSES: tuple[tuple[str, str, Ints, Ints, Ints, Ints, int], ...] = (
    ("batch 2 4", "2 3 3", (1,), (1, 1), (1,), (0,), 1),
    ("batch 2 3", "2 2 2", (2,), (0, 1), (2,), (1,), 2),
    ("batch 2 2", "2 1 2", (2,), (0, 0), (3,), (1,), 1),
    ("batch 2 3 2", "2 3 3 3", (2, 2), (1, 1, 1, 1), (1, 1), (1, 1), 1),
    ("batch 2 3 2", "2 1 1 2", (1, 3), (0, 0, 0, 1), (1, 1), (0, 2), 1),
    ("batch 3 2 2", "3 1 2 2", (1, 2), (1, 0, 0, 0), (1, 1), (0, 0), 3),
    ("batch 1 2 1 2", "1 2 2 1 2", (1, 2, 2), (0, 0, 1, 1, 0, 0), (1, 1, 1), (0, 1, 0), 1),
    ("batch 2 time width", "2 2 3 3", (2, 1), (1, 1, 1, 1), (1, 1), (1, 0), 1),
    ("batch 2 time", "2 2 2", (3,), (0, 1), (1,), (2,), 2),
)
"""Shapes of x and w, strides, pads, dilations, output_padding and group."""

WEIGHTS: tuple[tuple[str, str, Ints, Ints, Ints, Ints, int], ...] = (
    ("batch 2 5", "batch 3 5", (3,), (1,), (1, 1), (1,), 1),
    ("batch 2 6", "batch 2 3", (2,), (2,), (1, 0), (2,), 2),
    ("batch 2 4 5", "batch 3 4 5", (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("batch 2 5 4", "batch 2 2 4", (3, 2), (2, 1), (1, 0, 0, 1), (1, 1), 1),
    ("batch 3 4 3", "batch 6 2 2", (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 3),
    ("batch 1 6", "batch 1 3", (2,), (1,), (0, 0), (3,), 1),
    ("batch 2 time width", "batch 2 time width", (3, 1), (1, 1), (1, 0, 1, 0), (1, 1), 1),
)
"""Shapes of x and y, kernel, strides, pads, dilations and group."""


def convolution() -> Iterator[Case]:
    for a, w, s, p, d, g in GEOMETRIES:
        for bias in ((), (x(w.split()[0]),)):
            yield case(op("Conv", s, p, d, g), x(a), x(w), *bias, expected=convolved(s, p, d, g), onnx64=False)
    for a, w, s, p, d, more, g in TRANSPOSES:
        outputs = x(str(int(w.split()[1]) * g))
        for bias in ((), (outputs,)):
            transpose = op("ConvTranspose", s, p, d, more, g)
            yield case(transpose, x(a), x(w), *bias, expected=transposed(s, p, d, more, g), onnx64=False)
    for a, y, k, s, p, d, g in WEIGHTS:
        weight = op("ConvWeightGradient", k, s, p, d, g)
        yield case(weight, x(a), x(y), expected=weighed(k, s, p, d, g), onnx64=False)
