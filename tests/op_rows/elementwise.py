"""Rows of the ops that work element by element."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.special

from lora_graph.ir import Op
from tests.op_cases import Case, Draw, b, case, chosen, distinct, i, nonzero, normal, positive, x
from tests.op_rows.common import op

BROADCAST = [
    ("batch 3", "batch 3"),
    ("batch 3", "3"),
    ("batch 3", ""),
    ("1 3", "batch 1"),
    ("3", "batch 2 3"),
    ("", ""),
]


def elementwise() -> Iterator[Case]:
    yield from arithmetic()
    yield from unary()
    yield from logic()
    yield from selection()
    yield from activations()


def arithmetic() -> Iterator[Case]:
    for left, right in BROADCAST:
        yield case(op("Add"), x(left), x(right), expected=lambda a, b: a + b)
        yield case(op("Sub"), x(left), x(right), expected=lambda a, b: a - b)
        yield case(op("Mul"), x(left), x(right), expected=lambda a, b: a * b)
        yield case(op("Div"), x(left), x(right, nonzero), expected=lambda a, b: a / b)
        yield case(op("Pow"), x(left, positive), x(right), expected=lambda a, b: a**b)
        yield case(op("Max"), x(left), x(right), expected=lambda a, b: np.where(a > b, a, b))
        yield case(op("Min"), x(left), x(right), expected=lambda a, b: np.where(a < b, a, b))
        yield case(
            op("Mod", 1),
            x(left, chosen(1.0, 1.7, 0.5)),
            x(right, chosen(0.3, -0.4, 2.3)),
            expected=lambda a, b: a - b * np.trunc(a / b),
        )
    signed, below = i("batch 5", -9, 10), i("5", 2, 4)
    yield case(op("Add"), signed, below, expected=lambda a, b: a + b)
    yield case(op("Div"), signed, below, expected=lambda a, b: np.trunc(a / b).astype(np.int64))
    yield case(op("Div"), signed, i("5", -3, -1), expected=lambda a, b: np.trunc(a / b).astype(np.int64))
    yield case(op("Mod"), signed, below, expected=lambda a, b: a - b * np.floor(a / b).astype(np.int64))
    yield case(op("Mod", 1), signed, below, expected=lambda a, b: a - b * np.trunc(a / b).astype(np.int64))
    yield case(op("Max"), signed, i("", 0, 1), expected=lambda a, b: np.where(a > b, a, b))
    yield case(op("Pow"), signed, below, expected=lambda a, b: np.vectorize(pow, otypes=[np.int64])(a, b))
    small = {"float16": False, "second_order": False}
    yield case(
        op("Pow"), x("4", chosen(0.0, -1.5, 2.0, 0.5)), x("", chosen(2.0)), expected=np.power, differentiable=False
    )
    yield case(op("Pow"), x("3", nonzero), x("", chosen(3.0)), expected=np.power, differentiable=False, **small)


def unary() -> Iterator[Case]:
    formulas: dict[str, tuple[Any, Draw]] = {
        "Neg": (lambda a: 0 - a, normal),
        "Abs": (lambda a: np.sqrt(a * a), nonzero),
        "Sign": (lambda a: np.where(a > 0, 1.0, -1.0), nonzero),
        "Floor": (lambda a: a // 1, distinct),
        "Ceil": (lambda a: -(-a // 1), distinct),
        "Exp": (lambda a: np.e**a, normal),
        "Log": (lambda a: np.log2(a) * np.log(2), positive),
        "Sqrt": (lambda a: a**0.5, positive),
        "Reciprocal": (lambda a: 1 / a, nonzero),
        "Sin": (lambda a: np.imag(np.exp(1j * a)), normal),
        "Cos": (lambda a: np.real(np.exp(1j * a)), normal),
    }
    for name, (formula, draw) in formulas.items():
        for shape in ("batch 3", "2 batch 2", ""):
            yield case(op(name), x(shape, draw), expected=formula)
    yield case(op("Neg"), i("batch 5", -9, 10), expected=lambda a: 0 - a)
    yield case(op("Abs"), i("batch 5", -9, 10), expected=lambda a: np.where(a < 0, 0 - a, a))
    yield case(op("Sign"), i("batch 5", -1, 2), expected=lambda a: a)
    for to in ("float64", "float32", "int64", "bool"):
        yield case(op("Cast", np.dtype(to)), i("batch 3", -1, 2), expected=lambda a, to=to: np.asarray(a, to))
        yield case(op("Cast", np.dtype(to)), b("batch 3"), expected=lambda a, to=to: np.asarray(a, to))
    yield case(op("Cast", np.dtype(np.float64)), x(), expected=lambda a: a)
    yield case(
        op("Cast", np.dtype(np.int32)),
        x("", nonzero),
        expected=lambda a: np.trunc(a).astype(np.int32),
        differentiable=False,
    )


def logic() -> Iterator[Case]:
    comparisons: dict[str, Any] = {
        "Equal": lambda a, b: ~((a < b) | (a > b)),
        "Greater": lambda a, b: b - a < 0,
        "GreaterOrEqual": lambda a, b: ~(a < b),
        "Less": lambda a, b: a - b < 0,
        "LessOrEqual": lambda a, b: ~(a > b),
    }
    for name, formula in comparisons.items():
        for left, right in (("batch 3", "3"), ("", "")):
            yield case(op(name), x(left), x(right), expected=formula, differentiable=False)
            yield case(op(name), i(left, 0, 3), i(right, 0, 3), expected=formula)
    connectives: dict[str, Any] = {
        "And": lambda a, b: a & b,
        "Or": lambda a, b: a | b,
        "Xor": lambda a, b: a ^ b,
        "Equal": lambda a, b: ~(a ^ b),
    }
    for name, formula in connectives.items():
        for left, right in (("batch 3", "batch 3"), ("batch 3", "3"), ("", "")):
            yield case(op(name), b(left), b(right), expected=formula)
    yield case(op("Not"), b(), expected=lambda a: ~a)
    yield case(op("Not"), b(""), expected=lambda a: ~a)
    yield case(
        op("IsNaN"), x("batch 3", chosen(np.nan, 1.0, np.inf)), expected=lambda a: ~(a == a), differentiable=False
    )


def selection() -> Iterator[Case]:
    def either(c: Any, a: Any, b: Any) -> Any:
        return a * c + b * ~c

    for condition, left, right in (
        ("batch 3", "batch 3", "batch 3"),
        ("batch 3", "3", ""),
        ("3", "batch 1", "1 3"),
        ("", "batch 3", "batch 3"),
        ("2 1", "", "batch 1 3"),
        ("", "", ""),
    ):
        yield case(op("Where"), b(condition), x(left), x(right), expected=either)
    yield case(op("Where"), b(), i("batch 3", 0, 9), i("3", 0, 9), expected=either)
    yield case(op("Where"), b(), b(), b("3"), expected=lambda c, a, b: (c & a) | (~c & b))
    bounds = x("", chosen(-0.5)), x("", chosen(0.625))
    yield case(
        op("Clip"),
        x("batch 5", distinct),
        *bounds,
        expected=lambda a, low, high: np.sort(np.stack(np.broadcast_arrays(a, low, high)), 0)[1],
    )
    yield case(op("Clip"), x("", distinct), *bounds, expected=lambda a, low, high: sorted([a, low, high])[1])


def activations() -> Iterator[Case]:
    e = np.exp
    formulas: list[tuple[Op, Any, Draw]] = [
        (op("Relu"), lambda a: (a + abs(a)) / 2, nonzero),
        (op("Sigmoid"), lambda a: scipy.special.expit(a), normal),
        (op("Tanh"), lambda a: (e(a) - e(-a)) / (e(a) + e(-a)), normal),
        (op("Erf"), lambda a: 1 - scipy.special.erfc(a), normal),
        (op("LeakyRelu"), lambda a: a * np.where(a > 0, 1, 0.01), nonzero),
        (op("LeakyRelu", 0.3), lambda a: a * np.where(a > 0, 1, 0.3), nonzero),
        (op("Elu"), lambda a: np.where(a > 0, a, e(a) - 1), nonzero),
        (op("Elu", 0.7), lambda a: np.where(a > 0, a, 0.7 * (e(a) - 1)), nonzero),
        (op("Softplus"), lambda a: np.logaddexp(0, a), nonzero),
        (op("Swish"), lambda a: a * scipy.special.expit(a), normal),
        (op("Swish", 1.7), lambda a: a * scipy.special.expit(1.7 * a), normal),
        (op("Gelu"), lambda a: a * scipy.special.ndtr(a), normal),
        (op("Gelu", "tanh"), lambda a: a * scipy.special.expit(2 * np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)), normal),
    ]
    without_float64 = ("Erf", "Gelu")
    for instance, formula, draw in formulas:
        for shape in ("batch 3", "2 batch 2", ""):
            yield case(instance, x(shape, draw), expected=formula, onnx64=instance.name not in without_float64)
    yield case(op("Relu"), i("batch 5", -9, 10), expected=lambda a: a * (a > 0))
    far = chosen(-1e4, -200.0, -30.0, 0.0, 30.0, 200.0, 1e4)
    for name, formula in (
        ("Sigmoid", scipy.special.expit),
        ("Tanh", np.tanh),
        ("Softplus", lambda a: np.logaddexp(0, a)),
        ("Elu", lambda a: np.where(a > 0, a, np.expm1(np.minimum(a, 0)))),
        ("Swish", lambda a: a * scipy.special.expit(a)),
        ("Gelu", lambda a: a * scipy.special.ndtr(a)),
    ):
        yield case(op(name), x("7", far), expected=formula, differentiable=False, onnx64=name not in without_float64)
