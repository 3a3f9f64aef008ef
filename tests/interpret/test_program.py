"""Programs: whose memory is whose, what is computed when, and several threads at once."""

import threading

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.interpret import compile_graph, evaluate
from lora_graph.ir import Graph
from tests.interpret.programs import arrays, random_graph


def simple():
    x = ops.input("x", "float64", ("n", 3))
    w = ops.parameter("w", "float64", (3, 3))
    h = x @ w
    return Graph(
        (x,), {"h": h, "turned": h.T, "again": h, "x": x, "w": w, "y": ops.exp(h).sum(), "c": ops.constant(2.0)}
    )


def test_results_belong_to_the_caller(rng):
    program = compile_graph(simple())
    x, w = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    first = program.run({"x": x}, {"w": w})
    kept = {name: array.copy() for name, array in first.items()}
    second = program.run({"x": x + 1}, {"w": w - 1})
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
        assert array.flags.writeable
        others = [other for key, other in first.items() if key != name]
        for other in [x, w, *second.values(), *others]:
            assert not np.shares_memory(array, other)
    for array in first.values():
        array[...] = 7
    np.testing.assert_array_equal(program.run({"x": x}, {"w": w})["h"], kept["h"])


def test_what_is_given_is_never_written(rng):
    graph = random_graph(rng, 40)
    inputs, state = arrays(rng, 11)
    for array in (*inputs.values(), *state.values()):
        array.flags.writeable = False
    program = compile_graph(graph)
    expected = evaluate(graph, inputs, state)
    for name, array in program.run(inputs, state).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
def test_out_is_written(rng, order):
    x, w = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    out = {
        name: np.full(shape, np.nan, order=order) for name, shape in (("h", (4, 3)), ("turned", (3, 4)), ("x", (4, 3)))
    }
    got = compile_graph(simple()).run({"x": x}, {"w": w}, out=out)
    for name, array in out.items():
        assert got[name] is array
    np.testing.assert_allclose(out["h"], x @ w)
    np.testing.assert_allclose(out["turned"], (x @ w).T)
    np.testing.assert_array_equal(out["x"], x)


def test_double_buffered_training_is_gradient_descent(rng):
    w = ops.parameter("w", "float64", (2, 2))
    program = compile_graph(Graph((), {"w": w - w * 0.1}))
    start = rng.normal(size=(2, 2))
    state, spare = {"w": start.copy()}, {"w": np.empty((2, 2))}
    for _ in range(3):
        program.run({}, state, out=spare)
        state, spare = spare, state
    np.testing.assert_allclose(state["w"], start * 0.9**3)


def test_out_is_refused(rng):
    x, w = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    program, block = compile_graph(simple()), np.zeros((8, 3))
    locked = np.zeros((4, 3))
    locked.flags.writeable = False
    for out, error, words in [
        ({"nothing": block}, ValueError, "there is no output 'nothing'"),
        ({"h": [[0.0]]}, TypeError, "'h' must be an array, got list"),
        ({"h": np.zeros((3, 3))}, ValueError, r"'h' must be float64\[4, 3\], got float64\[3, 3\]"),
        ({"h": np.zeros((4, 3), np.float32)}, ValueError, r"'h' must be float64\[4, 3\], got float32"),
        ({"h": locked}, ValueError, "'h' is read-only"),
        ({"h": x}, ValueError, "'h' overlaps an array that the run reads"),
        ({"w": w}, ValueError, "'w' overlaps an array that the run reads"),
        ({"h": block[:4], "again": block[2:6]}, ValueError, "'h' and 'again' overlap"),
    ]:
        before = block.copy()
        with pytest.raises(error, match=words):
            program.run({"x": x}, {"w": w}, out=out)
        np.testing.assert_array_equal(block, before)


def fixed_graph():
    x = ops.input("x", "float64", ("n", 3))
    w, a = ops.parameter("w", "float64", (3, 3)), ops.parameter("a", "float64", (3, 3))
    mask = ops.expand(ops.exp(w.sum()), x.shape)
    return Graph((x,), {"y": x @ ops.tanh(w @ w) + mask + x @ a, "w2": w * 2.0})


def test_fixed_parameters_are_computed_with_once(rng):
    program = compile_graph(fixed_graph(), fixed=["w", "not in the graph"])
    x, w, a = rng.normal(size=(4, 3)), rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    with pytest.raises(RuntimeError, match=r"call fix\(state\) first: \['w'\] are fixed"):
        program.run({"x": x}, {"a": a})
    for shift in (0.0, 1.0):
        program.fix({"w": w + shift})
        for batch in (4, 2):
            got = program.run({"x": x[:batch]}, {"a": a})
            expected = evaluate(fixed_graph(), {"x": x[:batch]}, {"w": w + shift, "a": a})
            for name, array in expected.items():
                np.testing.assert_allclose(got[name], array, rtol=1e-13)
            assert not np.shares_memory(got["w2"], program.run({"x": x[:batch]}, {"a": a})["w2"])
    ran = []
    program.run({"x": x}, {"a": a}, hook=lambda value, seconds: ran.append(value.op.name))
    assert "Tanh" not in ran
    assert ran.count("MatMul") == 2


def test_fix_refuses_what_does_not_fit(rng):
    program = compile_graph(fixed_graph(), fixed=("w",))
    x, w, a = rng.normal(size=(4, 3)), rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    program.fix({"w": w})
    before = program.run({"x": x}, {"a": a})["y"]
    for state, error, words in [
        ({}, ValueError, "the state has no parameter 'w'"),
        ({"w": w[:2]}, ValueError, "parameter 'w' must have the shape"),
        ({"w": w[0]}, ValueError, "parameter 'w' has 2 axes"),
        ({"w": w.astype(np.float32)}, TypeError, "parameter 'w' must be float64, got float32"),
    ]:
        with pytest.raises(error, match=words):
            program.fix(state)
    np.testing.assert_array_equal(program.run({"x": x}, {"a": a})["y"], before)
    with pytest.raises(TypeError, match="fixed must be a collection of parameter names"):
        compile_graph(fixed_graph(), fixed="w")


def test_threads_run_one_program_at_once():
    graph = random_graph(np.random.default_rng(3), 40)
    program = compile_graph(graph)
    cases = [arrays(np.random.default_rng(seed), 20 + seed % 2) for seed in range(8)]
    expected = [program.run(*case) for case in cases]
    wrong: list[int] = []

    def work(number):
        for _ in range(40):
            got = program.run(*cases[number])
            if any(not np.array_equal(got[name], array) for name, array in expected[number].items()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_hook_may_run_the_program_itself(rng):
    program = compile_graph(simple())
    x, w = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    inner = []

    def hook(value, seconds):
        inner.append(program.run({"x": x + 1}, {"w": w})["h"])
        assert seconds >= 0

    np.testing.assert_array_equal(program.run({"x": x}, {"w": w}, hook=hook)["h"], x @ w)
    np.testing.assert_array_equal(inner[0], (x + 1) @ w)


def test_the_hook_sees_every_op_in_tiles_too(rng):
    x = ops.input("x", "float64", ("n", 64))
    graph = Graph((x,), {"y": ops.tanh(x * 2.0) + x})
    given = rng.normal(size=(3000, 64))
    seen = []
    got = compile_graph(graph).run({"x": given}, {}, hook=lambda value, seconds: seen.append(value))
    assert set(seen) == {value for value in graph.values if value.operands}
    np.testing.assert_allclose(got["y"], np.tanh(given * 2) + given)


def test_many_bindings_and_errors_leave_a_program_usable(rng):
    program = compile_graph(simple())
    w = rng.normal(size=(3, 3))
    for n in (*range(20), 3, 0):
        x = rng.normal(size=(n, 3))
        np.testing.assert_allclose(program.run({"x": x}, {"w": w})["h"], x @ w)
        with pytest.raises(ValueError, match="'w'"):
            program.run({"x": x}, {})
    assert program.memory({"n": 8}) >= program.memory({"n": 1})
    assert len(program.plan_for({"x": np.zeros((2, 3))}, {"w": w}).steps) > 0


def test_results_are_the_same_bits_every_time(rng):
    graph = random_graph(rng, 40)
    inputs, state = arrays(rng, 33)
    first, second = (compile_graph(graph).run(inputs, state) for _ in range(2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
