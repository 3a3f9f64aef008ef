"""Normalization layers: two modes, running statistics, freezing, export."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg
from tests.layers.cases import shifted
from tests.reference import close, differences

EPSILON = 0.01


def normalized(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
    """For x ``[batch, channels, *spatial]``."""
    each = [np.reshape(p, (-1,) + (1,) * (x.ndim - 2)) for p in (weight, bias, mean, var)]
    return (x - each[2]) / np.sqrt(each[3] + EPSILON) * each[0] + each[1]


def statistics(x: Any) -> tuple[Any, Any]:
    axes = (0, *range(2, x.ndim))
    return x.mean(axes), x.var(axes)


def made(axes: int = 2, dtype: str = "float64", momentum: float = 0.75) -> lg.BatchNormalizationLayer:
    layer = lg.BatchNormalizationLayer(3, momentum, EPSILON, spatial_axes=axes, dtype=dtype)
    shifted(layer)
    layer.set_parameter("running_var", np.array([0.5, 1.0, 2.0]))
    return layer


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("axes", [0, 1, 2, 3])
def test_both_modes(axes: int, lead: tuple[int, ...], rng: np.random.Generator) -> None:
    layer = made(axes)
    x = rng.normal(1, 2, (*lead, 3, *(4, 5, 2)[:axes]))
    flat = x.reshape((-1, 3, *x.shape[len(lead) + 1 :]))
    state = layer.state
    weight, bias, mean, var = state.values()
    batch = statistics(flat)
    close(layer(x).reshape(flat.shape), normalized(flat, weight, bias, *batch), 1e-12)
    for name, old, new in zip(("running_mean", "running_var"), (mean, var), batch, strict=True):
        close(layer.get_parameter(name), 0.75 * old + 0.25 * new, 1e-12)
    mean, var = (layer.get_parameter(name) for name in ("running_mean", "running_var"))
    close(layer.eval()(x).reshape(flat.shape), normalized(flat, weight, bias, mean, var), 1e-12)
    np.testing.assert_array_equal(layer.get_parameter("running_mean"), mean)
    np.testing.assert_array_equal(layer.get_parameter("running_var"), var)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_differences(training: bool, rng: np.random.Generator) -> None:
    layer = made().set_training(training)
    x, g = rng.normal(size=(2, 3, 2, 2)), rng.normal(size=(2, 3, 2, 2))
    weight, bias, mean, var = layer.state.values()

    def loss(w: Any, b: Any, a: Any) -> Any:
        return (g * normalized(a, w, b, *(statistics(a) if training else (mean, var)))).sum()

    layer(x)
    of_input = layer.backward(g)
    expected = [differences(loss, [weight, bias, x], at) for at in range(3)]
    close(of_input, expected[2], 1e-7)
    close(layer.get_parameter_gradients(), np.concatenate(expected[:2]), 1e-7)


def test_a_frozen_layer_normalizes_as_in_evaluation_and_keeps_its_statistics(rng: np.random.Generator) -> None:
    layer = made()
    x = rng.normal(size=(4, 3, 2, 2))
    expected, before = layer.eval()(x), layer.state
    frozen = layer.train().freeze()
    np.testing.assert_array_equal(frozen(x), expected)
    for name, array in frozen.state.items():
        np.testing.assert_array_equal(array, before[name])
    frozen.unfreeze()(x)
    assert (frozen.get_parameter("running_mean") != before["running_mean"]).all()


def model(frozen: bool) -> lg.Sequential:
    normalization = lg.BatchNormalizationLayer(4, 0.5)
    layers = [
        lg.ConvolutionalLayer(1, 4, 3, rng=0),
        normalization.freeze() if frozen else normalization,
        lg.GlobalAveragePoolLayer(),
        lg.DenseLayer(4, 2, rng=1),
    ]
    return lg.Sequential(layers)


def test_training_moves_the_statistics(rng: np.random.Generator) -> None:
    x, targets = rng.normal(2, 3, (16, 1, 5, 5)).astype(np.float32), rng.integers(0, 2, 16)
    trained = model(frozen=False)
    convolved = trained[0](x).astype(np.float64)
    lg.fit(trained, (x, targets), loss="cross_entropy", optimizer=lg.SGD(1e-3), epochs=1, batch_size=16)
    mean, var = statistics(convolved)
    close(trained.get_parameter("1.running_mean"), 0.5 * mean, 1e-5)
    close(trained.get_parameter("1.running_var"), 0.5 + 0.5 * var, 1e-5)
    held = model(frozen=True)
    lg.fit(held, (x, targets), loss="cross_entropy", optimizer=lg.SGD(1e-3), epochs=1, batch_size=16)
    assert not held.get_parameter("1.running_mean").any()
    np.testing.assert_array_equal(held.get_parameter("1.running_var"), np.ones(4, np.float32))
    assert held.get_parameter("0.bias").any()


@pytest.mark.parametrize("axes", [0, 1, 2])
def test_onnx_runtime_computes_the_exported_layer(axes: int, rng: np.random.Generator) -> None:
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-12)):
        layer = made(axes, dtype)
        exported = lg.export_onnx(layer)
        onnx.checker.check_model(exported, full_check=True)
        if dtype == "float32":
            assert [node.op_type for node in exported.graph.node] == ["BatchNormalization"]
        x = rng.normal(size=(5, 3, *(4, 2)[:axes])).astype(dtype)
        weight, bias, mean, var = (array.astype(np.float64) for array in layer.state.values())
        close(lg.Session(exported).run(x), normalized(x.astype(np.float64), weight, bias, mean, var), tolerance)


def test_the_exported_model_reads_back(rng: np.random.Generator) -> None:
    trained = model(frozen=False).eval()
    x = rng.normal(size=(3, 1, 5, 5)).astype(np.float32)
    close(lg.load_onnx(lg.export_onnx(trained))(x), trained(x), 1e-6)


def test_layer_normalization_starts_as_the_plain_one(rng: np.random.Generator) -> None:
    layer = lg.LayerNormalizationLayer(6)
    assert layer.get_parameter_names() == ["weight", "bias"]
    x = rng.normal(3, 2, (2, 4, 6)).astype(np.float32)
    close(layer(x), (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5), 1e-5)
    exported = lg.export_onnx(layer)
    assert [node.op_type for node in exported.graph.node] == ["LayerNormalization"]
    close(lg.Session(exported).run(x[0]), layer(x[0]), 1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients_are_those_of_pytorch(training: bool, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    layer = made().set_training(training)
    x, g = rng.normal(size=(4, 3, 2, 5)), rng.normal(size=(4, 3, 2, 5))
    leaves = [torch.tensor(array, requires_grad=True) for array in (x, *list(layer.state.values())[:2])]
    mean, var = (torch.tensor(layer.get_parameter(name)) for name in ("running_mean", "running_var"))
    there = torch.nn.functional.batch_norm(leaves[0], mean, var, *leaves[1:], training, eps=EPSILON)
    there.backward(torch.tensor(g))
    close(layer(x), there.detach().numpy(), 1e-12)
    close(layer.backward(g), leaves[0].grad.numpy(), 1e-11)
    close(layer.get_parameter_gradients(), np.concatenate([leaf.grad.numpy() for leaf in leaves[1:]]), 1e-11)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"channels": 0}, ValueError, "channels must be at least 1"),
        ({"channels": 2.0}, TypeError, "channels must be an int"),
        ({"channels": 2, "momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\), got 1.0"),
        ({"channels": 2, "epsilon": 0}, ValueError, "epsilon must be positive, got 0"),
        ({"channels": 2, "spatial_axes": 4}, ValueError, r"spatial_axes must be in 0\.\.3, got 4"),
    ],
)
def test_errors_name_the_argument(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lg.BatchNormalizationLayer(**options)


@pytest.mark.parametrize("axes", [0, 2])
def test_an_empty_batch_leaves_the_running_statistics(axes: int) -> None:
    layer = lg.BatchNormalizationLayer(3, spatial_axes=axes)
    sample = (3, *(2, 2)[:axes])
    layer.forward(np.random.default_rng(0).normal(size=(4, *sample)))
    before = layer.state
    assert before["running_mean"].any()
    assert layer.forward(np.zeros((0, *sample))).shape == (0, *sample)
    for name, array in layer.state.items():
        np.testing.assert_array_equal(array, before[name])
