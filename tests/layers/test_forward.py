"""What layers compute, and their gradients, against NumPy formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.ops import ACTIVATIONS as NAMES
from tests.layers.cases import ACTIVATIONS, CASES, KINDS, LEADS, Case, Gain
from tests.reference import close, differences

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def test_every_activation_has_a_formula() -> None:
    assert set(NAMES) == set(ACTIVATIONS)


@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(case: Case, dtype: str, lead: tuple[int, ...], rng: np.random.Generator) -> None:
    layer = case.make(dtype)
    x = rng.normal(size=(*lead, *case.sample)).astype(dtype)
    y = layer.forward(x)
    assert y.dtype == dtype
    assert y.shape == (*lead, *case.result)
    exact = {name: array.astype(np.float64) for name, array in layer.state.items()}
    close(y, case.formula(exact, x.astype(np.float64)), TOLERANCE[dtype])


@pytest.mark.parametrize("lead", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_differences(case: Case, lead: tuple[int, ...], rng: np.random.Generator) -> None:
    layer = case.make("float64")
    x = rng.normal(size=(*lead, *case.sample))
    g = rng.normal(size=layer.forward(x).shape)
    of_input = layer.backward(g)
    names = layer.get_parameter_names()
    operands = [*(layer.get_parameter(name) for name in names), x]

    def loss(*arrays: np.ndarray) -> float:
        return float((g * case.formula(dict(zip(names, arrays, strict=False)), arrays[-1])).sum())

    expected = [differences(loss, operands, at) for at in range(len(operands))]
    close(of_input, expected[-1], 1e-6)
    close(layer.get_parameter_gradients(), np.concatenate([e.ravel() for e in expected[:-1]]), 1e-6)


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_an_empty_batch_has_zero_gradients(case: Case) -> None:
    layer = case.make("float32")
    assert layer.forward(np.zeros((0, *case.sample))).shape == (0, *case.result)
    assert layer.backward(np.zeros((0, *case.result))).shape == (0, *case.sample)
    assert not layer.get_parameter_gradients().any()
    assert layer.get_parameter_gradients().shape == (layer.parameter_count,)


@pytest.mark.parametrize("given", [np.float64, np.float16, np.int32, np.uint8], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_inputs_are_cast_to_the_dtype_of_the_layer(case: Case, given: type) -> None:
    layer = case.make("float32")
    x = np.arange(2 * math.prod(case.sample)).reshape(2, *case.sample).astype(given)
    y = layer.forward(x)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, layer.forward(x.astype(np.float32)))
    assert layer.backward(np.ones(y.shape, np.float64)).dtype == np.float32
    np.testing.assert_array_equal(layer.forward(x.tolist()), y)


def test_a_custom_activation_is_a_function_of_values(rng: np.random.Generator) -> None:
    layer = lg.DenseLayer(4, 3, lambda z: lg.ops.sin(z) * 2.0, dtype="float64", rng=rng)
    x = rng.normal(size=(2, 4))
    close(layer(x), 2 * np.sin(x @ layer.get_parameter("weight")), 1e-12)
    layer.backward(np.ones((2, 3)))
    close(layer.get_parameter_gradients()[12:], (2 * np.cos(x @ layer.get_parameter("weight"))).sum(0), 1e-12)


def test_initial_weights_are_glorot_uniform() -> None:
    layer = lg.DenseLayer(300, 100, rng=0)
    limit = np.sqrt(6 / 400)
    weight = layer.get_parameter("weight")
    assert 0.99 * limit < np.abs(weight).max() <= limit
    assert abs(weight.std() - limit / np.sqrt(3)) < 0.01 * limit
    assert not layer.get_parameter("bias").any()
    np.testing.assert_array_equal(lg.FullyConnectedLayer(300, 100, rng=0).get_parameter("weight"), weight.T)


def test_what_forward_returns_and_takes_is_the_callers(rng: np.random.Generator) -> None:
    """Writing to the input after forward does not change backward; writing to the output changes nothing."""
    layer = lg.DenseLayer(3, 2, "tanh", dtype="float64", rng=0)
    x = rng.normal(size=(4, 3))
    kept = x.copy()
    y = layer.forward(x)
    expected = y.copy()
    y += 1
    x[:] = 7
    np.testing.assert_array_equal(layer.backward(np.ones((4, 2))), _gradient(layer, kept))
    np.testing.assert_array_equal(layer.forward(kept), expected)


def _gradient(layer: lg.Layer, x: np.ndarray) -> np.ndarray:
    z = np.tanh(x @ layer.get_parameter("weight") + layer.get_parameter("bias"))
    return (1 - z * z) @ layer.get_parameter("weight").T


def test_a_layer_that_returns_its_input_returns_a_copy() -> None:
    class Same(lg.Layer):
        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return x

    layer = Same(input_shape=(2,), output_shape=(2,))
    x = np.ones((3, 2), np.float32)
    y = layer.forward(x)
    y += 1
    assert x.max() == 1
    np.testing.assert_array_equal(layer.backward(np.full((3, 2), 5.0)), np.full((3, 2), 5, np.float32))


def test_a_parameter_that_does_not_matter_has_gradient_zero() -> None:
    layer = Gain(2)
    layer.add_parameter("idle", np.ones(3))
    layer.forward(np.ones((4, 2)))
    layer.backward(np.ones((4, 2)))
    np.testing.assert_array_equal(layer.get_parameter_gradients(), [4, 4, 0, 0, 0])


def test_a_changed_build_is_never_missed() -> None:
    """The graph may depend on anything, a list that is written to included: it is made anew for each forward."""

    class Powers(lg.Layer):
        factors = [1.0]

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return x * sum(self.factors)

    layer = Powers(input_shape=(1,), output_shape=(1,))
    assert layer.forward([2.0]) == 2
    layer.factors.append(3.0)
    assert layer.forward([2.0]) == 8


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.zeros((2, 4)), ValueError, r"x must end in \[5\].*\(2, 4\)"),
        (np.zeros(()), ValueError, r"x must end in \[5\]"),
        (None, TypeError, "x must be an array of numbers"),
        ("text", TypeError, "x must be an array of numbers"),
        (np.zeros((2, 5), bool), TypeError, "bool"),
        (np.zeros((2, 5), complex), TypeError, "complex"),
        ([[1.0], [1.0, 2.0]], ValueError, "x is not an array"),
    ],
    ids=["width", "scalar", "none", "text", "bool", "complex", "ragged"],
)
def test_inputs_that_do_not_fit(x: object, error: type[Exception], words: str) -> None:
    layer = lg.DenseLayer(5, 3, dtype="float64", rng=0)
    layer.forward(np.ones((2, 5)))
    with pytest.raises(error, match=words):
        layer.forward(x)  # type: ignore[arg-type]
    np.testing.assert_allclose(layer.backward(np.ones((2, 3))), [layer.get_parameter("weight").sum(1)] * 2)


def test_backward_out_of_order() -> None:
    layer = Gain(2)
    with pytest.raises(RuntimeError, match="backward needs a forward first"):
        layer.backward(np.ones((1, 2)))
    layer.forward(np.ones((1, 2)))
    with pytest.raises(RuntimeError, match="no gradients"):
        layer.get_parameter_gradients()
    with pytest.raises(ValueError, match=r"output_gradient must have the shape of the output \(1, 2\), got \(2, 2\)"):
        layer.backward(np.ones((2, 2)))
    with pytest.raises(TypeError, match="output_gradient must be an array of numbers"):
        layer.backward(None)  # type: ignore[arg-type]
    layer.reset_state()
    with pytest.raises(RuntimeError, match="reset_state"):
        layer.backward(np.ones((1, 2)))


def test_each_backward_replaces_the_last() -> None:
    layer = Gain(2)
    layer.forward(np.ones((1, 2)))
    layer.backward([[1.0, 2.0]])
    layer.backward([[3.0, 4.0]])
    np.testing.assert_array_equal(layer.get_parameter_gradients(), [3, 4])
    layer.clear_gradients()
    with pytest.raises(RuntimeError, match="no gradients"):
        layer.get_parameter_gradients()
    layer.backward([[5.0, 6.0]])  # the last input is still there
    np.testing.assert_array_equal(layer.get_parameter_gradients(), [5, 6])


def test_backward_belongs_to_the_parameters_of_its_forward() -> None:
    layer = Gain(1, np.float64)
    layer.set_parameter("gain", [2.0])
    layer.forward([[3.0]])
    layer.set_parameter("gain", [10.0])
    np.testing.assert_array_equal(layer.backward([[1.0]]), [[2.0]])


def test_a_layer_that_does_not_train_has_no_backward() -> None:
    class Fixed(Gain):
        supports_training = False

    model = lg.Sequential([Gain(2), Fixed(2)])
    assert not model.supports_training
    model.forward(np.ones((1, 2)))
    with pytest.raises(RuntimeError, match="does not support training"):
        model.backward(np.ones((1, 2)))


def test_wrong_builds_are_told() -> None:
    class Wrong(lg.Layer):
        result: object = None

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return x.sum(axis=-1, keepdims=True) if self.result is None else self.result  # type: ignore[return-value]

    layer = Wrong(input_shape=(3,), output_shape=(3,))
    with pytest.raises(ValueError, match=r"Wrong is to give \[3\] but builds \[batch, 1\]"):
        layer.forward(np.ones((2, 3)))
    layer.result = 3.0
    with pytest.raises(TypeError, match=r"Wrong\.build must return a Value"):
        layer.forward(np.ones((2, 3)))
    with pytest.raises(NotImplementedError, match="must implement build"):
        lg.Layer(input_shape=(3,), output_shape=(3,)).forward(np.ones((2, 3)))


def test_running_statistics() -> None:
    """``ctx.update`` gives non-trainable state a new value after each forward."""

    class Mean(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape=(2,), output_shape=(2,), dtype="float64")
            self.add_parameter("mean", np.zeros(2), trainable=False)

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            mean = ctx.param("mean")
            if ctx.training:
                ctx.update("mean", mean * 0.5 + x.mean(axis=0) * 0.5)
            return x - mean

    layer = Mean()
    assert layer.parameter_count == 0
    layer.forward([[2.0, 4.0]])
    np.testing.assert_array_equal(layer.get_parameter("mean"), [1, 2])
    layer.eval()
    np.testing.assert_array_equal(layer.forward([[2.0, 4.0]]), [[1, 2]])
    np.testing.assert_array_equal(layer.get_parameter("mean"), [1, 2])


def test_draws() -> None:
    """A draw is filled in training by its sampler; asking for it in evaluation, or in two ways, is an error."""

    class Noise(lg.Layer):
        types = (lg.tensor("float64", ("batch", 2)),)

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            for kind in self.types:
                x = x + ctx.draw("noise", kind, lambda rng, shape: rng.normal(size=shape))
            return x

    layer = Noise(input_shape=(2,), output_shape=(2,), dtype="float64", rng=5)
    np.testing.assert_array_equal(layer.forward(np.zeros((3, 2))), np.random.default_rng(5).normal(size=(3, 2)))
    with pytest.raises(RuntimeError, match="evaluation draws nothing"):
        layer.to_graph()
    layer.types = (*layer.types, lg.tensor("float64", (2,)))
    with pytest.raises(ValueError, match=r"draws 'noise' as float64\[batch, 2\] and as float64\[2\]"):
        layer.forward(np.zeros((3, 2)))
