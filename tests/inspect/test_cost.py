"""What graphs cost: operations and bytes counted by hand, memory against what the interpreter plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.inspect.cost import Cost, Costs, amount, details, metrics, nbytes
from lora_graph.inspect.drawing import costs_of as costs_through
from lora_graph.inspect.inspected import Inspected
from lora_graph.interpret.plan import Plan
from lora_graph.ir import Graph, Value, input, parameter  # noqa: A004
from lora_graph.rewrite.pipeline import optimize_graph
from tests.onnx.forms.models import adapted, convolutional, dense
from tests.onnx.test_opaque import unknown_op


def costs_of(model: Any, **sizes: int) -> Costs:
    found = Inspected.of(model, sizes=sizes)
    return Costs(found.graph, found.binding)


def test_a_dense_layer(rng: np.random.Generator) -> None:
    layer = lg.DenseLayer(3, 4, "tanh", rng=rng)
    found = costs_of(layer, batch=5)
    assert found.total.flops == 2 * 5 * 4 * 3 + 5 * 4 + 5 * 4  # x W, + b, tanh
    assert found.total.read == 4 * ((15 + 12) + (20 + 4) + 20)
    assert found.total.written == 4 * 3 * 20
    assert found.total.intensity == pytest.approx(160 / (4 * (71 + 60)))
    half = costs_of(lg.DenseLayer(3, 4, "tanh", dtype="float64", rng=rng), batch=5)
    assert half.total.bytes == 2 * found.total.bytes


def test_a_low_rank_pair_beside_a_layer(rng: np.random.Generator) -> None:
    adapter = lg.StandardLoRAAdapter(lg.DenseLayer(10, 20, rng=rng), 2, alpha=4, rng=rng).eval()
    base, pair = 2 * 7 * 20 * 10 + 7 * 20, 2 * 7 * 2 * 10 + 2 * 7 * 20 * 2
    assert costs_of(adapter, batch=7).total.flops == base + pair + 7 * 20 + 7 * 20  # s, and what is added


def test_a_small_network_of_convolutions(rng: np.random.Generator) -> None:
    layers = [
        lg.ConvolutionalLayer(3, 8, 3, padding=1, activation="relu", rng=rng),
        lg.MaxPoolLayer(2),
        lg.FlattenLayer(),
    ]
    found = costs_of(lg.Sequential(layers, input_shape=(3, 6, 6)), batch=2)
    pixels = 2 * 8 * 6 * 6
    assert found.total.flops == pixels * (2 * 3 * 9 + 1) + pixels + pixels  # the convolution, relu, windows of 4


def test_a_recurrent_layer() -> None:
    found = costs_of("LSTMLayer", input_size=5, hidden_size=2, time=3, batch=2)
    step = 2 * 2 * (2 * 8) + 16 + 12 + 4 + 12 + 4 + 4  # h R, the sum, gates, candidate, f c + i g, tanh, o
    assert found.total.flops == 2 * 3 * 2 * 8 * 5 + 8 + 3 * 2 * 8 + 3 * step


def test_attention_and_normalization_of_a_block() -> None:
    x = input("x", "float32", ("batch", "time", 8))
    wide = parameter("wide", "float32", (8, 8))
    scale = parameter("scale", "float32", (8,))
    normal = lg.ops.layer_normalization(x, scale)
    y = x + lg.ops.attention(normal @ wide, normal, normal, q_num_heads=2, kv_num_heads=2)
    found = costs_of(Graph((x,), {"y": y}), batch=3, time=5)
    rows = 3 * 5
    attention = 3 * 2 * (5 * 4 + 2 * 25 * 4 + 5 * 25 + 2 * 25 * 4)
    assert found.total.flops == (6 * 8 * rows + 2 * rows) + 2 * rows * 8 * 8 + attention + rows * 8


def test_views_and_leaves_are_free_and_lookups_read_what_they_find() -> None:
    x, table = input("x", "int64", (5,)), parameter("table", "float32", (1000, 4))
    found = costs_of(Graph((x,), {"y": lg.ops.gather(table, x).T.reshape(20)}))
    assert list(found.of.values()) == [Cost(0, 5 * 8 + 80, 80), Cost(), Cost()]
    stretched = lg.ops.expand(input("z", "float32", (4,)), (1000, 4))
    (cost,) = [c for c in costs_of(Graph((), {"y": stretched + stretched * 2.0})).of.values() if c.read == 16 + 4]
    assert cost == Cost(4000, 20, 16000)


def test_an_absent_operand_reads_nothing(rng: np.random.Generator) -> None:
    x, w, r = (input(name, "float32", shape) for name, shape in (("x", (3, 2, 5)), ("w", (1, 8, 5)), ("r", (1, 8, 2))))
    start = input("h", "float32", (1, 2, 2))
    y, *_ = lg.ops.lstm(x, w, r, initial_h=start)
    found = costs_of(Graph((x, w, r, start), {"y": y}))
    assert found.total.read == 4 * (30 + 40 + 16 + 4)
    assert found.total.written == 4 * (12 + 4 + 4)


def test_ops_that_are_not_known_are_named() -> None:
    found = costs_of(unknown_op())
    assert list(found.unknown.values()) == [1]
    assert costs_of("DenseLayer").unknown == {}


def test_the_peak_of_results_that_are_alive() -> None:
    x = input("x", "float32", (100,))
    kilo = 400

    def peak(y: Value, *more: Value) -> int:
        return costs_of(Graph((x,), {str(i): value for i, value in enumerate((y, *more))})).peak

    assert peak(x) == 0
    a = x.exp()
    assert peak(a) == kilo
    assert peak(a.tanh().sqrt()) == kilo  # each in the place of the one before
    assert peak(a.tanh() + a) == 2 * kilo
    assert peak(a.tanh(), a) == 2 * kilo  # an output stays
    assert peak(a.reshape(10, 10).T.sum(axis=0)) == kilo + 40  # a view keeps what it shows
    assert peak((a.astype("float64") * 2.0).sum()) == kilo + 2 * kilo  # of another type: not in its place


MODELS: dict[str, Callable[[np.random.Generator], Any]] = {
    "dense": lambda rng: adapted(dense(rng), "lora", rng),
    "convolutions": lambda rng: convolutional(rng),
    "low rank convolutions": lambda rng: adapted(convolutional(rng), "lora", rng),
    "a normalization": lambda rng: "LayerNormalizationLayer",
    "a loop": lambda rng: "GRULayer",
}


@pytest.mark.parametrize("name", MODELS)
def test_the_peak_is_about_what_the_interpreter_plans(name: str, rng: np.random.Generator) -> None:
    found = costs_of(MODELS[name](rng), batch=64)
    outputs = sum(found.nbytes(value.type) for value in found.graph.outputs.values())
    planned = Plan(found.graph, (), found.binding).memory + outputs
    assert 0.7 < planned / found.peak < 1.3


def test_what_drawings_show(rng: np.random.Generator) -> None:
    found = costs_of(lg.DenseLayer(300, 400, rng=rng), batch=5)
    (product, total) = found.of
    assert metrics(found.of) == {
        "flops": {product: 1_200_000, total: 2000},
        "bytes": {product: 4 * (1500 + 120_000 + 2000), total: 4 * (2000 + 400 + 2000)},
    }
    assert details(found.of)[product] == {
        "operations": "1.20 MFLOP",
        "bytes": "475 KiB read, 7.81 KiB written",
        "intensity": "2.43 FLOP/byte",
    }


@pytest.mark.parametrize(
    ("number", "decimal", "binary"),
    [
        (0, "0 FLOP", "0 B"),
        (999, "999 FLOP", "999 B"),
        (1000, "1.00 kFLOP", "1000 B"),
        (1024, "1.02 kFLOP", "1.00 KiB"),
        (99_949, "99.9 kFLOP", "97.6 KiB"),
        (123_456_789, "123 MFLOP", "118 MiB"),
        (999_600, "1.00 MFLOP", "976 KiB"),
        (3.2e15, "3.20 PFLOP", "2910 TiB"),
    ],
)
def test_amounts_have_three_digits(number: float, decimal: str, binary: str) -> None:
    assert amount(number, "FLOP") == decimal
    assert nbytes(number) == binary


def test_what_passes_make_costs_as_well(rng: np.random.Generator) -> None:
    model = Inspected.of(adapted(dense(rng), "lora", rng), sizes={"batch": 5})
    report = optimize_graph(model.graph, "deploy").report
    costs = costs_through(model, report)
    last = report.passes[-1].after
    assert {value for value in last.values if value.operands} <= costs.keys()
    assert sum(costs[value].flops for value in last.values if value.operands) == (
        5 * (2 * 12 * 16 + 16 + 16) + 5 * (2 * 16 * 10 + 10)  # two Gemm and a relu
    )
    assert costs_through(model) == Costs(model.graph, model.binding).of


def test_sizes_that_are_too_small_are_named(rng: np.random.Generator) -> None:
    layer = lg.ConvolutionalLayer(1, 1, 20, rng=rng)
    with pytest.raises(
        ValueError, match=r"would be \[1, 1, -3, -3\] at batch = 1, height = 16, width = 16: give larger"
    ):
        costs_of(layer).total  # noqa: B018
    assert costs_of(layer, height=20, width=21).total.flops == 2 * (2 * 400 + 1)
