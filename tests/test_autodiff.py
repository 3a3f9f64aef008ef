"""Gradients as graphs: what is built, what is not, and that it is right beyond single ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import lora_graph.ops as ops
from lora_graph.autodiff import gradients, pull
from lora_graph.ir import (
    OPS,
    Graph,
    Op,
    TensorType,
    TupleType,
    Value,
    apply,
    constant,
    input,  # noqa: A004
    parameter,
    parse,
    project,
    topological,
)
from lora_graph.ops.linalg import Gemm
from tests.reference import close, differences, program, run

X = input("x", np.float64, ("batch", 3))


def weights(*shapes: tuple[int, ...]) -> list[Value]:
    return [parameter(f"w{i}", np.float64, shape) for i, shape in enumerate(shapes)]


def draw(*shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal(shape) for shape in shapes]


def test_nothing_is_built_for_what_is_not_asked_for() -> None:
    """The gradient of a frozen base costs no Value: not even its cotangent's transpose products appear."""
    base, a, b = weights((3, 3), (3, 2), (2, 3))
    loss = ((X @ base + X @ a @ b) ** 2.0).sum()
    only = Graph((X,), dict(zip("ab", gradients(loss, [a, b]), strict=True)))
    every = Graph((X,), dict(zip("wab", gradients(loss, [base, a, b]), strict=True)))
    products = [value for value in only.values if value.op.name == "MatMul"]
    # forward: x base, x a, (x a) b; backward: dB, d(x a), dA
    assert len(products) == 6
    assert len([value for value in every.values if value.op.name == "MatMul"]) == 7
    assert not any(value.op.name == "Transpose" and value.operands == (base,) for value in every.values)


def test_what_is_not_reached_is_absent_and_its_gradient_zero() -> None:
    used, unused = weights((3,), (4, 2))
    loss = (X * used).sum()
    assert set(pull({loss: constant(1.0)}, [used, unused])) == {used}
    _, zero = gradients(loss, [used, unused])
    assert zero.type == unused.type
    (computed,) = run([zero], {})
    np.testing.assert_array_equal(computed, np.zeros((4, 2)))


def test_the_pullback_of_a_target_itself_is_not_built() -> None:
    hidden = X.tanh()
    (found,) = gradients((hidden * 2.0).sum(), [hidden])
    assert not any(value.op.name == "Tanh" for value in topological([found]))


def test_shared_subexpressions_add_up() -> None:
    (w,) = weights((3,))
    shared = (X * w).tanh()
    loss = (shared * shared + shared.exp() + shared).sum()
    x, values = draw((2, 3), (3,))
    (computed,) = run(gradients(loss, [w]), {"x": x, "w0": values}, {"batch": 2})

    def truth(v: Any) -> Any:
        t = np.tanh(x * v)
        return (t * t + np.exp(t) + t).sum()

    close(computed, differences(truth, [values], 0), 1e-8)


def test_several_outputs_are_pulled_together() -> None:
    (w,) = weights((3,))
    first, second = (X * w).tanh(), (X * w).sum()
    of_first, of_second = input("c", np.float64, ("batch", 3)), constant(2.0)
    found = pull({first: of_first, second: of_second}, [w])
    apart = gradients(first, [w], of_first)[0] + gradients(second, [w], of_second)[0]
    x, c, values = draw((2, 3), (2, 3), (3,))
    together, summed = run([found[w], apart], {"x": x, "c": c, "w0": values}, {"batch": 2})
    close(together, summed, 1e-12)


def test_an_output_that_feeds_another() -> None:
    (w,) = weights((3,))
    inner = w * w
    found = pull({inner: inner, inner.sum(): constant(3.0)}, [w])[w]
    (values,) = draw((3,))
    close(run([found], {"w0": values})[0], 2 * values * (values * values + 3), 1e-12)


def test_intermediate_and_upstream_targets_at_once() -> None:
    (w,) = weights((3,))
    hidden = w * 2.0
    of_w, of_hidden = gradients((hidden * hidden).sum() + w.sum(), [w, hidden])
    (values,) = draw((3,))
    found_w, found_hidden = run([of_w, of_hidden], {"w0": values})
    close(found_hidden, 4 * values, 1e-12)
    close(found_w, 8 * values + 1, 1e-12)


@pytest.mark.parametrize(
    "build",
    [
        lambda w: apply(Gemm(), w, w),
        lambda w: apply(Gemm(), w, w, w),
        lambda w: apply(Gemm(0.5, 2.0), w.tanh(), w, w @ w),
        lambda w: apply(Gemm(), w, apply(Gemm(), w, w), w @ w),
        lambda w: apply(Gemm(), w, w, w @ w),
    ],
)
def test_operands_of_a_decomposed_op_may_repeat_and_depend_on_each_other(build: Callable[[Value], Value]) -> None:
    (w,) = weights((2, 2))
    loss = build(w).tanh().sum()
    (values,) = draw((2, 2))
    evaluate = program([loss])
    (computed,) = run(gradients(loss, [w]), {"w0": values})
    close(computed, differences(lambda v: evaluate({"w0": v})[0], [values], 0), 1e-8)


def test_a_long_chain_of_decomposed_ops_stays_linear() -> None:
    """Each pullback looks at its own op only: what it visits does not grow with what lies before."""
    (w,) = weights((2, 2))
    value = w
    for _ in range(300):
        value = apply(Gemm(0.5), value, w)
    found = gradients(value.sum(), [w])
    assert len(topological(found)) < 300 * 12


def test_gradients_through_integers_and_comparisons_are_none() -> None:
    (w,) = weights((3,))
    counts = w.astype(np.int64)
    assert pull({(counts.astype(np.float64) * 2.0).sum(): constant(1.0)}, [w]) == {}
    assert pull({ops.where(w > 0, 1.0, constant(0.0)).sum(): constant(1.0)}, [w]) == {}
    indices = input("n", np.int64, ("batch",))
    found = pull({ops.gather(w, indices).sum(): constant(1.0)}, [w, indices])
    assert set(found) == {w}


def test_what_has_no_gradient_says_so() -> None:
    (w,) = weights((3,))
    with pytest.raises(ValueError, match=r"float64\[3\] needs a cotangent"):
        gradients(w, [w])
    with pytest.raises(ValueError, match=r"cotangent of float64\[3\] cannot be float64\[4\]"):
        gradients(w, [w], input("c", np.float64, (4,)))
    with pytest.raises(ValueError, match=r"cotangent of float64\[3\] cannot be float32\[3\]"):
        gradients(w, [w], input("c", np.float32, (3,)))
    with pytest.raises(TypeError, match="only floats have a gradient, got int64"):
        gradients(w.astype(np.int64).sum(), [w])
    with pytest.raises(NotImplementedError, match="Pad"):
        gradients(apply(OPS["Pad"]((1, 1), "edge"), w).sum(), [w])


def test_second_order_of_a_small_network() -> None:
    shapes = [(3, 4), (4,), (4, 2)]
    first, bias, second = weights(*shapes)
    loss = ((ops.gelu(X @ first + bias) @ second) ** 2.0).mean()
    directions = [input(f"d{i}", np.float64, shape) for i, shape in enumerate(shapes)]
    slopes = gradients(loss, [first, bias, second])
    along = sum(
        ((g * d).sum() for g, d in zip(slopes[1:], directions[1:], strict=True)), (slopes[0] * directions[0]).sum()
    )
    products = gradients(along, [first, bias, second])
    x, *arrays = draw((5, 3), *shapes, *shapes)
    values, steps = arrays[:3], arrays[3:]
    feeds = {"x": x} | {f"d{i}": step for i, step in enumerate(steps)}
    slope_at = program(slopes, {"batch": 5})

    def at(amount: float) -> list[Any]:
        return slope_at(feeds | {f"w{i}": v + amount * s for i, (v, s) in enumerate(zip(values, steps, strict=True))})

    h = 1e-3
    numeric = [
        (8 * (p - m) - pp + mm) / (12 * h) for p, m, pp, mm in zip(at(h), at(-h), at(2 * h), at(-2 * h), strict=True)
    ]
    computed = run(products, feeds | {f"w{i}": v for i, v in enumerate(values)}, {"batch": 5})
    for mine, theirs in zip(computed, numeric, strict=True):
        close(mine, theirs, 1e-8)


def test_third_order_of_a_power() -> None:
    (w,) = weights((4,))
    value = w**3.0
    for _ in range(3):
        (value,) = gradients(value.sum(), [w])
    (computed,) = run([value], {"w0": np.asarray([0.0, -1.0, 2.0, 0.5])})
    close(computed, np.full(4, 6.0), 1e-12)


def test_lora_gradients_are_the_textbook_ones() -> None:
    """dA = s xᵀ g Bᵀ, dB = s (x A)ᵀ g, dx = s g Bᵀ Aᵀ."""
    a, b = weights((3, 2), (2, 4))
    cotangent = input("g", np.float64, ("batch", 4))
    found = gradients(X @ a @ b * 0.5, [a, b, X], cotangent)
    x, g, left, right = draw((5, 3), (5, 4), (3, 2), (2, 4))
    computed = run(found, {"x": x, "g": g, "w0": left, "w1": right}, {"batch": 5})
    expected = (0.5 * x.T @ g @ right.T, 0.5 * (x @ left).T @ g, 0.5 * g @ right.T @ left.T)
    for mine, theirs in zip(computed, expected, strict=True):
        close(mine, theirs, 1e-12)


@pytest.fixture
def halves() -> Iterator[type[Op]]:
    """An op of two results, known to the parser while a test runs."""

    @dataclass(frozen=True, eq=False)
    class Halves(Op):
        def infer(self, *operands: TensorType) -> TupleType:
            (x,) = operands
            size = x.shape[0]
            assert isinstance(size, int)
            return TupleType((x.with_shape((size // 2,)), x.with_shape((size - size // 2,))))

        def evaluate(self, *operands: Any, out: Any = None) -> Any:
            return tuple(np.split(operands[0], [len(operands[0]) // 2]))

        def pullback(self, cotangent: Any, result: Value, *operands: Value) -> tuple[Value | None, ...]:
            types = result.result_type
            assert isinstance(types, TupleType)
            parts = [
                ops.expand(constant(0, t.dtype), t.shape) if part is None else part
                for part, t in zip(cotangent, types.items, strict=True)
            ]
            return (ops.concat(parts, 0),)

    yield Halves
    del OPS["Halves"]


def test_an_op_of_several_results(halves: type[Op]) -> None:
    (w,) = weights((5,))
    both = apply(halves(), w)
    first, second = project(both, 0), project(both, 1)
    assert (str(first.type), str(second.type)) == ("float64[2]", "float64[3]")
    graph = Graph((), {"first": first, "second": second, "both": both})
    assert parse(str(graph)) == graph
    (values,) = draw((5,))
    cases = {
        first.sum(): [1, 1, 0, 0, 0],
        (second * second).sum(): [0, 0, *(2 * values[2:])],
        (first.sum() * second.sum()): [*[values[2:].sum()] * 2, *[values[:2].sum()] * 3],
    }
    for loss, expected in cases.items():
        (computed,) = run(gradients(loss, [w]), {"w0": values})
        close(computed, np.asarray(expected, np.float64), 1e-12)
    with pytest.raises(TypeError, match="has 2 results: take one"):
        both.tanh()
    with pytest.raises(ValueError, match="cannot take result 2"):
        project(both, 2)
    with pytest.raises(ValueError, match="cannot take result 0"):
        project(w, 0)
