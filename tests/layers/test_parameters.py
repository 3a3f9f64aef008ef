"""Parameters by name and as a vector, updates, freezing and modes, and what layers share."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest

import lora_graph as lg
from tests.layers.cases import KINDS, Case, Gain


def stepped(layer: lg.Layer, size: int, rate: float = 0.1) -> None:
    layer.forward(np.ones((2, size)))
    layer.backward(np.ones((2, *layer.output_shape)))
    layer.update_parameters(rate)


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_the_flat_vector(case: Case, rng: np.random.Generator) -> None:
    layer = case.make("float64")
    names = layer.get_parameter_names()
    vector = layer.get_parameters()
    assert vector.shape == (layer.parameter_count,)
    np.testing.assert_array_equal(vector, np.concatenate([layer.get_parameter(n).ravel() for n in names]))
    new = rng.normal(size=vector.shape)
    layer.set_parameters(new)
    np.testing.assert_array_equal(layer.get_parameters(), new)
    first = layer.get_parameter(names[0])
    np.testing.assert_array_equal(first, new[: first.size].reshape(first.shape))
    new[:] = 0
    layer.get_parameters()[:] = 0
    layer.get_parameter(names[0])[:] = 0
    np.testing.assert_array_equal(layer.get_parameter(names[0]), first)


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_update_parameters_is_one_step(case: Case, rng: np.random.Generator) -> None:
    layer = case.make("float64")
    held = layer.state
    before = layer.get_parameters()
    layer.forward(rng.normal(size=(2, *case.sample)))
    layer.backward(rng.normal(size=(2, *case.result)))
    gradients = layer.get_parameter_gradients()
    assert np.abs(gradients).max() > 0
    layer.update_parameters(0.25)
    np.testing.assert_array_equal(layer.get_parameters(), before - 0.25 * gradients)
    np.testing.assert_array_equal(np.concatenate([held[n].ravel() for n in held]), before)
    after = layer.get_parameters()
    with pytest.raises(RuntimeError, match="no gradients"):
        layer.update_parameters(0.25)
    np.testing.assert_array_equal(layer.get_parameters(), after)


@pytest.mark.parametrize(
    ("rate", "error", "words"),
    [
        ("0.1", TypeError, "learning_rate must be a number"),
        (True, TypeError, "learning_rate must be a number"),
        (np.nan, ValueError, "learning_rate must be finite"),
        (10**400, ValueError, "learning_rate must be finite"),
    ],
)
def test_learning_rates(rate: object, error: type[Exception], words: str) -> None:
    layer = Gain(2)
    layer.forward(np.ones(2))
    layer.backward(np.ones(2))
    with pytest.raises(error, match=words):
        layer.update_parameters(rate)  # type: ignore[arg-type]
    np.testing.assert_array_equal(layer.get_parameter_gradients(), [1, 1])


def test_names_are_paths_from_the_root() -> None:
    inner = lg.Sequential([lg.DenseLayer(3, 3, rng=0), lg.StandardLoRAAdapter(lg.DenseLayer(3, 3, rng=0), 1, rng=0)])
    model = lg.Sequential([Gain(3), inner])
    adapter = ["base.weight", "base.bias", "lora.A", "lora.B"]
    assert model.get_parameter_names() == [
        "0.gain",
        "1.0.weight",
        "1.0.bias",
        *(f"1.1.{name}" for name in adapter),
    ]
    assert inner[1].get_parameter_names() == adapter
    assert list(model.state) == model.get_parameter_names() == list(model.to_graph().parameters)
    assert model.get_parameter_shape("1.1.lora.A") == (3, 1)


def test_parameters_by_name() -> None:
    layer = lg.DenseLayer(3, 2, rng=0)
    layer.set_parameter("bias", [1, 2])
    assert layer.get_parameter("bias").dtype == np.float32
    for call in (layer.get_parameter, layer.get_parameter_shape, lambda name: layer.set_parameter(name, 1)):
        with pytest.raises(ValueError, match="no parameter 'biass'; it has weight, bias"):
            call("biass")
    with pytest.raises(ValueError, match=r"bias must have shape \(2,\), got \(3,\)"):
        layer.set_parameter("bias", np.ones(3))
    with pytest.raises(TypeError, match="bias must be an array of numbers"):
        layer.set_parameter("bias", ["a", "b"])
    np.testing.assert_array_equal(layer.get_parameter("bias"), [1, 2])
    given = np.array([3, 4], np.float32)
    layer.set_parameter("bias", given)
    given[:] = 0
    np.testing.assert_array_equal(layer.get_parameter("bias"), [3, 4])


@pytest.mark.parametrize("vector", [np.ones(7), np.ones(9), np.ones((2, 4)), 1.0])
def test_a_vector_of_another_length(vector: np.ndarray) -> None:
    layer = lg.DenseLayer(3, 2, rng=0)
    before = layer.get_parameters()
    with pytest.raises(ValueError, match=r"vector must have shape \(8,\), got"):
        layer.set_parameters(vector)
    np.testing.assert_array_equal(layer.get_parameters(), before)


def test_declaring_parameters_and_children() -> None:
    layer = Gain(2)
    for name in ("", "a.b", 3):
        with pytest.raises(ValueError, match="non-empty string without dots"):
            layer.add_parameter(name, 1.0)  # type: ignore[arg-type]
    for declare in (lambda: layer.add_parameter("gain", 1.0), lambda: layer.add_child("gain", Gain(2))):
        with pytest.raises(ValueError, match="Gain already has a parameter or child called 'gain'"):
            declare()
    with pytest.raises(TypeError, match="'text' must be numeric"):
        layer.add_parameter("text", "abc")
    with pytest.raises(TypeError, match="'count' is trainable and so must be of floats"):
        layer.add_parameter("count", 1)
    with pytest.raises(TypeError, match="child 'c' must be a Layer, got 3"):
        layer.add_child("c", 3)  # type: ignore[type-var]
    assert layer.get_parameter_names() == ["gain"]
    layer.add_parameter("count", 1, trainable=False)
    assert layer.get_parameter("count").dtype == np.int64
    child = layer.add_child("child", Gain(2))
    with pytest.raises(ValueError, match="cannot be a child of"):
        child.add_child("parent", layer)
    with pytest.raises(TypeError, match="'count' is trainable"):
        child.add_parameter("count", 1)
    with pytest.raises(TypeError, match=r"count must hold integers \(int64\)"):
        layer.set_parameter("count", 1.5)


def test_only_declared_parts_can_be_used() -> None:
    class Careless(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape=(2,), output_shape=(2,))
            self.other = Gain(2)
            self.wanted = "gain"

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return ctx.call(self.other, x) if self.wanted == "child" else x * ctx.param(self.wanted)

    layer = Careless()
    with pytest.raises(ValueError, match="Careless has no parameter 'gain'"):
        layer.forward(np.ones(2))
    layer.wanted = "child"
    with pytest.raises(ValueError, match="Gain is no child of Careless: register it with add_child"):
        layer.forward(np.ones(2))


def test_two_states_under_one_name() -> None:
    """A layer may hold dotted names, as an imported model does; then a child can claim the same one."""
    layer = Gain(2)
    layer._slots["child.gain"] = layer.slot("gain")
    layer.add_child("child", Gain(2))
    with pytest.raises(ValueError, match=r"two parameters of Gain are called 'child\.gain'"):
        layer.get_parameters()


# -- freezing ---------------------------------------------------------------------------------------------------------


def test_a_frozen_layer_has_no_gradient_and_does_not_move() -> None:
    layer = lg.DenseLayer(3, 2, rng=0).freeze()
    before = layer.state
    assert layer.parameter_count == 0
    assert layer.trainable_parameters() == {}
    assert layer.get_parameters().shape == (0,)
    stepped(layer, 3)
    assert all(layer.state[name] is before[name] for name in before)
    layer.unfreeze()
    assert list(layer.trainable_parameters()) == ["weight", "bias"]


def test_freezing_a_child_and_the_whole() -> None:
    model = lg.Sequential([lg.DenseLayer(2, 2, rng=0), Gain(2)])
    model[0].freeze()
    assert list(model.trainable_parameters()) == ["1.gain"]
    before = model.get_parameter("0.weight")
    stepped(model, 2)
    np.testing.assert_array_equal(model.get_parameter("0.weight"), before)
    assert model.get_parameter("1.gain")[0] != Gain(2).get_parameter("gain")[0]
    model.freeze()
    assert model.parameter_count == 0
    assert model[1].parameter_count == 0
    model.unfreeze()
    assert model.parameter_count == 8


def test_trainable_parameters_are_copies() -> None:
    layer = Gain(2)
    layer.trainable_parameters()["gain"][:] = 9
    assert layer.get_parameter("gain").max() == 2


def test_freezing_between_forward_and_update() -> None:
    layer = lg.Sequential([Gain(2), Gain(2)])
    layer.forward(np.ones((1, 2)))
    layer.backward(np.ones((1, 2)))
    before = layer.get_parameter("0.gain")
    layer[0].freeze()
    assert layer.get_parameter_gradients().shape == (2,)
    layer.update_parameters(0.1)
    np.testing.assert_array_equal(layer.get_parameter("0.gain"), before)
    layer.forward(np.ones((1, 2)))
    layer[0].unfreeze()
    layer.backward(np.ones((1, 2)))
    with pytest.raises(RuntimeError, match=r"0\.gain was frozen when forward ran"):
        layer.get_parameter_gradients()
    state = layer.state
    with pytest.raises(RuntimeError, match=r"0\.gain was frozen when forward ran"):
        layer.update_parameters(0.1)
    assert all(layer.state[name] is state[name] for name in state)


# -- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "evaluate",
    [lambda m: m.eval(), lambda m: m.set_training(False), lambda m: setattr(m, "is_training", False)],
    ids=["eval", "set_training", "is_training"],
)
def test_the_mode_reaches_children(evaluate: Callable[[lg.Layer], object]) -> None:
    inner = lg.Sequential([Gain(2)])
    model = lg.Sequential([Gain(2), inner])
    assert model.is_training
    evaluate(model)
    assert not any(layer.is_training for layer in (model, inner, model[0], inner[0]))
    assert model.train() is model
    assert all(layer.is_training for layer in (model, inner, model[0], inner[0]))
    inner.eval()
    assert model.is_training
    assert not inner[0].is_training


@pytest.mark.parametrize("flag", [1, 0, None, "yes"])
def test_a_mode_is_a_bool(flag: object) -> None:
    layer = Gain(2).eval()
    with pytest.raises(TypeError, match="flag must be a bool"):
        layer.set_training(flag)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="flag must be a bool"):
        layer.is_training = flag  # type: ignore[assignment]
    assert not layer.is_training


# -- sharing ----------------------------------------------------------------------------------------------------------


def test_a_layer_used_twice_has_one_name_and_one_gradient() -> None:
    gain = Gain(2, np.float64)
    model = lg.Sequential([gain, gain])
    assert model.get_parameter_names() == ["0.gain"]
    assert model.parameter_count == 2
    x = np.array([[3.0, 5.0]])
    np.testing.assert_array_equal(model.forward(x), x * gain.get_parameter("gain") ** 2)
    model.backward(np.ones((1, 2)))
    np.testing.assert_array_equal(model.get_parameter_gradients(), (2 * x * gain.get_parameter("gain"))[0])
    model.update_parameters(0.1)
    np.testing.assert_array_equal(model.get_parameter("0.gain"), gain.get_parameter("gain"))


def test_two_models_share_a_child() -> None:
    gain = Gain(2)
    one, two = lg.Sequential([gain]), lg.Sequential([lg.DenseLayer(2, 2, rng=0), gain])
    stepped(one, 2)
    np.testing.assert_array_equal(two.get_parameter("1.gain"), gain.get_parameter("gain"))
    assert one.get_parameter("0.gain")[0] == pytest.approx(0.3)
    one.eval()
    assert not gain.is_training
    assert two.is_training


def test_a_layer_frozen_at_one_place_only_trains_at_the_other() -> None:
    base = lg.DenseLayer(3, 3, rng=0)
    frozen = lg.StandardLoRAAdapter(base, 1, rng=0)
    free = lg.StandardLoRAAdapter(base, 1, freeze_base_layer=False, rng=1)
    assert list(lg.Sequential([frozen, free]).trainable_parameters())[:2] == ["0.base.weight", "0.base.bias"]
    assert list(lg.Sequential([frozen, base]).trainable_parameters())[:2] == ["0.base.weight", "0.base.bias"]
    assert list(frozen.trainable_parameters()) == ["lora.A", "lora.B"]


def test_deepcopy_is_apart() -> None:
    model = lg.Sequential([lg.DenseLayer(2, 2, "tanh", rng=0), lg.DyLoRAAdapter(lg.DenseLayer(2, 2, rng=0), 1, [1])])
    model.forward(np.ones((1, 2)))
    twin = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="needs a forward"):
        twin.backward(np.ones((1, 2)))
    assert not set(map(id, model.places())) & set(map(id, twin.places()))
    np.testing.assert_array_equal(twin.eval().forward(np.ones(2)), model.forward(np.ones(2)))
    stepped(twin, 2)
    assert twin.get_parameter("1.lora.B").any()
    assert not model.get_parameter("1.lora.B").any()
    model.backward(np.ones(2))


def test_one_seed_one_layer() -> None:
    assert (
        lg.DenseLayer(4, 3, rng=7).get_parameters().tobytes() == lg.DenseLayer(4, 3, rng=7).get_parameters().tobytes()
    )
    generator = np.random.default_rng(7)
    first, second = lg.DenseLayer(4, 3, rng=generator), lg.DenseLayer(4, 3, rng=generator)
    assert first.get_parameters().tobytes() == lg.DenseLayer(4, 3, rng=7).get_parameters().tobytes()
    assert (first.get_parameters() != second.get_parameters()).any()
    assert (lg.DenseLayer(4, 3).get_parameters() != lg.DenseLayer(4, 3).get_parameters()).any()
