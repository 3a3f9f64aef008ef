"""Loops: against NumPy, their derivatives of both orders against differences, in ONNX Runtime, as text; errors."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.interpret import compile_graph, evaluate
from lora_graph.ir import Graph, TupleType, Value, apply, parse, project, tensor
from lora_graph.ir.graph import substitute_dims
from lora_graph.onnx import Session, lower
from lora_graph.ops.scan import Scan, scan
from lora_graph.rewrite.pipeline import optimize_graph
from tests.reference import close, differences, program, run

SIZES = {"batch": 2, "time": 4}
SHAPES = {"h": ("batch", 3), "x": ("time", "batch", 2), "w": (5, 3), "b": (3,)}
NAMES = list(SHAPES)


def leaves(dtype: str = "float64") -> dict[str, Value]:
    return {name: ops.input(name, dtype, shape) for name, shape in SHAPES.items()}


def cell(h: Value, x: Value, w: Value, b: Value) -> tuple[list[Value], list[Value]]:
    new = ops.tanh(ops.concat([h, x], 1) @ w + h * b)
    return [new], [new * new]


def walked(given: dict[str, Value], reverse: int = 0) -> tuple[Value, Value]:
    (last,), (squares,) = scan(cell, [given["h"]], [given["x"]], [given["w"], given["b"]], reverse)
    return last, squares


def arrays(steps: int = 4, batch: int = 2, dtype: str = "float64") -> dict[str, Any]:
    rng = np.random.default_rng(5)
    types = {name: leaf.type.bind({"batch": batch, "time": steps}) for name, leaf in leaves(dtype).items()}
    return {name: rng.normal(size=kind.shape).astype(dtype) for name, kind in types.items()}


def formula(h: Any, x: Any, w: Any, b: Any, reverse: int = 0) -> tuple[Any, Any]:
    squares = np.zeros((len(x), *h.shape))
    for t in range(len(x))[:: -1 if reverse else 1]:
        h = np.tanh(np.concatenate([h, x[t]], 1) @ w + h * b)
        squares[t] = h * h
    return h, squares


def objective(h: Any, x: Any, w: Any, b: Any, reverse: int = 0) -> Any:
    last, squares = formula(h, x, w, b, reverse)
    return (last**3).sum() + np.sin(squares).sum()


def graph_of(reverse: int = 0, dtype: str = "float64") -> Graph:
    """Results, gradients, and gradients of the sum of their squares."""
    given = leaves(dtype)
    last, squares = walked(given, reverse)
    total = (last * last * last).sum() + ops.sin(squares).sum()
    first = gradients(total, list(given.values()))
    second = gradients(sum(((g * g).sum() for g in first[1:]), (first[0] * first[0]).sum()), list(given.values()))
    found = {f"d{name}": g for name, g in zip(NAMES, first, strict=True)}
    twice = {f"dd{name}": g for name, g in zip(NAMES, second, strict=True)}
    return Graph(tuple(given.values()), {"last": last, "squares": squares, **found, **twice})


@pytest.mark.parametrize("reverse", [0, 1])
def test_derivatives_of_both_orders(reverse: int) -> None:
    graph, given = graph_of(reverse), arrays()
    found = evaluate(graph, given, {})
    values = list(given.values())
    for at, name in enumerate(NAMES):
        close(found[f"d{name}"], differences(lambda *a: objective(*a, reverse), values, at), 1e-7)
    slopes = program([graph.outputs[f"d{name}"] for name in NAMES], SIZES)

    def squared(*changed: Any) -> Any:
        return sum((slope**2).sum() for slope in slopes(dict(zip(NAMES, changed, strict=True))))

    for at, name in enumerate(NAMES):
        close(found[f"dd{name}"], differences(squared, values, at), 1e-6)


@pytest.mark.parametrize(("steps", "batch"), [(4, 2), (1, 1), (0, 2), (3, 0)])
@pytest.mark.parametrize("preset", [None, "train", "deploy"])
def test_a_plan_computes_what_the_plain_loop_does(steps: int, batch: int, preset: str | None) -> None:
    graph, given = graph_of(), arrays(steps, batch)
    expected = evaluate(graph, given, {})
    last, squares = formula(*given.values())
    close(expected["last"], last, 1e-13)
    close(expected["squares"], squares, 1e-13)
    compiled = compile_graph(graph if preset is None else optimize_graph(graph, preset).graph)
    for _ in range(2):
        found = compiled.run(given, {})
        for name, array in expected.items():
            close(found[name], array, 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reverse", [0, 1])
def test_derivatives_in_onnx_runtime(dtype: str, reverse: int) -> None:
    """At least one step: ONNX Runtime's Scan does not take empty sequences."""
    graph = graph_of(reverse, dtype)
    with Session(lower(graph, {})) as session:
        for steps, batch in ((4, 2), (1, 3), (2, 0)):
            given = arrays(steps, batch, dtype)
            found = session.run(given)
            for name, array in evaluate(graph, given, {}).items():
                close(found[name], array, 2e-5 if dtype == "float32" else 1e-12)


def test_a_loop_without_the_carries_it_has_to_know_is_walked_again() -> None:
    """A body written by hand stacks nothing; its derivative needs what every carry was."""
    h, xt, w = (ops.input(name, "float64", shape) for name, shape in (("h", (2,)), ("x", (2,)), ("w", (2,))))
    op = Scan(Graph((h, xt, w), {"h": h * h * w + xt}), 1, 1)
    outer = [ops.input(name, "float64", shape) for name, shape in (("h", (2,)), ("x", (3, 2)), ("w", (2,)))]
    last = project(apply(op, *outer), 0)
    rng = np.random.default_rng(1)
    given = [rng.normal(size=leaf.shape) for leaf in outer]

    def final(start: Any, xs: Any, weight: Any) -> Any:
        for x in xs:
            start = start * start * weight + x
        return start.sum()

    found = run(gradients(last.sum(), outer), dict(zip(("h", "x", "w"), given, strict=True)))
    for at, gradient in enumerate(found):
        close(gradient, differences(final, given, at), 1e-7)


def test_integers_are_carried_and_have_no_derivative() -> None:
    """y_t = t · x_t with a counter as the carry."""
    x = ops.input("x", "float64", ("time", 2))

    def step(t: Value, xt: Value) -> tuple[list[Value], list[Value]]:
        return [t + 1], [xt * t.astype("float64")]

    (count,), (scaled,) = scan(step, [ops.constant(0, "int32")], [x])
    given = {"x": np.ones((5, 2))}
    graph = Graph((x,), {"count": count, "y": scaled, "dx": gradients(scaled.sum(), [x])[0]})
    found = compile_graph(graph).run(given, {})
    expected = np.repeat(np.arange(5.0)[:, None], 2, 1)
    assert found["count"] == 5
    np.testing.assert_array_equal(found["y"], expected)
    np.testing.assert_array_equal(found["dx"], expected)


def test_a_sum_over_steps_that_is_no_product_is_accumulated() -> None:
    """The derivative of a cosine of a capture, whose terms are not stacked."""
    x, w = ops.input("x", "float64", ("time", 3)), ops.input("w", "float64", (3,))
    _, (y,) = scan(lambda xt, w: ([], [ops.cos(w * xt)]), [], [x], [w])
    rng = np.random.default_rng(2)
    given = {"x": rng.normal(size=(4, 3)), "w": rng.normal(size=3)}
    (found,) = run(gradients((y * y).sum(), [w]), given, {"time": 4})
    close(found, -(np.sin(2 * given["w"] * given["x"]) * given["x"]).sum(0), 1e-12)


def test_a_loop_inside_a_loop() -> None:
    x = ops.input("x", "float64", ("time", 3, 2))

    def outer(h: Value, rows: Value) -> tuple[list[Value], list[Value]]:
        (inner,), _ = scan(lambda g, row: ([ops.tanh(g + row)], []), [h], [rows])
        return [inner], [inner * h]

    (last,), (products,) = scan(outer, [ops.constant(np.zeros(2))], [x])
    given = {"x": np.random.default_rng(3).normal(size=(4, 3, 2))}

    def total(x: Any) -> Any:
        h, result = np.zeros(2), 0.0
        for rows in x:
            before = h
            for row in rows:
                h = np.tanh(h + row)
            result += (h * before).sum()
        return result + h.sum()

    value = last.sum() + products.sum()
    graph = Graph((x,), {"y": value, "dx": gradients(value, [x])[0]})
    assert parse(str(graph)) == graph
    slope = differences(total, [given["x"]], 0)
    with Session(lower(graph, {})) as session:
        for found in (
            evaluate(graph, given, {}),
            compile_graph(optimize_graph(graph, "train").graph).run(given, {}),
            session.run(given),
        ):
            close(found["y"], total(given["x"]), 1e-12)
            close(found["dx"], slope, 1e-8)


def test_a_result_may_be_an_input_a_constant_or_the_same_twice() -> None:
    x, w = ops.input("x", "float64", ("time", 2)), ops.input("w", "float64", (2,))
    one = ops.constant(np.ones(2))
    (last,), stacks = scan(lambda h, xt, w: ([xt], [xt, h, w, one, w * w, w * w]), [one], [x], [w])
    graph = Graph((x, w), {"last": last, **{f"y{i}": value for i, value in enumerate(stacks)}})
    given = {"x": np.arange(6.0).reshape(3, 2), "w": np.array([2.0, 3.0])}
    expected = {
        "last": given["x"][-1],
        "y0": given["x"],
        "y1": np.array([[1, 1], [0, 1], [2, 3]]),
        "y2": np.tile(given["w"], (3, 1)),
        "y3": np.ones((3, 2)),
        "y4": np.tile(given["w"] ** 2, (3, 1)),
        "y5": np.tile(given["w"] ** 2, (3, 1)),
    }
    with Session(lower(graph, {})) as session:
        for found in (evaluate(graph, given, {}), compile_graph(graph).run(given, {}), session.run(given)):
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, name)


def test_results_are_written_to_the_arrays_given() -> None:
    given = arrays()
    loop = walked(leaves())[0].operands[0]
    op = substitute_dims(loop.op, SIZES)
    fresh = op.evaluate(*given.values())
    out = tuple(np.full_like(array, 7) for array in fresh)
    results = op.evaluate(*given.values(), out=out)
    for result, target, array in zip(results, out, fresh, strict=True):
        assert result is target
        np.testing.assert_array_equal(target, array)


def test_names_in_a_body_do_not_count() -> None:
    def loop(names: str) -> Scan:
        h, xt = (ops.input(name, "float32", (2,)) for name in names)
        return Scan(Graph((h, xt), {names: h + xt}, name=names), 1, 1)

    assert loop("ab") == loop("cd")
    h, x = ops.input("h", "float32", (2,)), ops.input("x", "float32", ("time", 2))
    assert apply(loop("ab"), h, x) is apply(loop("cd"), h, x)


def test_dimensions_in_a_body_are_those_outside() -> None:
    loop = walked(leaves())[0].operands[0]
    op = substitute_dims(loop.op, {"batch": 7})
    assert isinstance(op, Scan)
    assert [leaf.type for leaf in op.body.inputs] == [
        tensor("float64", shape) for shape in ((7, 3), (7, 2), (5, 3), (3,))
    ]
    assert substitute_dims(op, {"other": 3}) is op
    assert isinstance(loop.result_type, TupleType)
    assert [str(item) for item in loop.result_type.items][:2] == ["float64[batch, 3]", "float64[time, batch, 3]"]


def test_text_shows_the_body_as_a_graph() -> None:
    x = ops.input("x", "float32", ("time", 2))
    (last,), _ = scan(lambda h, xt: ([h + xt], []), [ops.input("h", "float32", (2,))], [x])
    graph = Graph((ops.input("h", "float32", (2,)), x), {"y": last}, name="sum")
    text = """graph sum(%h: float32[2], %x: float32[time, 2]) -> (y=%1) {
  %0: (float32[2]; float32[time, 2]) = Scan(%h, %x) {carried=1, scanned=1, reverse=0, body=
    graph step(%carry0: float32[2], %slice0: float32[2]) -> (next0=%0, stack0=%carry0) {
      %0: float32[2] = Add(%carry0, %slice0)
    }
  }
  %1: float32[2] = Project(%0) {index=0}
}"""
    assert str(graph) == text
    assert parse(text) == graph
    assert parse(text.replace("\n", "\n\n  # a comment\n")) == graph
    assert pickle.loads(pickle.dumps(last)) is last
    assert copy.deepcopy(last) is last


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Add(%carry0, %slice0)", "Add(%carry0, %nothing)", "line 2: line 2: %nothing is used before"),
        ("      %0: float32[2] = Add", "      %0: float32[3] = Add", "line 2: line 2: %0 is float32"),
        ("carried=1", "carried=3", "3 carries"),
        ("    }\n  }\n", "", "line 1: expected"),
    ],
)
def test_text_that_cannot_be_read(old: str, new: str, message: str) -> None:
    x = ops.input("x", "float32", ("time", 2))
    (last,), _ = scan(lambda h, xt: ([h + xt], []), [ops.input("h", "float32", (2,))], [x])
    text = str(Graph((ops.input("h", "float32", (2,)), x), {"y": last}))
    assert old in text
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(text.replace(old, new))


H, XT, W = (ops.input(name, "float32", (2,)) for name in "hxw")
BODY = Graph((H, XT, W), {"h": H + XT * W, "y": H})
X = ops.input("x", "float32", ("time", 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scan(BODY, 1, 0), "1 carries and 0 sequences for 3 body inputs"),
        (lambda: Scan(BODY, 3, 1), "3 carries and 1 sequences for 3 body inputs"),
        (lambda: Scan(Graph((H, XT), {"h": H}), 0, 3), "0 carries and 3 sequences for 2 body inputs"),
        (lambda: Scan(Graph((H, XT, W), {"h": H}), 2, 1), "1 outputs for 2 carries"),
        (lambda: Scan(Graph((H, H), {"h": H}), 1, 1), "two inputs of the body are the same"),
        (lambda: Scan(Graph((H, XT), {"h": H + W}), 1, 1), "uses 'w', which is none of its inputs"),
        (
            lambda: Scan(Graph((H, XT), {"h": H + ops.parameter("p", "float32", (2,))}), 1, 1),
            "uses 'p', which is none of its inputs: capture it",
        ),
        (lambda: apply(Scan(BODY, 1, 1), H, X), "takes 3 operands, got 2"),
        (lambda: apply(Scan(BODY, 1, 1), H, ops.input("s", "float32", ()), W), "needs an axis of time"),
        (lambda: apply(Scan(BODY, 1, 1), H, XT, W), "operand 1 is float32[] where the body has float32[2]"),
        (lambda: apply(Scan(BODY, 1, 1), X, X, W), "operand 0 is float32[time, 2]"),
        (lambda: apply(Scan(BODY, 1, 1), H, X, ops.input("v", "float64", (2,))), "operand 2 is float64[2]"),
        (lambda: apply(Scan(BODY, 1, 1), H, X, ops.input("v", "float32", (3,))), "operand 2 is float32[3]"),
        (
            lambda: apply(Scan(Graph((H, XT), {"h": H.sum()}), 1, 1), H, X),
            "carry 0 after a step is float32[] where the body has float32[2]",
        ),
        (
            lambda: scan(lambda a, b: ([], [a + b]), [], [ops.input(str(n), "float32", (n, 2)) for n in (3, 4)]),
            "the lengths of the sequences: dimension 3 does not equal 4",
        ),
        (lambda: scan(lambda h, x: ([], [h]), [H], [X]), "gives 0 carries for 1 initial values"),
    ],
)
def test_errors_say_what_does_not_fit(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        make()
