"""The rows themselves, a function a family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.special

from lora_graph.ir import OPS, Absent, Constant, Dimension, Input, Op, Parameter, dim, tensor
from tests.op_cases import Case, Draw, b, case, chosen, distinct, i, nonzero, normal, positive, x

BROADCAST = [
    ("batch 3", "batch 3"),
    ("batch 3", "3"),
    ("batch 3", ""),
    ("1 3", "batch 1"),
    ("3", "batch 2 3"),
    ("", ""),
]


def op(name: str, *attributes: Any, **named: Any) -> Op:
    return OPS[name](*attributes, **named)


def leaves() -> Iterator[Case]:
    yield case(Input("x", tensor(np.float32, ("batch", 3))), expected=None)
    yield case(Parameter("w", tensor(np.float32, (2, 3)), False), expected=None)
    yield case(Dimension(dim("2*batch+1")), expected=None)  # type: ignore[arg-type]
    yield case(Absent(), expected=lambda: np.zeros(0, bool), onnx=False)
    for value in (1.5, -0.0, np.nan, np.inf, [[1.0, 2.0]], np.zeros((0, 2)), np.float32(0.1), np.float16(0.1)):
        yield case(Constant(np.asarray(value)), expected=lambda value=value: np.asarray(value))
    for value in (3, [True, False], np.arange(4, dtype=np.int32), np.uint8(200)):
        yield case(Constant(np.asarray(value)), expected=lambda value=value: np.asarray(value))


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


def reduction() -> Iterator[Case]:
    variants: list[tuple[str, tuple[int, ...] | None, int]] = [
        ("batch 3", None, 0),
        ("batch 3", None, 1),
        ("batch 3", (0,), 0),
        ("batch 3", (0,), 1),
        ("batch 3", (-1,), 0),
        ("batch 3", (1,), 1),
        ("batch 2 3", (0, 2), 0),
        ("2 batch 3", (-1, 0), 1),
        ("batch 2 3", (1,), 0),
        ("4", None, 0),
        ("", None, 0),
        ("1 3", (0,), 0),
    ]
    formulas: dict[str, Any] = {
        "ReduceSum": lambda a, axes, keep: np.einsum(a, [0, 1, 2][: a.ndim], _kept(a, axes)).reshape(
            _left(a, axes, keep)
        ),
        "ReduceMean": lambda a, axes, keep: (
            np.sum(a, axes, keepdims=keep) / (a.size / max(1, np.prod(_left(a, axes, 0))))
        ),
        "ReduceMax": lambda a, axes, keep: _ordered(a, axes, keep, -1),
        "ReduceMin": lambda a, axes, keep: _ordered(a, axes, keep, 0),
        "ReduceProd": lambda a, axes, keep: np.multiply.reduce(a, axes, keepdims=keep),
    }
    for name, formula in formulas.items():
        empty = name in ("ReduceSum", "ReduceProd")
        draw = nonzero if name == "ReduceProd" else distinct
        for shape, axes, keep in variants:

            def expected(a: Any, formula: Any = formula, axes: Any = axes, keep: int = keep) -> Any:
                every = tuple(range(a.ndim)) if axes is None else tuple(axis % a.ndim for axis in axes)
                return formula(a, every, bool(keep))

            yield case(op(name, axes, keep), x(shape, draw), expected=expected, empty=empty)
    for name in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"):
        yield case(op(name, (0,), 0), i("3 batch", -4, 5), expected=lambda a, name=name: _integers(name)(a, axis=0))
    yield from softmaxes()


def _integers(name: str) -> Any:
    return {"ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod}[name]


def _kept(a: Any, axes: tuple[int, ...]) -> list[int]:
    return [axis for axis in range(a.ndim) if axis not in axes]


def _left(a: Any, axes: tuple[int, ...], keep: bool | int) -> list[int]:
    return [1 if axis in axes else n for axis, n in enumerate(a.shape) if keep or axis not in axes]


def _ordered(a: Any, axes: tuple[int, ...], keep: bool, which: int) -> Any:
    rows = a.transpose([*_kept(a, axes), *axes]).reshape(*_left(a, axes, 0), -1)
    return np.sort(rows, -1)[..., which].reshape(_left(a, axes, keep))


def softmaxes() -> Iterator[Case]:
    for axis, shape in ((-1, "batch 3"), (0, "3 batch"), (1, "batch 3 2"), (0, "4")):
        yield case(op("Softmax", axis), x(shape), expected=lambda a, axis=axis: scipy.special.softmax(a, axis))
        yield case(op("LogSoftmax", axis), x(shape), expected=lambda a, axis=axis: scipy.special.log_softmax(a, axis))
    far = x("2 3", chosen(1e4, 0.0, -1e4, 3e4, 3e4, 1.0))
    yield case(op("Softmax"), far, expected=lambda a: scipy.special.softmax(a, -1), differentiable=False)
    yield case(op("LogSoftmax"), far, expected=lambda a: scipy.special.log_softmax(a, -1), differentiable=False)
    for axis, keep in ((0, 0), (1, 1), (-1, 0)):
        yield case(
            op("ArgMax", axis, keep),
            x("2 batch 3", distinct),
            expected=lambda a, axis=axis, keep=keep: np.argsort(a, axis).take([-1] if keep else -1, axis),
            differentiable=False,
            empty=False,
        )


def linalg() -> Iterator[Case]:
    for left, right, indices in (
        ("batch 3", "3 2", "ij,jk->ik"),
        ("3", "3 2", "j,jk->k"),
        ("batch 3", "3", "ij,j->i"),
        ("3", "3", "j,j->"),
        ("batch 2 3", "3 2", "bij,jk->bik"),
        ("2 2 batch 3", "3 2", "abij,jk->abik"),
        ("batch 2 3", "batch 3 2", "bij,bjk->bik"),
        ("2 3", "batch 3 2", "ij,bjk->bik"),
        ("3", "batch 3 2", "j,bjk->bk"),
        ("batch 2 3", "3", "bij,j->bi"),
        ("batch 0", "0 2", "ij,jk->ik"),
        ("batch 2 0", "0 2", "bij,jk->bik"),
        ("batch time", "time 2", "ij,jk->ik"),
    ):
        yield case(op("MatMul"), x(left), x(right), expected=lambda a, b, s=indices: np.einsum(s, a, b))
    yield case(op("MatMul"), x("batch 1 2 3"), x("2 3 2"), expected=lambda a, b: np.einsum("aoij,bjk->abik", a, b))
    yield case(op("MatMul"), i("batch 3", -3, 4), i("3 2", -3, 4), expected=lambda a, b: np.einsum("ij,jk->ik", a, b))
    for alpha, beta, left, right in ((1.0, 1.0, 0, 0), (0.5, 2.0, 1, 0), (1.0, 0.25, 0, 1), (-1.5, 1.0, 1, 1)):

        def gemm(a: Any, w: Any, c: Any = 0.0, alpha: float = alpha, beta: float = beta, s: Any = (left, right)) -> Any:
            indices = ("ji" if s[0] else "ij") + "," + ("kj" if s[1] else "jk") + "->ik"
            return alpha * np.einsum(indices, a, w) + beta * c

        a, w = x("3 batch" if left else "batch 3"), x("2 3" if right else "3 2")
        instance = op("Gemm", alpha, beta, left, right)
        yield case(instance, a, w, expected=gemm)
        for addend in ("2", "batch 2", "batch 1", ""):
            yield case(instance, a, w, x(addend), expected=gemm)
    for dtype, shape in (("float32", "3 3"), ("float64", "batch 3"), ("int64", "3 2")):
        yield case(
            op("EyeLike", np.dtype(dtype)),
            x(shape),
            expected=lambda a, t=dtype: np.asarray(
                [[r == c for c in range(a.shape[1])] for r in range(len(a))], t
            ).reshape(a.shape),
            differentiable=False,
        )


def movement() -> Iterator[Case]:
    for perm, shape in (
        ((1, 0), "batch 3"),
        ((2, 0, 1), "batch 2 3"),
        ((0, 2, 1), "batch 2 3"),
        ((0,), "batch"),
        ((), ""),
    ):
        letters = "ijk"[: len(perm)]
        spec = f"{letters}->{''.join(letters[axis] for axis in perm)}"
        yield case(op("Transpose", perm), x(shape), expected=lambda a, s=spec: np.einsum(s, a))
    for shape, new in (
        ("batch 6", "batch 2 3"),
        ("batch 2 3", "2*batch 3"),
        ("4 3", "12"),
        ("1 1", ""),
        ("", "1"),
        ("batch time", "batch*time"),
    ):
        wanted = tuple(dim(int(d) if d.isdigit() else d) for d in new.split())
        yield case(op("Reshape", wanted), x(shape), expected=lambda a, w=wanted: np.ravel(a).reshape(_sizes(a, w)))
    for shape, new in (
        ("3", "batch 3"),
        ("batch 1", "batch 3"),
        ("", "batch 2"),
        ("1 3", "3"),
        ("batch 3", "1"),
        ("batch 3", "batch 3"),
    ):
        wanted = tuple(dim(int(d) if d.isdigit() else d) for d in new.split())
        yield case(op("Expand", wanted), x(shape), expected=_expanded(wanted), empty=False)
    for axes, shape in (((0,), "1 batch 3"), ((-1,), "batch 3 1"), ((0, 2), "1 batch 1"), ((-1, 0), "1 batch 1")):
        yield case(
            op("Squeeze", axes),
            x(shape),
            expected=lambda a, axes=axes: a.reshape(_left(a, tuple(n % a.ndim for n in axes), 0)),
        )
    for axes, index in (
        ((0,), (None,)),
        ((-1,), (..., None)),
        ((1, 3), (slice(None), None, slice(None), None)),
        ((-1, 0), (None, ..., None)),
    ):
        yield case(op("Unsqueeze", axes), x(), expected=lambda a, index=index: a[index])
    yield case(op("Unsqueeze", (0, 1)), x(""), expected=lambda a: np.full((1, 1), a))
    yield from slices()
    for axis, shapes in (
        (0, ("batch 3", "1 3")),
        (-1, ("batch 3", "batch 2", "batch 1")),
        (1, ("batch 2 2", "batch time 2")),
        (0, ("3",)),
    ):
        yield case(op("Concat", axis), *map(x, shapes), expected=lambda *a, axis=axis: _joined(a, axis))
    yield case(op("Concat", 0), i("3", 0, 9), i("batch", 0, 9), expected=lambda *a: _joined(a, 0))
    yield from pads()


def _sizes(a: Any, wanted: tuple[Any, ...]) -> list[int]:
    """``wanted`` with the names that a case uses: batch first, then time."""
    names = {"batch": a.shape[0] if a.ndim else 0, "time": a.shape[1] if a.ndim > 1 else 0}
    return [d if isinstance(d, int) else eval(str(d), {}, names) for d in wanted]


def _expanded(wanted: tuple[Any, ...]) -> Any:
    def expected(a: Any) -> Any:
        sizes = [2 if str(d) == "batch" else d for d in wanted]
        return a + np.zeros(sizes)

    return expected


def _joined(arrays: tuple[Any, ...], axis: int) -> Any:
    """Concatenation by appending lists."""
    moved = [row for a in arrays for row in np.moveaxis(a, axis, 0)]
    return np.moveaxis(np.stack(moved), 0, axis) if moved else np.concatenate(arrays, axis)


END = 2**63 - 1


def slices() -> Iterator[Case]:
    static: list[tuple[int, int, int]] = [
        (1, 4, 1),
        (0, END, 2),
        (1, 5, 3),
        (-3, -1, 1),
        (-1, -END, -1),
        (3, 0, -1),
        (4, -END, -2),
        (-2, -6, -3),
        (9, 0, -2),
        (-9, 2, 1),
        (2, 2, 1),
        (4, 1, 1),
        (0, -END, -1),
        (-9, -END, -1),
        (0, 99, 1),
    ]
    for start, end, step in static:
        index = slice(start, None if step < 0 and end < -99 else end, step)
        taken = list(range(5))[index]
        yield case(
            op("Slice", (start,), (end,), (-1,), (step,)), x("batch 5"), expected=lambda a, taken=taken: a[:, taken]
        )
    for start, end, step in (
        (0, 1, 1),
        (1, END, 1),
        (-1, END, 1),
        (0, -1, 1),
        (1, END, 2),
        (0, END, 3),
        (-1, -END, -1),
        (-1, -END, -2),
        (1, -1, 1),
        (2, -2, 1),
        (5, 9, 1),
    ):
        index = slice(start, None if step < 0 else end, step)
        yield case(
            op("Slice", (start,), (end,), (0,), (step,)),
            x("time 2"),
            expected=lambda a, index=index: a[list(range(len(a)))[index]],
        )
    yield case(
        op("Slice", (1, 0), (END, 2), (1, -1), (2, 1)), x("batch 4 3"), expected=lambda a: a[:, [1, 3]][:, :, [0, 1]]
    )
    yield case(
        op("Slice", (dim("batch"),), (dim("batch+time"),), (0,), (1,)),
        x("batch+time 2"),
        expected=lambda a: a[2:],
        empty=False,
    )
    yield case(op("Slice", (0,), (dim("batch"),), (0,), (1,)), x("batch+time 2"), expected=lambda a: a[: len(a) - 3])
    yield case(op("Slice", (0,), (2,), (0,), (1,)), i("batch 2", 0, 9), expected=lambda a: a[:2])


def pads() -> Iterator[Case]:
    yield case(
        op("Pad", (0, 1, 2, 0)),
        x("batch 3"),
        expected=lambda a: np.block([[np.zeros((len(a), 1)), a], [np.zeros((2, 4))]]),
    )
    yield case(op("Pad", (1, 0)), x("3"), x(""), expected=lambda a, v: np.concatenate([v[None], a]))
    yield case(
        op("Pad", (0, -1, 0, 2)),
        x("batch 3"),
        x(""),
        expected=lambda a, v: np.stack([a[:, 1], a[:, 2], a[:, 0] * 0 + v, a[:, 0] * 0 + v], 1),
    )
    yield case(
        op("Pad", (0, 0, dim("time"), 0)), x("batch 2"), expected=lambda a: np.concatenate([a, np.zeros((3, 2))])
    )
    yield case(
        op("Pad", (0, 2, 0, 1), "reflect"),
        x("batch 4"),
        expected=lambda a: a[:, [2, 1, 0, 1, 2, 3, 2]],
        differentiable=False,
    )
    yield case(
        op("Pad", (0, 2, 0, 1), "edge"), x("batch 3"), expected=lambda a: a[:, [0, 0, 0, 1, 2, 2]], differentiable=False
    )
    yield case(op("Pad", (1, 1)), i("4", 0, 9), expected=lambda a: np.asarray([0, *a, 0]))


def indexing() -> Iterator[Case]:
    def rows(data: Any, indices: Any, axis: int) -> Any:
        picked = [np.take(data, int(n), axis) for n in indices.ravel()]
        rest = np.delete(data.shape, axis)
        stacked = np.stack(picked, axis) if picked else np.zeros((*rest[:axis], 0, *rest[axis:]))
        return stacked.reshape((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))

    for axis, data, indices, dtype in (
        (0, "5 2", "batch", "int64"),
        (0, "5 2", "batch time", "int32"),
        (1, "batch 5 2", "3", "int64"),
        (-1, "batch 5", "", "int64"),
        (0, "5", "batch 2", "int64"),
        (0, "5", "", "int64"),
    ):
        yield case(
            op("Gather", axis),
            x(data),
            i(indices, -5, 5, dtype),
            expected=lambda d, n, axis=axis: rows(d, n, axis % d.ndim),
        )
    yield from element_indexing()
    yield from multi_indexing()


def element_indexing() -> Iterator[Case]:
    def each(indices: Any, axis: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Where an index stands, and what it points at."""
        for at in np.ndindex(indices.shape):
            to = list(at)
            to[axis] = int(indices[at])
            yield at, tuple(to)

    def gathered(d: Any, n: Any, axis: int) -> Any:
        result = np.zeros(n.shape)
        for at, to in each(n, axis):
            result[at] = d[to]
        return result

    def scattered(d: Any, n: Any, u: Any, axis: int, add: bool) -> Any:
        result = d.copy()
        for at, to in each(n, axis):
            result[to] = u[at] + (result[to] if add else 0)
        return result

    for axis, data, indices in (
        (0, "4 3", "batch 3"),
        (1, "batch 4", "batch 2"),
        (-1, "3 4", "2 3"),
        (0, "4", "batch"),
    ):
        yield case(
            op("GatherElements", axis),
            x(data),
            i(indices, -4, 4),
            expected=lambda d, n, axis=axis: gathered(d, n, axis),
        )
        yield case(
            op("ScatterElements", axis, "add"),
            x(data),
            i(indices, 0, 4),
            x(indices),
            expected=lambda d, n, u, axis=axis: scattered(d, n, u, axis, True),
        )
    once = i("batch 1", 0, 4)
    yield case(
        op("ScatterElements", 1),
        x("batch 4"),
        once,
        x("batch 1"),
        expected=lambda d, n, u: scattered(d, n, u, 1, False),
    )


def multi_indexing() -> Iterator[Case]:
    def scattered(d: Any, n: Any, u: Any, add: bool) -> Any:
        result = d.copy()
        for at in np.ndindex(n.shape[:-1]):
            to = tuple(int(v) for v in n[at])
            result[to] = u[at] + (result[to] if add else 0)
        return result

    def gathered(d: Any, n: Any) -> Any:
        flat = [d[tuple(int(v) for v in n[at])] for at in np.ndindex(n.shape[:-1])]
        return np.asarray(flat, d.dtype).reshape((*n.shape[:-1], *d.shape[n.shape[-1] :]))

    for data, indices in (("4 3", "batch 1"), ("4 4 2", "batch 3 2"), ("4", "1")):
        depth = int(indices[-1])
        rest = " ".join([*indices.split()[:-1], *data.split()[depth:]])
        yield case(op("GatherND"), x(data), i(indices, -4, 4), expected=gathered)
        yield case(
            op("ScatterND", "add"),
            x(data),
            i(indices, 0, 4),
            x(rest),
            expected=lambda d, n, u: scattered(d, n, u, True),
        )
    yield case(op("ScatterND"), x("4 3"), i("1 1", 0, 4), x("1 3"), expected=lambda d, n, u: scattered(d, n, u, False))


def nn() -> Iterator[Case]:
    for axis, shape, scale in ((-1, "batch 4", "4"), (1, "batch 2 3", "2 3"), (-1, "batch 2 3", "3"), (0, "4", "4")):

        def normalized(a: Any, w: Any, c: Any = 0.0, axis: int = axis, epsilon: float = 1e-5) -> Any:
            axes = tuple(range(axis % a.ndim, a.ndim))
            return (a - a.mean(axes, keepdims=True)) / np.sqrt(a.var(axes, keepdims=True) + epsilon) * w + c

        yield case(op("LayerNormalization", axis), x(shape), x(scale), expected=normalized)
        yield case(op("LayerNormalization", axis), x(shape), x(scale), x(scale), expected=normalized)
    yield case(
        op("LayerNormalization", -1, 0.5), x("batch 4"), x("4"), expected=lambda a, w: normalized(a, w, 0.0, -1, 0.5)
    )
    for reduction in ("mean", "sum", "none"):
        for shape, labels in (("batch 4", "batch"), ("batch 4 3", "batch 3"), ("1 4", "1")):

            def loss(a: Any, n: Any, reduction: str = reduction) -> Any:
                chosen = np.moveaxis(a, 1, -1)[np.eye(a.shape[1], dtype=bool)[n]].reshape(n.shape)
                each = scipy.special.logsumexp(a, 1) - chosen
                return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](each)

            yield case(
                op("SoftmaxCrossEntropyLoss", reduction),
                x(shape),
                i(labels, 0, 4),
                expected=loss,
                empty=reduction != "mean",
            )
