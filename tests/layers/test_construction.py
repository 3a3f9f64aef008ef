"""Arguments that cannot be, and how Sequential fits layers together."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from tests.layers.cases import Gain

BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: lg.DenseLayer(0, 3), ValueError, "input_size must be at least 1, got 0"),
    (lambda: lg.DenseLayer(3, -1), ValueError, "output_size must be at least 1, got -1"),
    (lambda: lg.DenseLayer(3.0, 3), TypeError, "input_size must be an int, got 3.0"),  # type: ignore[arg-type]
    (lambda: lg.DenseLayer(3, True), TypeError, "output_size must be an int, got True"),
    (lambda: lg.DenseLayer(3, 3, "reluu"), ValueError, "activation must be one of identity, relu, .*'reluu'"),
    (lambda: lg.DenseLayer(3, 3, 5), TypeError, "activation must be one of"),  # type: ignore[arg-type]
    (lambda: lg.DenseLayer(3, 3, dtype="float16"), ValueError, "dtype must be float32 or float64, got float16"),
    (lambda: lg.DenseLayer(3, 3, dtype="int32"), ValueError, "dtype must be float32 or float64"),
    (lambda: lg.DenseLayer(3, 3, dtype="real"), TypeError, "dtype must be float32 or float64, got 'real'"),
    (lambda: lg.DenseLayer(3, 3, dtype=None), TypeError, "dtype must be float32 or float64, got None"),
    (lambda: lg.DenseLayer(3, 3, rng=1.5), TypeError, "rng must be None, an int or a numpy"),  # type: ignore[arg-type]
    (lambda: lg.DenseLayer(3, 3, rng=True), TypeError, "rng must be None, an int or a numpy"),
    (lambda: lg.DenseLayer(3, 3, rng=-1), ValueError, "rng must be at least 0, got -1"),
    (lambda: lg.Sequential([]), ValueError, "layers must hold at least one layer"),
    (lambda: lg.Sequential(None), TypeError, "layers must be a list of layers, got None"),  # type: ignore[arg-type]
    (lambda: lg.Sequential(Gain(2)), TypeError, "layers must be a list of layers"),  # type: ignore[arg-type]
    (lambda: lg.Sequential([Gain(2), None]), TypeError, r"layers\[1\] must be a Layer"),  # type: ignore[list-item]
    (lambda: lg.Sequential([Gain(2), Gain(3)]), ValueError, r"layers\[0\] gives \[2\] but layers\[1\] takes \[3\]"),
    (lambda: lg.Sequential([Gain(2), Gain(2, "float64")]), ValueError, "float32 but .* is float64"),
]


@pytest.mark.parametrize(("make", "error", "words"), BAD, ids=[words for _, _, words in BAD])
def test_arguments_that_cannot_be(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_layers_can_be_numpy_sized() -> None:
    layer = lg.DenseLayer(np.int64(3), np.int32(2), rng=np.uint8(1))  # type: ignore[arg-type]
    assert layer.input_shape == (3,)
    assert type(layer.input_shape[0]) is int


class Steps(lg.Layer):
    """x times 2, for sequences of any length."""

    def __init__(self, size: int) -> None:
        super().__init__(input_shape=("time", size), output_shape=("time", size))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return x * 2.0


def test_axes_that_a_layer_does_not_take_are_kept() -> None:
    model = lg.Sequential([Steps(3), lg.DenseLayer(3, 2, rng=0), Gain(2)])
    assert [str(d) for d in model.output_shape] == ["time", "2"]
    weight = model.get_parameter("1.weight")
    y = model.forward(np.ones((4, 5, 3)))
    np.testing.assert_allclose(y, np.broadcast_to(2 * weight.sum(0) * [0.5, 2], (4, 5, 2)), rtol=1e-6)
    assert model.backward(np.ones((4, 5, 2))).shape == (4, 5, 3)
    assert model.forward(np.ones((4, 7, 3))).shape == (4, 7, 2)
    with pytest.raises(ValueError, match=r"layers\[0\] gives \[3\] but layers\[1\] takes \[time, 4\]"):
        lg.Sequential([Gain(3), Steps(4)])


def test_a_sequential_is_a_sequence() -> None:
    layers = [Gain(2), Gain(2)]
    model = lg.Sequential(tuple(layers))
    assert list(model) == layers == list(model.layers)
    assert len(model) == 2
    assert model[-1] is layers[1]
    assert repr(model) == "<Sequential: [2] -> [2]>"


def test_integers_reach_the_first_layer_as_integers() -> None:
    class Embedding(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape=(), output_shape=(2,), dtype="float64")
            self.add_parameter("table", [[0, 0], [1, 10], [2.0, 20]])

        @property
        def input_dtype(self) -> np.dtype[Any]:
            return np.dtype(np.int64)

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return lg.ops.gather(ctx.param("table"), x, axis=0)

    model = lg.Sequential([Embedding(), Gain(2, "float64")])
    np.testing.assert_array_equal(model.forward([2, 1]), [[1, 40], [0.5, 20]])
    assert model.backward(np.ones((2, 2))).tolist() == [0, 0]
    np.testing.assert_array_equal(model.get_parameter_gradients()[:6], [0, 0, 0.5, 2, 0.5, 2])
    with pytest.raises(TypeError, match=r"x must hold integers \(int64\), got float64"):
        model.forward([1.5])


def test_a_printed_model_is_its_tree() -> None:
    base = lg.DenseLayer(5, 4, rng=0)
    model = lg.Sequential([base, lg.StandardLoRAAdapter(lg.DenseLayer(4, 6, rng=0), 2, site="weight", rng=0)])
    assert str(model).splitlines() == [
        "Sequential [5] -> [6], 44 of 74 parameters train",
        "  0: DenseLayer [5] -> [4], 24 of 24 parameters train",
        "  1: StandardLoRAAdapter [4] -> [6], 20 of 50 parameters train",
        "    base: DenseLayer [4] -> [6], 0 of 30 parameters train",
        "    lora: LoRALayer [4] -> [6], 20 of 20 parameters train",
    ]


def test_what_a_new_layer_may_forget_is_named() -> None:
    class Forgetful(lg.Layer):
        def __init__(self) -> None:
            self.add_parameter("w", np.ones(3))

    class Caller(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape=(2,), output_shape=(2,))
            self.inner = self.add_child("inner", Gain(2))

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return self.inner(x)  # type: ignore[arg-type, return-value]

    with pytest.raises(RuntimeError, match=r"Forgetful must call super\(\).__init__\(\.\.\.\) before it declares 'w'"):
        Forgetful()
    with pytest.raises(TypeError, match=r"a child is called with ctx\.call\(child, x\)"):
        Caller().forward(np.ones(2))
    with pytest.raises(TypeError, match="a shape must be a sequence of ints and names, got 4"):
        lg.Layer(input_shape=4, output_shape=(4,))  # type: ignore[arg-type]


def test_layers_copy_and_pickle_with_what_they_hold_and_without_what_they_ran() -> None:
    model = lg.Sequential([lg.DenseLayer(4, 5, "tanh", rng=0), lg.DyLoRAAdapter(lg.DenseLayer(5, 3, rng=1), 2, [1, 2])])
    x = np.ones((2, 4))
    model.eval()[1].set_parameter("lora.B", np.ones((2, 3)))
    expected = model.forward(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(RuntimeError, match="needs a forward"):
            twin.backward(expected)
        np.testing.assert_array_equal(twin.forward(x), expected)
        twin[0].set_parameter("weight", np.zeros((4, 5)))
        assert model[0].get_parameter("weight").all()
        assert twin[0]._runner._layer is twin[0]
    np.testing.assert_array_equal(model.forward(x), expected)
