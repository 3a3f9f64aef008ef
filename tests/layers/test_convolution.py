"""What is particular to convolutional layers: shapes, initial weights, export, agreement with PyTorch, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg
from tests.layers.cases import convolved, shifted
from tests.reference import close

GEOMETRIES: dict[str, dict[str, Any]] = {
    "square": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": (3, 2), "stride": (2, 3), "padding": (0, 1)},
    "dilated": {"kernel_size": (2, 3), "dilation": (3, 2), "padding": 1},
    "grouped": {"kernel_size": 2, "groups": 2},
    "depthwise": {"kernel_size": 3, "groups": 4, "stride": 2},
    "pointwise": {"kernel_size": 1},
    "of a signal": {"kernel_size": (4,), "stride": 2, "padding": 2},
    "of a volume": {"kernel_size": (2, 1, 2), "stride": (1, 2, 1)},
}


NAMES = {1: ["length"], 2: ["height", "width"], 3: ["depth", "height", "width"]}


def truth(layer: lg.ConvolutionalLayer, x: Any) -> Any:
    axes, state = x.ndim - 2, {name: array.astype(np.float64) for name, array in layer.state.items()}
    conv = layer.conv
    options = conv.strides, conv.pads[:axes], conv.dilations, conv.group
    return np.maximum(convolved(x.astype(np.float64), state["weight"], state["bias"], *options), 0)


def made(name: str, dtype: str = "float32") -> tuple[lg.ConvolutionalLayer, tuple[int, ...]]:
    layer = lg.ConvolutionalLayer(4, 8, activation="relu", **GEOMETRIES[name], dtype=dtype, rng=1)
    shifted(layer)
    return layer, (7, 8, 6)[: len(layer.input_shape) - 1]


@pytest.mark.parametrize("name", GEOMETRIES)
def test_onnx_runtime_computes_the_exported_layer(name: str, rng: np.random.Generator) -> None:
    layer, spatial = made(name)
    model = lg.export_onnx(layer)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu"]
    (given,) = model.graph.input
    written = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert written == [
        "batch",
        4,
        *NAMES[len(spatial)],
    ]
    assert all(d.dim_param for d in model.graph.output[0].type.tensor_type.shape.dim[2:])
    session = lg.Session(model)
    for lead, more in (((3,), 0), ((1,), 2), ((0,), 1)):
        x = rng.standard_normal((*lead, 4, *(n + more for n in spatial))).astype(np.float32)
        expected = truth(layer, x)
        assert session.run(x).shape == layer(x).shape == expected.shape
        close(session.run(x), expected, 1e-5)
        close(layer(x), expected, 1e-5)


@pytest.mark.parametrize("lead", [(), (2, 3)], ids=str)
def test_export_for_other_ranks(lead: tuple[int, ...], rng: np.random.Generator) -> None:
    layer, spatial = made("square")
    x = rng.standard_normal((*lead, 4, *spatial)).astype(np.float32)
    session = lg.Session(lg.export_onnx(layer, input_shape=(*("n", "m")[: len(lead)], 4, "height", "width")))
    expected = truth(layer, x.reshape((-1, *x.shape[-3:])))
    close(session.run(x), expected.reshape((*lead, *expected.shape[1:])), 1e-5)


def test_a_float64_layer_is_not_exported() -> None:
    with pytest.raises(ValueError, match="Conv for float64"):
        lg.export_onnx(made("square", "float64")[0])


def test_declared_shapes_are_those_of_the_output(rng: np.random.Generator) -> None:
    for name in GEOMETRIES:
        layer, spatial = made(name)
        sizes = dict(zip(NAMES[len(spatial)], spatial, strict=True))
        declared = lg.TensorType(layer.dtype, layer.output_shape).bind(sizes).shape
        assert layer(rng.standard_normal((2, 4, *spatial))).shape == (2, *declared)


def test_initial_weights_are_glorot_uniform_over_the_field_of_a_group() -> None:
    layer = lg.ConvolutionalLayer(32, 64, 3, groups=4, rng=0)
    weight = layer.get_parameter("weight")
    assert weight.shape == (64, 8, 3, 3)
    limit = np.sqrt(6 / (9 * (8 + 16)))
    assert 0.99 * limit < np.abs(weight).max() <= limit
    assert abs(weight.std() - limit / np.sqrt(3)) < 0.02 * limit
    assert not layer.get_parameter("bias").any()
    np.testing.assert_array_equal(lg.ConvolutionalLayer(32, 64, 3, groups=4, rng=0).get_parameter("weight"), weight)


@pytest.mark.torch
@pytest.mark.parametrize("name", GEOMETRIES)
def test_values_and_gradients_are_those_of_pytorch(name: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    layer, spatial = made(name, "float64")
    x, axes = rng.standard_normal((3, 4, *spatial)), len(spatial)
    leaves = [torch.tensor(array, requires_grad=True) for array in (x, *layer.state.values())]
    conv = layer.conv
    there = getattr(torch.nn.functional, f"conv{axes}d")(
        *leaves, conv.strides, conv.pads[:axes], conv.dilations, conv.group
    )
    there = torch.relu(there)
    close(layer(x), there.detach().numpy(), 1e-12)
    g = rng.standard_normal(tuple(there.shape))
    there.backward(torch.tensor(g))
    close(layer.backward(g), leaves[0].grad.numpy(), 1e-12)
    close(layer.get_parameter_gradients(), np.concatenate([leaf.grad.numpy().ravel() for leaf in leaves[1:]]), 1e-12)


WRONG: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((0, 4, 3), {}, ValueError, "in_channels must be at least 1, got 0"),
    ((4, 2.0, 3), {}, TypeError, "out_channels must be an int, got 2.0"),
    ((4, 4, 0), {}, ValueError, "kernel_size must be an int of at least 1, or 2 of them, got 0"),
    ((4, 4, (3, 3, 3, 3)), {}, ValueError, "kernel_size must have 1 to 3 axes"),
    ((4, 4, ()), {}, ValueError, "kernel_size must have 1 to 3 axes"),
    ((4, 4, 2.5), {}, TypeError, "kernel_size must be an int, or one for each spatial axis, got 2.5"),
    ((4, 4, 3), {"stride": 0}, ValueError, "stride must be an int of at least 1, or 2 of them, got 0"),
    ((4, 4, 3), {"stride": (1, 1, 1)}, ValueError, "stride must be an int of at least 1, or 2 of them"),
    ((4, 4, 3), {"padding": -1}, ValueError, "padding must be an int of at least 0, or 2 of them, got -1"),
    ((4, 4, 3), {"dilation": True}, TypeError, "dilation must be an int"),
    ((4, 4, 3), {"groups": 3}, ValueError, "groups must divide in_channels 4, got 3"),
    ((4, 6, 3), {"groups": 4}, ValueError, "groups must divide out_channels 6, got 4"),
    ((4, 4, 3), {"groups": 0}, ValueError, "groups must be at least 1, got 0"),
    ((4, 4, 3), {"activation": "rely"}, ValueError, "activation must be one of"),
    ((4, 4, 3), {"dtype": "int32"}, ValueError, "dtype must be float32 or float64"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), WRONG)
def test_errors_name_the_argument(arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lg.ConvolutionalLayer(*arguments, **options)


@pytest.mark.parametrize("size", [np.int64(3), np.array(3), (np.int32(3), 3), np.array([3, 3])], ids=repr)
def test_sizes_may_be_integers_of_numpy(size: Any) -> None:
    layer = lg.ConvolutionalLayer(1, 2, size, stride=np.array([2, 1]), padding=np.int64(1), rng=0)
    assert layer.get_parameter_shape("weight") == (2, 1, 3, 3)
    assert layer.forward(np.zeros((1, 7, 7))).shape == (2, 4, 7)
    assert lg.MaxPoolLayer(size).forward(np.zeros((1, 6, 6))).shape == (1, 2, 2)


def test_an_image_smaller_than_the_kernel_is_an_error() -> None:
    layer = lg.ConvolutionalLayer(1, 1, 3, rng=0)
    with pytest.raises(ValueError, match=r"fit spatial axis 0, which has 2 .* it takes at least 3 elements"):
        layer(np.zeros((1, 1, 2, 5)))
    with pytest.raises(ValueError, match=r"x must end in \[1, height, width\]"):
        layer(np.zeros((2, 5, 5)))
