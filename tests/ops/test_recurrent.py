"""LSTM, GRU and RNN over all their attributes: one formula in NumPy, ONNX Runtime, PyTorch; derivatives; errors."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.interpret import compile_graph, evaluate
from lora_graph.ir import Graph, Value, absent, apply
from lora_graph.onnx import Session, lower, read_model
from lora_graph.ops.gates import GATES
from lora_graph.ops.recurrence import Recurrent
from lora_graph.ops.recurrent import GRU, LSTM, RNN
from lora_graph.ops.scan import Scan
from lora_graph.rewrite.pipeline import optimize_graph
from tests.recurrent_reference import DEFAULT, recurrent
from tests.reference import close, differences, run

KINDS: dict[str, type[Recurrent]] = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}
COUNT = {"forward": 1, "reverse": 1, "bidirectional": 2}
SMOOTH = ["Affine", "Elu", "ScaledTanh", "Sigmoid", "Softplus", "Softsign", "Tanh"]


@dataclass(frozen=True)
class Problem:
    """An op and the arrays of those of its operands that are given."""

    op: Recurrent
    arrays: dict[str, Any]
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return ["Y", "Y_h", "Y_c"][: 1 + self.op.state_count]

    def leaves(self, dtype: str) -> dict[str, Value]:
        batch = {"X": ("time", "batch"), "sequence_lens": ("batch",)}
        found = {}
        for name, array in self.arrays.items():
            lead = batch.get(name, (array.shape[0], "batch") if name.startswith("initial") else ())
            kind = dtype if array.dtype.kind == "f" else array.dtype
            found[name] = ops.input(name, kind, (*lead, *array.shape[len(lead) :]))
        return found

    def results(self, leaves: dict[str, Value]) -> list[Value]:
        operands = [leaves.get(name, absent()) for name in self.op.operand_names]
        while operands[-1] is absent():
            operands.pop()
        several = apply(self.op, *operands)
        return [ops.project(several, i) for i in range(len(self.names))]

    def graph(self, dtype: str) -> Graph:
        leaves = self.leaves(dtype)
        return Graph(tuple(leaves.values()), dict(zip(self.names, self.results(leaves), strict=True)))

    def truth(self, *changed: Any) -> list[Any]:
        given = dict(zip(self.arrays, changed or self.arrays.values(), strict=True))
        operands = [given.get(name) for name in self.op.operand_names]
        flags = {name: v for name, v in self.op.attributes().items() if name != "hidden_size"}
        return list(recurrent(self.op.name, *operands, **flags))

    def feeds(self, dtype: str) -> dict[str, Any]:
        return {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in self.arrays.items()}


def problem(kind: str, seed: int, functions: list[str] | None = None) -> Problem:
    """Attributes, operands and sizes at random."""
    rng = np.random.default_rng(seed)
    op, chance = KINDS[kind], lambda: bool(rng.random() < 0.5)
    direction = str(rng.choice(list(COUNT)))
    count = COUNT[direction]
    steps, batch, inner, hidden = (int(n) for n in rng.integers(1, 5, 4))
    wanted: dict[str, Any] = {"direction": direction}
    if chance():
        chosen = rng.choice(functions or list(GATES), count * len(DEFAULT[kind]))
        wanted["activations"] = tuple(map(str, chosen))
        if chance():
            numbers = [float(n) for n in rng.integers(1, 9, len(chosen)) / 8]
            wanted |= {"activation_alpha": tuple(numbers), "activation_beta": tuple(numbers[::-1])}
    if chance():
        wanted["clip"] = 0.5
    flag = {"LSTM": "input_forget", "GRU": "linear_before_reset"}.get(kind)
    if flag:
        wanted[flag] = int(chance())
    rows = op.gate_count * hidden
    shapes: dict[str, tuple[int, ...]] = {
        "X": (steps, batch, inner),
        "W": (count, rows, inner),
        "R": (count, rows, hidden),
        "B": (count, 2 * rows),
        "sequence_lens": (batch,),
        "initial_h": (count, batch, hidden),
        "initial_c": (count, batch, hidden),
        "P": (count, 3 * hidden),
    }
    arrays = {}
    for i, name in enumerate(op.operand_names):
        if i < 3 or chance():
            shape = shapes[name]
            lengths = rng.integers(1, steps + 1, shape).astype(np.int32)
            arrays[name] = lengths if name == "sequence_lens" else rng.normal(0, 0.4, shape)
    return Problem(op(hidden, **wanted), arrays, {"time": steps, "batch": batch})


seeds = pytest.mark.parametrize("seed", range(40))
kinds = pytest.mark.parametrize("kind", list(KINDS))


@kinds
@seeds
def test_onnx_runtime_and_the_formula(kind: str, seed: int) -> None:
    given = problem(kind, seed)
    graph, truth = given.graph("float32"), given.truth()
    model = lower(graph, {})
    with Session(model) as session:
        theirs = session.run(given.feeds("float32"))
    mine = evaluate(graph, given.feeds("float32"), {})
    precise = evaluate(given.graph("float64"), given.feeds("float64"), {})
    for name, expected in zip(given.names, truth, strict=True):
        close(theirs[name], expected, 1e-5)
        close(mine[name], expected, 1e-5)
        close(precise[name], expected, 1e-12)
    assert read_model(model.SerializeToString()).graph == graph


@kinds
@pytest.mark.parametrize("seed", range(12))
def test_derivatives_against_differences(kind: str, seed: int) -> None:
    """Of a random sum of all results, by every float operand, after optimizing and in a plan."""
    given = problem(kind, 100 + seed, SMOOTH)
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=array.shape) for array in given.truth()]
    leaves = given.leaves("float64")
    results = given.results(leaves)
    bound = [ops.input(f"weight{i}", "float64", result.shape) for i, result in enumerate(results)]
    total = sum(((r * w).sum() for r, w in zip(results[1:], bound[1:], strict=True)), (results[0] * bound[0]).sum())
    floats = [name for name, leaf in leaves.items() if leaf.type.is_float]
    found = gradients(total, [leaves[name] for name in floats])
    graph = Graph((*leaves.values(), *bound), dict(zip(floats, found, strict=True)))
    feeds = given.feeds("float64") | {f"weight{i}": weight for i, weight in enumerate(weights)}
    got = compile_graph(optimize_graph(graph, "train").graph).run(feeds, {})

    def objective(*changed: Any) -> Any:
        return sum((w * y).sum() for w, y in zip(weights, given.truth(*changed), strict=True))

    for at, name in enumerate(given.arrays):
        if name in floats:
            close(got[name], differences(objective, list(given.arrays.values()), at, step=1e-5), 1e-6)


@kinds
@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (3, 0), (0, 0)])
def test_no_steps_and_no_batch(kind: str, steps: int, batch: int) -> None:
    """Without a step the last state is the first; the weights have gradients of zeros."""
    shapes = {"X": (steps, batch, 3), "W": (2, KINDS[kind].gate_count * 2, 3), "R": (2, KINDS[kind].gate_count * 2, 2)}
    arrays = {name: np.ones(shape) for name, shape in shapes.items()} | {"initial_h": np.ones((2, batch, 2))}
    given = Problem(KINDS[kind](2, "bidirectional"), arrays)
    leaves = given.leaves("float64")
    results = given.results(leaves)
    found = gradients(results[0].sum() + results[1].sum(), list(leaves.values()))
    graph = Graph(tuple(leaves.values()), {"Y": results[0], "Y_h": results[1], **dict(zip(leaves, found, strict=True))})
    for got in (evaluate(graph, arrays, {}), compile_graph(optimize_graph(graph, "train").graph).run(arrays, {})):
        assert got["Y"].shape == (steps, 2, batch, 2)
        if not steps:
            np.testing.assert_array_equal(got["Y_h"], arrays["initial_h"])
            np.testing.assert_array_equal(got["initial_h"], np.ones((2, batch, 2)))
        for name in ("W", "R"):
            np.testing.assert_array_equal(got[name], np.zeros(arrays[name].shape))


def torch_gates(kind: str, array: Any) -> Any:
    """PyTorch's order of the gates, along the first axis, from ONNX's: i, f, c, o of an LSTM, r, z, h of a GRU."""
    parts = np.split(array, KINDS[kind].gate_count)
    order = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}[kind]
    return np.concatenate([parts[i] for i in order])


@pytest.mark.torch
@kinds
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_gradients_agree_with_pytorch(kind: str, direction: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(9)
    count, k, steps, batch, inner, hidden = COUNT[direction], KINDS[kind].gate_count, 5, 3, 4, 6
    shapes = {"W": (count, k * hidden, inner), "R": (count, k * hidden, hidden), "B": (count, 2 * k * hidden)}
    arrays = {"X": rng.normal(size=(steps, batch, inner)), **{n: rng.normal(size=s) for n, s in shapes.items()}}
    module = getattr(torch.nn, kind)(inner, hidden, bidirectional=count == 2, dtype=torch.float64)
    suffixes = ["_l0", "_l0_reverse"][:count]
    for d, suffix in enumerate(suffixes):
        ours = [arrays["W"][d], arrays["R"][d], *np.split(arrays["B"][d], 2)]
        for name, array in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), ours, strict=True):
            getattr(module, name + suffix).data = torch.from_numpy(torch_gates(kind, array))
    x = torch.from_numpy(arrays["X"]).requires_grad_()
    expected = module(x)[0]
    cotangent = rng.normal(size=expected.shape)
    expected.backward(torch.from_numpy(cotangent))
    op = KINDS[kind](hidden, direction, **({"linear_before_reset": 1} if kind == "GRU" else {}))
    given = Problem(op, arrays)
    leaves = given.leaves("float64")
    y = given.results(leaves)[0]
    along = ops.input("g", "float64", ("time", "batch", count, hidden))
    feeds = arrays | {"g": cotangent.reshape(steps, batch, count, hidden)}
    wanted = [y, *gradients(y, list(leaves.values()), along.swapaxes(1, 2))]
    found = run(wanted, feeds, {"time": steps, "batch": batch})
    close(found[0].swapaxes(1, 2).reshape(expected.shape), expected.detach().numpy(), 1e-12)
    close(found[1], x.grad.numpy(), 1e-11)
    for d, suffix in enumerate(suffixes):
        theirs = [getattr(module, name + suffix).grad.numpy() for name in ("weight_ih", "weight_hh", "bias_ih")]
        for at, gradient in enumerate(theirs, 2):
            close(torch_gates(kind, found[at][d][: len(gradient)]), gradient, 1e-11)


@kinds
def test_a_training_graph_walks_forward_once(kind: str) -> None:
    """The gradient refers to the loop that the op is a name for, and what the output needs is that very loop."""
    given = problem(kind, 7)
    leaves = given.leaves("float32")
    y = given.results(leaves)[0]
    found = gradients((y * y).sum(), [leaves["W"], leaves["R"]])
    graph = Graph(tuple(leaves.values()), {"y": y, "W": found[0], "R": found[1]})
    assert kind in graph.op_counts()
    for preset in ("train", "inference"):
        after = optimize_graph(graph, preset).graph
        loops = [value.op for value in after.values if isinstance(value.op, Scan)]
        walks = COUNT[given.op.direction]
        assert [loop.reverse for loop in loops].count(0) == [loop.reverse for loop in loops].count(1)
        assert len(loops) == 2 * walks
        assert kind not in after.op_counts()


@kinds
def test_inference_stores_no_gates(kind: str) -> None:
    given = problem(kind, 7)
    graph = given.graph("float32")
    after = optimize_graph(graph.with_outputs({"Y": graph.outputs["Y"]}), "inference").graph
    loops = [value.op for value in after.values if isinstance(value.op, Scan)]
    assert loops
    assert all(len(loop.results) - loop.carried == 1 for loop in loops)


@pytest.mark.parametrize("preset", ["export", "deploy"])
@kinds
def test_exported_models_keep_the_op(kind: str, preset: str) -> None:
    assert kind in optimize_graph(problem(kind, 3).graph("float32"), preset).graph.op_counts()


@kinds
def test_float64_is_refused_by_name(kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind} for float64"):
        lower(problem(kind, 3).graph("float64"), {})


def test_batch_first_models_are_read_as_transposes() -> None:
    """Layout 1, which ONNX Runtime has no kernel for."""
    rng = np.random.default_rng(4)
    shapes = {"X": (2, 3, 4), "W": (1, 9, 4), "R": (1, 9, 3), "B": (1, 18), "": (), "initial_h": (2, 1, 3)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items() if name}
    node = onnx.helper.make_node("GRU", list(shapes), ["Y", "Y_h"], hidden_size=3, layout=1, linear_before_reset=1)
    info = onnx.helper.make_tensor_value_info
    inputs = [info(name, 1, array.shape) for name, array in arrays.items()]
    graph = onnx.helper.make_graph([node], "g", inputs, [info(name, 1, None) for name in ("Y", "Y_h")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    found = evaluate(read_model(model).graph, arrays, {})
    x, h = arrays["X"].swapaxes(0, 1), arrays["initial_h"].swapaxes(0, 1)
    y, last = recurrent("GRU", x, arrays["W"], arrays["R"], arrays["B"], None, h, linear_before_reset=1)
    close(found["Y"], y.transpose(2, 0, 1, 3), 1e-5)
    close(found["Y_h"], last.swapaxes(0, 1), 1e-5)


def test_numbers_that_activations_take_are_written_out() -> None:
    """ONNX Runtime has other defaults for these than ONNX documents."""
    op = RNN(2, "bidirectional", ("ThresholdedRelu", "ScaledTanh"), (0.25,))
    assert (op.activation_alpha, op.activation_beta) == ((0.25, 1.0), (1.0,))
    assert op == RNN(2, "bidirectional", ("ThresholdedRelu", "ScaledTanh"), (0.25, 1.0), (1.0, 9.0))
    assert LSTM(2).activation_alpha == ()


X, W, R = (ops.input(n, "float32", s) for n, s in (("x", ("time", "batch", 3)), ("w", (1, 8, 3)), ("r", (1, 8, 2))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LSTM(2, "backward"),
            "must be one of ['bidirectional', 'forward', 'reverse'], got 'backward'",
        ),
        (lambda: LSTM(0), "hidden_size must be at least 1, got 0"),
        (lambda: LSTM(2, activations=("Tanh",)), "forward takes 3 activations, got ('Tanh',)"),
        (lambda: RNN(2, activations=("tan",)), "activations must be among ['Affine', "),
        (lambda: apply(LSTM(2), X, W), "LSTM takes X, W, R, B, sequence_lens, initial_h, initial_c, P, got 2 operands"),
        (lambda: ops.lstm(W[0], W, R), "X must be floats [time, batch, features], got float32[8, 3]"),
        (lambda: ops.lstm(X, R, R), "LSTM: W must be [1, 8, 3], got float32[1, 8, 2]"),
        (lambda: ops.gru(X, W, R), "GRU: W must be [1, 6, 3], got float32[1, 8, 3]"),
        (lambda: ops.lstm(X, W, R, direction="bidirectional"), "LSTM: W must be [2, 8, 3], got float32[1, 8, 3]"),
        (lambda: ops.lstm(X, W, R, W), "LSTM: B must be float32[1, 16], got float32[1, 8, 3]"),
        (lambda: ops.lstm(X, W, R, None, ops.input("l", "int64", ("batch",))), "sequence_lens must be int32[batch]"),
        (lambda: ops.lstm(X, W, R.astype("float64")), "R must be float32[1, 8, 2], got float64[1, 8, 2]"),
        (lambda: ops.lstm(X, W, R, p=ops.input("p", "float32", (1, 5))), "P must be [1, 6], got float32[1, 5]"),
    ],
)
def test_errors_say_what_does_not_fit(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
