"""Recurrent layers: the formula, gradients, training, and exported models with the standard op and free sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.onnx import read_model
from tests.recurrent_reference import recurrent
from tests.reference import close, differences

MAKERS: dict[str, Any] = {
    "LSTM": lg.LSTMLayer,
    "GRU": lg.GRULayer,
    "GRU linear": lambda *args, **settings: lg.GRULayer(*args, linear_before_reset=True, **settings),
}
kinds = pytest.mark.parametrize("kind", list(MAKERS))
all_steps = pytest.mark.parametrize("every", [True, False])
NAMES = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]


def formula(kind: str, every: bool, x: Any, ih: Any, hh: Any, bih: Any, bhh: Any) -> Any:
    """For x ``[..., time, features]``."""
    batch = x.reshape(-1, *x.shape[-2:])
    flags = {"linear_before_reset": 1} if kind == "GRU linear" else {}
    bias = np.concatenate([bih, bhh])[None]
    y, last, *_ = recurrent(kind.split()[0], batch.swapaxes(0, 1), ih[None], hh[None], bias, **flags)
    result = y[:, 0].swapaxes(0, 1) if every else last[0]
    return result.reshape(*x.shape[:-2], *result.shape[1:])


def parameters(layer: lg.Layer) -> list[Any]:
    return [layer.get_parameter(name) for name in NAMES]


@kinds
@all_steps
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_forward_and_backward(kind: str, every: bool, lead: tuple[int, ...]) -> None:
    layer = MAKERS[kind](3, 2, every, dtype=np.float64, rng=1)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(*lead, 4, 3))
    y = layer.forward(x)
    close(y, formula(kind, every, x, *parameters(layer)), 1e-12)
    assert y.shape == (*lead, 4, 2) if every else (*lead, 2)
    cotangent = rng.normal(size=y.shape)
    of_x = layer.backward(cotangent)

    def objective(*changed: Any) -> Any:
        return (cotangent * formula(kind, every, *changed)).sum()

    given = [x, *parameters(layer)]
    close(of_x, differences(objective, given, 0), 1e-7)
    slopes = [differences(objective, given, at).ravel() for at in range(1, 5)]
    close(layer.get_parameter_gradients(), np.concatenate(slopes), 1e-7)


@kinds
@all_steps
def test_exported_models_have_the_standard_op_and_free_sizes(kind: str, every: bool) -> None:
    layer = MAKERS[kind](3, 4, every, rng=1).eval()
    model = lg.export_onnx(layer)
    assert [node.op_type for node in model.graph.node].count(kind.split()[0]) == 1
    given = [(d.dim_param or d.dim_value) for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert given == ["batch", "time", 3]
    assert {tensor.name for tensor in model.graph.initializer} >= set(NAMES)
    with lg.Session(model) as session:
        for batch, steps in ((2, 5), (1, 1), (4, 3)):
            x = np.random.default_rng(steps).normal(size=(batch, steps, 3)).astype(np.float32)
            expected = formula(kind, every, *(a.astype(np.float64) for a in (x, *parameters(layer))))
            for found in (session.run(x), layer.forward(x), lg.compile(layer)(x), lg.compile(layer, "deploy")(x)):
                close(found, expected, 1e-5)
    assert lg.load_onnx(model.SerializeToString()).forward(x).shape == expected.shape
    assert kind.split()[0] in read_model(model.SerializeToString()).graph.op_counts()


@kinds
def test_a_model_that_reads_sequences_learns(kind: str) -> None:
    """Which half of a sequence holds the larger sum."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 6, 2)).astype(np.float32)
    labels = (x[:, :3].sum((1, 2)) > x[:, 3:].sum((1, 2))).astype(np.int64)
    model = lg.Sequential([MAKERS[kind](2, 8, rng=1), MAKERS[kind](8, 8, False, rng=2), lg.DenseLayer(8, 2, rng=3)])
    history = lg.fit(model, (x, labels), loss="cross_entropy", optimizer=lg.Adam(0.02), epochs=12, batch_size=32)
    assert history.losses[-1] < 0.25 < history.losses[0]
    right = model.eval().forward(x).argmax(-1) == labels
    assert right.mean() > 0.93


def test_parameters_have_the_layout_of_onnx() -> None:
    lstm, gru = lg.LSTMLayer(3, 5, rng=0), lg.GRULayer(3, 5, rng=0)
    for layer, rows in ((lstm, 20), (gru, 15)):
        assert layer.get_parameter_names() == NAMES
        assert [layer.get_parameter_shape(name) for name in NAMES] == [(rows, 3), (rows, 5), (rows,), (rows,)]
        every = np.concatenate([a.ravel() for a in parameters(layer)])
        assert 0.9 / np.sqrt(5) < np.abs(every).max() <= 1 / np.sqrt(5)
    assert (lstm.input_shape, lstm.output_shape) == ((lg.dim("time"), 3), (lg.dim("time"), 5))
    assert lg.LSTMLayer(3, 5, return_sequences=False).output_shape == (5,)


def test_a_bypass_starts_from_what_the_output_stands_for() -> None:
    x = lg.ops.input("x", "float32", ("batch", "time", 3))
    assert lg.LSTMLayer(3, 5).bypass_input(x) is x
    assert lg.GRULayer(3, 5, False).bypass_input(x) is x[..., -1, :]


def test_diagnostics() -> None:
    found = lg.GRULayer(3, 5, False, layer_name="reader").get_diagnostics()
    assert (found["return_sequences"], found["layer_name"], found["output_shape"]) == ("False", "reader", "[5]")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lg.LSTMLayer(0, 2), ValueError, "input_size"),
        (lambda: lg.LSTMLayer(3, 2.0), TypeError, "hidden_size"),
        (lambda: lg.GRULayer(3, 2, 1), TypeError, "return_sequences"),
        (lambda: lg.GRULayer(3, 2, linear_before_reset=1), TypeError, "linear_before_reset"),
        (lambda: lg.LSTMLayer(3, 2).forward(np.zeros((2, 5, 4))), ValueError, r"x must end in \[time, 3\]"),
        (lambda: lg.LSTMLayer(3, 2).forward(np.zeros(3)), ValueError, "x must end in"),
        (lambda: lg.export_onnx(lg.LSTMLayer(3, 2, dtype=np.float64)), ValueError, "LSTM for float64"),
        (
            lambda: lg.StandardLoRAAdapter(lg.LSTMLayer(3, 2, False), 1).forward(np.zeros((2, 0, 3))),
            ValueError,
            r"time.* is 0 but must equal 1 \(where batch = 2, time = 0\)",
        ),
    ],
)
def test_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
