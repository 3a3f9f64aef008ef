"""Planned execution against the reference: any order, any sharing of memory, any tile gives the same numbers."""

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.interpret import compile_graph, evaluate, tiles
from lora_graph.interpret.buffers import Buffer, place
from lora_graph.ir import Graph
from tests.interpret.programs import arrays, random_graph


def both(graph, inputs, state=None):
    """Reference and planned outputs; the second run shows what the first left behind."""
    program = compile_graph(graph)
    program.run(inputs, state or {})
    return evaluate(graph, inputs, state or {}), program.run(inputs, state or {})


def assert_same(graph, inputs, state=None, rtol=1e-12):
    expected, got = both(graph, inputs, state)
    assert list(got) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=rtol, atol=rtol, err_msg=name)
        assert got[name].dtype == array.dtype


@pytest.mark.parametrize("tile_bytes", [64, 256, 1 << 20])
@pytest.mark.parametrize("seed", range(25))
def test_random_graphs(monkeypatch, seed, tile_bytes):
    monkeypatch.setattr(tiles, "TILE_BYTES", tile_bytes)
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, int(rng.integers(3, 40)))
    for batch in (0, 1, 13):
        assert_same(graph, *arrays(rng, batch))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_precisions(rng, dtype):
    graph = random_graph(rng, 30, dtype)
    assert_same(graph, *arrays(rng, 5, dtype), rtol=2e-2 if dtype == "float16" else 1e-4)


def test_a_value_used_twice_survives_its_first_user(rng):
    x = ops.input("x", "float64", (6, 6))
    h = ops.exp(x)
    graph = Graph((x,), {"y": (h * h) @ ops.tanh(h) + (h + h.T) - ops.maximum(h, h)})
    given = rng.normal(size=(6, 6))
    h = np.exp(given)
    expected = h * h @ np.tanh(h) + (h + h.T) - h
    np.testing.assert_allclose(compile_graph(graph).run({"x": given}, {})["y"], expected, rtol=1e-13)


def test_in_place_with_operands_that_are_the_same_memory(rng):
    s = ops.input("s", "float64", ())
    e, q = s.exp(), s * 20.0
    clipped = ops.apply(ops.clip(s, 0.0, 1.0).op, e, q, e)
    flag = ops.input("flag", "bool", (4,))
    same = ops.where(ops.logical_not(flag), ops.logical_not(flag), ops.logical_not(flag))
    got = compile_graph(Graph((s, flag), {"c": clipped, "w": same})).run({"s": 1.5, "flag": [True, False] * 2}, {})
    np.testing.assert_allclose(got["c"], np.exp(1.5))
    np.testing.assert_array_equal(got["w"], [False, True] * 2)


def test_tiles_do_not_overwrite_what_later_tiles_read(rng, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", 256)
    x, w = ops.input("x", "float64", ("n", 4)), ops.parameter("w", "float64", (4, 4))
    h = x @ w
    graph = Graph((x,), {"y": (h[::-1] * 2.0 + h) @ w})
    assert_same(graph, {"x": rng.normal(size=(101, 4))}, {"w": rng.normal(size=(4, 4))})


@pytest.mark.parametrize("rows", [1, 2, 97, 1009])
def test_tiles_of_awkward_sizes(rng, monkeypatch, rows):
    monkeypatch.setattr(tiles, "TILE_BYTES", 7 * 31 * 8)
    x, m = ops.input("x", "float64", ("n", 31)), ops.input("m", "float64", ("n", 1))
    b = ops.parameter("b", "float64", (31,))
    shared = ops.gelu(x * 2.0 + b) * m
    graph = Graph((x, m), {"y": shared - shared.T.T * 0.5, "mask": shared > 0.0, "z": ops.where(x > b, shared, m)})
    given = {"x": rng.normal(size=(rows, 31)), "m": rng.normal(size=(rows, 1))}
    assert_same(graph, given, {"b": rng.normal(size=31)})


def test_tiles_cut_the_first_axes_until_one_fits():
    cut = tiles.Tiling((2, 3, 5), (1, 2, 5))
    seen = np.zeros((2, 3, 5), int)
    for whole, row, scratch in cut.tiles([(False, False, False), (False, True), None]):
        seen[whole] += 1
        assert np.broadcast_to(np.zeros((3, 1))[row], seen[whole].shape).shape == np.zeros((1, 2, 5))[scratch].shape
    assert (seen == 1).all()


@pytest.mark.parametrize("lead", [(1,), (131,), (3, 17)])
def test_a_product_is_added_without_memory_of_its_own(rng, lead):
    x, w = ops.input("x", "float64", (*lead, 48)), ops.parameter("w", "float64", (48, 48))
    a, b = ops.parameter("a", "float64", (48, 5)), ops.parameter("b", "float64", (5, 48))
    graph = Graph((x,), {"y": ops.relu(ops.add_matmul(x @ w, x @ a * 2.0, b))})
    given = rng.normal(size=(*lead, 48))
    state = {"w": rng.normal(size=(48, 48)), "a": rng.normal(size=(48, 5)), "b": rng.normal(size=(5, 48))}
    program = compile_graph(graph)
    got = program.run({"x": given}, state)["y"]
    np.testing.assert_allclose(got, np.maximum(given @ (state["w"] + 2 * state["a"] @ state["b"]), 0), atol=1e-12)
    assert program.memory() < 16 * np.prod(lead) * 5 + 256


def test_what_is_added_to_is_kept_where_it_is_needed_again(rng):
    x, a, b = (
        ops.input("x", "float64", (3, 4)),
        ops.input("a", "float64", (3, 2)),
        ops.parameter("b", "float64", (2, 4)),
    )
    c = ops.tanh(x)
    program = compile_graph(Graph((x, a), {"y": ops.add_matmul(c, a, b) * ops.add_matmul(c, a, b * 2.0) + c}))
    given, state = {"x": rng.normal(size=(3, 4)), "a": rng.normal(size=(3, 2))}, {"b": rng.normal(size=(2, 4))}
    h, product = np.tanh(given["x"]), given["a"] @ state["b"]
    got = program.run(given, state)["y"]
    np.testing.assert_allclose(got, (h + product) * (h + 2 * product) + h, rtol=1e-12)


def test_the_operands_of_a_product_in_tiles_are_complete_before_it(rng, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", 40 * 8)
    a, x = ops.input("a", "float64", (4, 4)), ops.input("x", "float64", (4, 40))
    h = ops.tanh(x * 2.0)
    graph = Graph((a, x), {"y": ops.sigmoid(a @ h + h)})
    given = {"a": rng.normal(size=(4, 4)), "x": rng.normal(size=(4, 40))}
    h = np.tanh(2 * given["x"])
    got = compile_graph(graph).run(given, {})["y"]
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-(given["a"] @ h + h))), rtol=1e-12)


def test_what_is_passed_on_in_tiles_has_no_buffer():
    x = ops.input("x", "float32", ("n", 256))
    y = x
    for _ in range(6):
        y = ops.tanh(y) + x * 0.5
    program = compile_graph(Graph((x,), {"y": y}))
    assert 0 < program.memory({"n": 4096}) < 4096 * 256 * 4 / 8
    assert program.memory({"n": 0}) == 0


def test_buffers_are_reused():
    x = ops.input("x", "float32", ("n", 64))
    w = ops.parameter("w", "float32", (64, 64))
    y = x
    for _ in range(20):
        y = ops.sigmoid(y @ w + 1.0)
    array = 512 * 64 * 4
    assert compile_graph(Graph((x,), {"y": y})).memory({"n": 512}) <= 2 * array


def test_backward_is_scheduled_so_that_cotangents_die_early():
    """Every layer's update follows its gradient, so a deeper net needs more activations but no more cotangents."""
    from lora_graph.autodiff import gradients

    def memory(depth):
        x = ops.input("x", "float32", (256, 64))
        weights = [ops.parameter(f"w{i}", "float32", (64, 64)) for i in range(depth)]
        y = x
        for w in weights:
            y = ops.tanh(y @ w)
        found = gradients((y * y).mean(), weights)
        outputs = {f"w{i}": w - g for i, (w, g) in enumerate(zip(weights, found, strict=True))}
        return compile_graph(Graph((x,), outputs)).memory()

    activation = 256 * 64 * 4
    assert memory(12) - memory(4) <= 8 * activation
    assert memory(4) <= 8 * activation


def test_dead_code_does_not_run(rng):
    x = ops.input("x", "float64", (3,))
    unused = ops.input("unused", "float64", ("k",))
    seen = []
    program = compile_graph(Graph((x, unused), {"y": x + 1.0}))
    program.run({"x": np.ones(3), "unused": np.ones(7)}, {}, hook=lambda value, seconds: seen.append(value.op.name))
    assert seen == ["Add"]


def test_a_reshape_copies_only_what_is_not_in_order(rng):
    x = ops.input("x", "float64", ("n", 6))
    h = x + 1.0
    graph = Graph((x,), {"a": h.reshape("n", 2, 3) * 2.0, "b": h.T.reshape(-1) * 3.0, "c": h[1:].reshape(-1)})
    given = rng.normal(size=(4, 6))
    got = compile_graph(graph).run({"x": given}, {})
    np.testing.assert_allclose(got["a"], 2 * (given + 1).reshape(4, 2, 3))
    np.testing.assert_allclose(got["b"], 3 * (given + 1).T.reshape(-1))
    np.testing.assert_allclose(got["c"], (given + 1)[1:].reshape(-1))


def test_inputs_and_parameters_in_any_memory_order(rng):
    inputs, state = arrays(rng, 9)
    graph = random_graph(np.random.default_rng(5), 30)
    expected = evaluate(graph, inputs, state)
    strange = {"x": np.asfortranarray(inputs["x"]), "y": np.repeat(inputs["y"], 2, axis=0)[::2]}
    got = compile_graph(graph).run(strange, {name: np.asfortranarray(array) for name, array in state.items()})
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-12, atol=1e-12)


def test_placed_buffers_never_overlap_while_both_live(rng):
    for _ in range(30):
        firsts, sizes = rng.integers(0, 20, 40), rng.integers(0, 1000, 40)
        buffers = [Buffer(int(n), int(f), int(f + rng.integers(0, 5))) for n, f in zip(sizes, firsts, strict=True)]
        total = place(buffers, 25)
        for i, a in enumerate(buffers):
            assert a.offset + a.nbytes <= total
            for b in buffers[:i]:
                alive = a.first <= b.last and b.first <= a.last
                assert not (alive and a.offset < b.offset + b.nbytes and b.offset < a.offset + a.nbytes)
        assert total < sum(-(-b.nbytes // 64) * 64 for b in buffers)


def test_a_chain_of_a_hundred_thousand_ops():
    x = ops.input("x", "float64", (3,))
    y = x
    for i in range(100_000):
        y = y + 1.0 if i % 2 else -y
    given = np.array([0.0, 1.0, -2.0])
    np.testing.assert_array_equal(compile_graph(Graph((x,), {"y": y})).run({"x": given}, {})["y"], given)
