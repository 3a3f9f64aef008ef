"""Layers as graphs, their diagnostics, and what close releases."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.interpret import evaluate
from tests.layers.cases import CASES, KINDS, Case, Gain
from tests.reference import close


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_exported_graph_computes_the_layer(case: Case, rng: np.random.Generator) -> None:
    layer = case.make("float64")
    inputs: list[lg.Value] = []
    output = layer.export_computation_graph(inputs)
    assert [str(value.type) for value in inputs] == [f"float64[batch, {case.takes}]"]
    graph = lg.Graph(tuple(inputs), {"y": output})
    assert graph == layer.to_graph()
    assert str(output.type) == f"float64[batch, {case.gives}]"
    x = rng.normal(size=(4, *case.sample))
    close(evaluate(graph, {"x": x}, layer.state)["y"], case.formula(layer.state, x), 1e-12)


def test_input_nodes_are_appended() -> None:
    nodes: list[lg.Value] = []
    Gain(2).export_computation_graph(nodes)
    Gain(3).export_computation_graph(nodes)
    assert [value.shape[1] for value in nodes] == [2, 3]
    for wrong in (None, (), {}):
        with pytest.raises(TypeError, match="input_nodes must be a list to append to"):
            Gain(2).export_computation_graph(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2,), ("batch", 2), ("n", "m", 2), (7, 2)], ids=str)
def test_to_graph_takes_an_input_shape(shape: tuple[int | str, ...]) -> None:
    graph = Gain(2).to_graph(shape)
    assert str(graph.inputs[0].type) == f"float32[{', '.join(map(str, shape))}]"
    assert graph.outputs["y"].shape == graph.inputs[0].shape


@pytest.mark.parametrize("shape", [(3,), (), ("batch", 2, 3)], ids=str)
def test_to_graph_with_another_shape(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(ValueError, match=r"Gain takes inputs that end in \[2\], got"):
        Gain(2).to_graph(shape)


def test_values_know_the_module_they_belong_to() -> None:
    class Twice(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape=(2,), output_shape=(2,))
            self.inner = self.add_child("inner", Gain(2))

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return ctx.call(self.inner, x.tanh()) + 1.0

    graph = lg.Sequential([Twice()]).to_graph()
    scopes = {value.op.name: graph.notes[value].scope for value in graph.values if value.operands}
    assert scopes == {"Tanh": "0", "Mul": "0.inner", "Add": "0"}


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_diagnostics_are_strings(case: Case) -> None:
    layer = case.make("float32")
    found = layer.get_diagnostics()
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in found.items())
    assert found["layer_type"] == type(layer).__name__
    assert found["input_shape"] == f"[{case.takes}]"
    assert found["output_shape"] == f"[{case.gives}]"
    assert found["total_parameters"] == found["trainable_parameters"] == str(layer.parameter_count)
    assert found["trainable_percent"] == "100.00"
    assert found["mode"] == "training"
    found = layer.eval().freeze().get_diagnostics()
    assert (found["mode"], found["trainable_parameters"], found["trainable_percent"]) == ("evaluation", "0", "0.00")


def test_diagnostics_of_particulars() -> None:
    assert lg.DenseLayer(2, 2, "gelu").get_diagnostics()["activation"] == "gelu"
    assert lg.DenseLayer(2, 2, np.sin).get_diagnostics()["activation"] == "sin"
    assert lg.DenseLayer(2, 2, layer_name="head").get_diagnostics()["layer_name"] == "head"
    assert lg.Layer(input_shape=(2,), output_shape=(2,)).get_diagnostics()["trainable_percent"] == "0.00"
    assert Gain(2).supports_training
    assert Gain(2).supports_jit_compilation


def test_close_releases_plans_and_the_last_input() -> None:
    model = lg.Sequential([lg.DenseLayer(11, 7, "tanh", rng=0), Gain(7)])
    with model as same:
        assert same is model
        expected = model.forward(np.ones((3, 11)))
        model[1].forward(np.ones((3, 7)))
        programs = [weakref.ref(p) for layer in (model, model[1]) for p in layer._runner._kept.values()]
        assert len(programs) == 2
    gc.collect()
    assert [program() for program in programs] == [None, None]
    with pytest.raises(RuntimeError, match="needs a forward"):
        model.backward(np.ones((3, 7)))
    np.testing.assert_array_equal(model.forward(np.ones((3, 11))), expected)


def test_layers_of_one_structure_share_a_plan() -> None:
    one, two = lg.DenseLayer(4, 3, rng=0), lg.DenseLayer(4, 3, rng=1)
    one.forward(np.ones((2, 4)))
    two.forward(np.ones((2, 4)))
    assert list(one._runner._kept.values()) == list(two._runner._kept.values())


def test_few_plans_are_kept() -> None:
    layer = Gain(2)
    for rank in range(20):
        layer.forward(np.ones((*(1,) * rank, 2)))
    assert len(layer._runner._kept) == 16
