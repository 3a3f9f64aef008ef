"""Models that give what they compute on the way, and sessions without optimizations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

import lora_graph as lg
from lora_graph.onnx.exposing import computed_names, exposed
from lora_graph.onnx.store import save_model
from tests.onnx.scripts import lookup


def test_intermediate_values_become_outputs(rng: np.random.Generator, tmp_path: Path) -> None:
    layer = lg.Sequential([lg.DenseLayer(6, 8, "tanh", rng=rng), lg.DenseLayer(8, 300, rng=rng)])
    model = lg.export_onnx(layer)
    path = tmp_path / "model.onnx"
    save_model(model, path, external_limit=1000)
    (name,) = [node.output[0] for node in model.graph.node if node.op_type == "Tanh"]
    assert {name, "y"} <= computed_names(path)
    more = exposed(path, {name: lg.tensor("float32", ("batch", 8)), "y": lg.tensor("float32", ("batch", 300))})
    onnx.checker.check_model(more)
    assert [item.name for item in more.graph.output] == ["y", name]
    assert [item.name for item in model.graph.output] == ["y"]
    x = rng.normal(size=(3, 6)).astype(np.float32)
    found = lg.Session(more).run(x)
    w, b = layer.get_parameter("0.weight"), layer.get_parameter("0.bias")
    np.testing.assert_allclose(found[name], np.tanh(x @ w + b), rtol=1e-5)
    np.testing.assert_allclose(found["y"], layer.eval().forward(x), rtol=1e-4, atol=1e-5)


def test_functions_are_written_out() -> None:
    names = computed_names(lookup.to_model_proto())
    more = exposed(lookup.to_model_proto(), dict.fromkeys(names, lg.tensor("float32", ("n", "t", 4))) | {})
    assert len(more.graph.output) == len(names)
    assert not more.functions


def test_a_session_without_optimizations_runs_every_node(rng: np.random.Generator, tmp_path: Path) -> None:
    layer = lg.Sequential([lg.DenseLayer(6, 8, "relu", rng=rng), lg.DenseLayer(8, 3, rng=rng)]).eval()
    x = rng.normal(size=(3, 6)).astype(np.float32)
    for flag in (True, False):
        with lg.Session(layer, optimize=flag) as session:
            np.testing.assert_allclose(session.run(x), layer.forward(x), rtol=1e-5, atol=1e-6)
