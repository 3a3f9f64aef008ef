"""What a run refuses, by type and words."""

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.interpret import compile_graph, evaluate
from lora_graph.ir import Graph, dim


def graph():
    x, y = ops.input("x", "float32", ("batch", 3)), ops.input("y", "float32", ("batch", "2*k"))
    z, i = ops.input("z", "float32", ("k",)), ops.input("i", "int32", ())
    w = ops.parameter("w", "float32", (3, 3))
    return Graph((x, y, z, i), {"out": x @ w, "y": y, "z": z, "i": i})


def good():
    x, y, z = (np.zeros(shape, np.float32) for shape in ((4, 3), (4, 10), (5,)))
    return {"x": x, "y": y, "z": z, "i": np.int32(0)}, {"w": np.zeros((3, 3), np.float32)}


def change(**changes):
    inputs, state = good()
    return {name: array for name, array in (inputs | changes).items() if array is not None}, state


def runners():
    return [evaluate, lambda g, inputs, state: compile_graph(g).run(inputs, state)]


@pytest.mark.parametrize("run", runners(), ids=["evaluate", "run"])
@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        (change(x=None), ValueError, r"the inputs are \['i', 'x', 'y', 'z'\], got \['i', 'y', 'z'\]"),
        (change(extra=np.zeros(1)), ValueError, "got .*'extra'"),
        (change(x=np.zeros(3)), ValueError, r"input 'x' has 2 axes \[batch, 3\], got 1 \[3\]"),
        (change(x=np.zeros((4, 2))), ValueError, r"input 'x' must have the shape \[batch, 3\]: axis 1 is 2, not 3"),
        (change(x=np.zeros((6, 3))), ValueError, "input 'y', axis 0: batch is 4 but 6 in input 'x', axis 0"),
        (change(y=np.zeros((4, 8))), ValueError, r"input 'y' .*axis 1 is 8, not 10 \(2\*k\)"),
        (change(x=np.zeros((4, 3), bool)), TypeError, "input 'x' takes float32, got bool"),
        (change(x=[[1.0], [1.0, 2.0]]), ValueError, "input 'x' is not an array"),
        (change(x=[["a"] * 3] * 4), TypeError, "input 'x' takes float32, got str"),
        (change(i=np.float32(1)), TypeError, "input 'i' takes int32, got float32"),
        (change(i=np.int64(2**40)), ValueError, "input 'i' takes int32, which does not hold"),
    ],
)
def test_inputs(run, inputs, error, words):
    with pytest.raises(error, match=words):
        run(graph(), *inputs)


@pytest.mark.parametrize("run", runners(), ids=["evaluate", "run"])
@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ({}, ValueError, r"the state has no parameter 'w': float32\[3, 3\]"),
        ({"w": np.zeros((3, 4), np.float32)}, ValueError, "parameter 'w' must have the shape .*axis 1 is 4, not 3"),
        ({"w": np.zeros(3, np.float32)}, ValueError, r"parameter 'w' has 2 axes \[3, 3\], got 1"),
        ({"w": np.zeros((3, 3))}, TypeError, "parameter 'w' must be float32, got float64"),
        ({"w": [[0.0] * 3] * 3}, TypeError, "parameter 'w' must be an array of float32, got list"),
    ],
)
def test_state(run, state, error, words):
    with pytest.raises(error, match=words):
        run(graph(), good()[0], state)


def test_inputs_are_a_mapping():
    with pytest.raises(TypeError, match="inputs must be a mapping"):
        compile_graph(graph()).run(np.zeros(3), {})


def test_an_expression_that_nothing_binds():
    x = ops.input("x", "float32", ("2*h",))
    with pytest.raises(ValueError, match=r"input 'x', axis 0: 2\*h leaves the size of h open"):
        evaluate(Graph((x,), {"x": x}), {"x": np.zeros(4, np.float32)}, {})


@pytest.mark.parametrize("run", runners(), ids=["evaluate", "run"])
def test_dimensions_that_were_assumed_equal_are_checked(run):
    x, y = ops.input("x", "float32", ("m",)), ops.input("y", "float32", ("n",))
    both = Graph((x, y), {"sum": x + y})
    ones = np.ones(3, np.float32)
    np.testing.assert_array_equal(run(both, {"x": ones, "y": ones}, {})["sum"], 2 * ones)
    with pytest.raises(ValueError, match="dimension m is 3 but must equal n, which is 1"):
        run(both, {"x": ones, "y": ones[:1]}, {})


def test_parameters_may_bind_dimensions(rng):
    x = ops.input("x", "float64", ("batch", 4))
    a, b = ops.parameter("a", "float64", (4, "rank")), ops.parameter("b", "float64", ("rank", 4))
    lora = Graph((x,), {"y": x @ a @ b})
    given = rng.normal(size=(3, 4))
    for fixed in ((), ("a", "b")):
        program = compile_graph(lora, fixed)
        for rank in (0, 2):
            state = {"a": rng.normal(size=(4, rank)), "b": rng.normal(size=(rank, 4))}
            if fixed:
                program.fix(state)
            np.testing.assert_allclose(program.run({"x": given}, state)["y"], given @ state["a"] @ state["b"])


def test_the_length_of_a_slice_can_be_computed_from_inputs():
    x, n, m = ops.input("x", "float32", ("batch", 4)), ops.input("n", "int64", (1,)), ops.input("m", "int64", (1,))
    first = ops.slice_to(x, ops.clip(n, 0, 3), dim("length"), 1)
    array = np.arange(8, dtype=np.float32).reshape(2, 4)
    program = compile_graph(Graph((x, n), {"y": first * 2.0}))
    for given, taken in ((0, 0), (2, 2), (9, 3), (2, 2)):
        np.testing.assert_array_equal(program.run({"x": array, "n": [given]}, {})["y"], 2 * array[:, :taken])
    both = compile_graph(Graph((x, n, m), {"y": first, "z": ops.slice_to(x, m, dim("length"), 1)}))
    assert both.run({"x": array, "n": [2], "m": [2]}, {})["z"].shape == (2, 2)
    with pytest.raises(ValueError, match="slices to a computed length have length as 1 and as 2"):
        both.run({"x": array, "n": [2], "m": [1]}, {})
    clash = compile_graph(Graph((x, n), {"y": ops.slice_to(x, n, dim("batch"), 1)}))
    assert clash.run({"x": array, "n": [2]}, {})["y"].shape == (2, 2)
    with pytest.raises(ValueError, match="batch is 2 but 3 in a slice to a computed length"):
        clash.run({"x": array, "n": [3]}, {})
