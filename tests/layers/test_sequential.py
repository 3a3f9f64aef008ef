"""Chains whose sizes have names: what flows where, fixed sizes, mistakes, and a network of images from end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg
from lora_graph.data import SIDE, split
from tests.reference import close


def network(features: int = 32, **options: Any) -> lg.Sequential:
    layers = [
        lg.ConvolutionalLayer(1, 6, 3, padding=1, activation="relu", rng=1),
        lg.MaxPoolLayer(2),
        lg.ConvolutionalLayer(6, 8, 3, padding=1, activation="relu", rng=2),
        lg.BatchNormalizationLayer(8),
        lg.AveragePoolLayer(2),
        lg.FlattenLayer(),
        lg.DenseLayer(features, 10, rng=3),
    ]
    return lg.Sequential(layers, **options)


class Steps(lg.Layer):
    """x times 2, for sequences of any length."""

    def __init__(self, size: int) -> None:
        super().__init__(input_shape=("time", size), output_shape=("time", size))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return x * 2.0


def test_names_stand_for_what_the_layers_before_give() -> None:
    pools = lg.Sequential([lg.ConvolutionalLayer(3, 8, 3, rng=0), lg.MaxPoolLayer(2), lg.FlattenLayer()])
    assert [str(d) for d in pools.input_shape] == ["3", "height", "width"]
    (features,) = pools.output_shape
    for height, width in ((5, 9), (6, 4)):
        size = 8 * ((height - 2) // 2) * ((width - 2) // 2)
        assert lg.TensorType(pools.dtype, (features,)).bind({"height": height, "width": width}).shape == (size,)
        assert pools(np.zeros((2, 3, height, width))).shape == (2, size)
    chained = lg.Sequential([lg.ConvolutionalLayer(1, 2, 3, rng=0), lg.ConvolutionalLayer(2, 2, 3, rng=0)])
    assert [str(d) for d in chained.output_shape] == ["2", "height-4", "width-4"]
    assert chained(np.zeros((1, 7, 6))).shape == (2, 3, 2)
    nested = lg.Sequential([chained, lg.GlobalAveragePoolLayer()])
    assert nested.output_shape == (2,)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
def test_every_rank_of_input(lead: tuple[int, ...], rng: np.random.Generator) -> None:
    model = network().eval()
    x = rng.random((*lead, 1, 8, 8)).astype(np.float32)
    y = model(x)
    assert y.shape == (*lead, 10)
    assert model.backward(np.ones(y.shape)).shape == x.shape
    singly = np.stack([model(image) for image in x.reshape(-1, 1, 8, 8)]).reshape(y.shape)
    close(y, singly, 1e-6)


def test_a_size_that_only_the_run_tells_is_checked_then() -> None:
    model = network(features=128)
    assert model(np.zeros((2, 1, 16, 19))).shape == (2, 10)
    with pytest.raises(ValueError, match="is 32 but must equal 128"):
        model(np.zeros((2, 1, 8, 8)))


def test_fixed_sizes_show_mistakes_at_once() -> None:
    model = network(input_shape=(1, 8, 8))
    assert model.input_shape == (1, 8, 8)
    with pytest.raises(ValueError, match=r"x must end in \[1, 8, 8\]"):
        model(np.zeros((2, 1, 16, 8)))
    for shape, message in (
        ((1, 16, 8), r"layers\[5\] gives \[64\] but layers\[6\] takes \[32\]"),
        ((1, 1, 8), r"input_shape \[1, 1, 8\] is too small: layers\[1\] would give \[6, 0, 4\]"),
        ((2, 8, 8), r"input_shape must be of the form \[1, height, width\], got \[2, 8, 8\]"),
        ((8, 8), r"input_shape must be of the form \[1, height, width\], got \[8, 8\]"),
    ):
        with pytest.raises(ValueError, match=message):
            network(input_shape=shape)
    with pytest.raises(TypeError, match="a shape must be a sequence"):
        network(input_shape=8)


def test_a_layer_that_takes_more_axes_claims_them_in_front(rng: np.random.Generator) -> None:
    model = lg.Sequential([lg.EmbeddingLayer(5, 3, rng=1), Steps(3), lg.DenseLayer(3, 2, rng=2)])
    assert [str(d) for d in model.input_shape] == ["time"]
    assert [str(d) for d in model.output_shape] == ["time", "2"]
    ids = rng.integers(0, 5, (2, 4))
    state = model.state
    expected = 2 * state["0.weight"][ids] @ state["2.weight"]
    close(model(ids), expected, 1e-6)
    close(lg.Session(model).run(ids), expected, 1e-6)
    with pytest.raises(
        ValueError, match=r"layers\[0\] gives .*height.* but layers\[1\] takes \[channels, height, width\]"
    ):
        lg.Sequential([lg.FlattenLayer(), lg.MaxPoolLayer(2)])


@pytest.mark.parametrize("fixed", [False, True])
def test_export_is_standard_onnx_with_symbolic_or_fixed_sizes(fixed: bool, rng: np.random.Generator) -> None:
    model = network(input_shape=(1, 8, 8)) if fixed else network()
    exported = lg.export_onnx(model)
    onnx.checker.check_model(exported, full_check=True)
    spelled = [node.op_type for node in exported.graph.node if not node.name.startswith("size.")]
    last = ["Gemm"] if fixed else spelled[-1:]
    assert spelled[:7] == ["Conv", "Relu", "MaxPool", "Conv", "Relu", "BatchNormalization", "AveragePool"]
    assert spelled[7:] == ["Flatten", *last]
    written = [d.dim_param or d.dim_value for d in exported.graph.input[0].type.tensor_type.shape.dim]
    assert written == ["batch", 1, *((8, 8) if fixed else ("height", "width"))]
    x = rng.random((3, 1, 8, 8)).astype(np.float32)
    close(lg.Session(exported).run(x), model.eval()(x), 1e-5)
    close(lg.load_onnx(exported)(x), model(x), 1e-5)
    close(lg.compile(model)(x), model(x), 1e-5)


def test_a_small_network_learns_the_digits() -> None:
    train, held_out = split()
    images = train.images.reshape(-1, 1, SIDE, SIDE)
    model = network(input_shape=(1, SIDE, SIDE))

    def accuracy() -> float:
        return float((model.eval()(held_out.images.reshape(-1, 1, SIDE, SIDE)).argmax(-1) == held_out.labels).mean())

    before = accuracy()
    lg.fit(
        model.train(), (images, train.labels), loss="cross_entropy", optimizer=lg.Adam(0.01), epochs=3, batch_size=64
    )
    after = accuracy()
    assert before < 0.3
    assert after > 0.9, f"accuracy {before:.3f} before, {after:.3f} after"
