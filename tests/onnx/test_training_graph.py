"""Exported training steps: a plain loop over ONNX Runtime does what the engine does, with nothing of this package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import lora_graph as lg
from lora_graph.onnx.training_graph import TRAINING
from lora_graph.train.step import TrainingStep
from tests.train.models import Array, Centered, adapted, batches, nested_model
from tests.train.transformer import Encoder, samples

RATE = 0.05


def centered() -> lg.Layer:
    return Centered(np.random.default_rng(1).standard_normal((6, 4)))


def dropped() -> lg.Layer:
    return lg.LoRADropAdapter(lg.DenseLayer(6, 4, dtype=np.float64, rng=0), 2, 0.4, mask="element", seed=1)


def encoder() -> lg.Layer:
    return lg.adapt(Encoder(), targets="all-linear", rank=1, rng=0)


def open_session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Device:
    """A loop that knows the files and their contract, and nothing else."""

    def __init__(self, files: lg.TrainingFiles) -> None:
        self.step, self.evaluation = open_session(files.step), open_session(files.evaluation)
        start = open_session(files.start)
        names = [item.name for item in start.get_outputs()]
        self.state = dict(zip(names, start.run(None, {}), strict=True))
        self.outputs = [item.name for item in self.step.get_outputs()]
        self.contract = json.loads(self.step.get_modelmeta().custom_metadata_map[TRAINING])

    def train(self, feeds: dict[str, Array]) -> float:
        given = {**feeds, "learning_rate": np.asarray(RATE), **self.state}
        found = dict(zip(self.outputs, self.step.run(None, given), strict=True))
        self.state = {name: found[output] for output, name in self.contract["state"].items()}
        return float(found["loss"])

    def predict(self, feeds: dict[str, Array]) -> Array:
        takes = {item.name for item in self.evaluation.get_inputs()} - feeds.keys()
        (found,) = self.evaluation.run(None, {**feeds, **{name: self.state[name] for name in takes}})
        return np.asarray(found)


MODELS: dict[str, tuple[Callable[[], lg.Layer], str, dict[str, Any]]] = {
    "lora": (adapted, "mse", {"clip_norm": 0.5}),
    "running mean": (centered, "mse", {}),
    "dylora": (nested_model, "mse", {}),
    "lora_drop": (dropped, "mse", {}),
    "transformer": (encoder, "cross_entropy", {"clip_value": 0.1}),
}


def data_of(name: str) -> list[tuple[dict[str, Array], Array]]:
    if name != "transformer":
        return [({"x": x}, t) for x, t in batches(4)]
    return [samples(8, seed=seed) for seed in range(4)]


@pytest.mark.parametrize("optimizer", [lg.SGD(RATE, momentum=0.9), lg.AdamW(RATE)], ids=["SGD", "AdamW"])
@pytest.mark.parametrize("name", MODELS)
def test_a_loop_on_the_device_is_the_training_here(name: str, optimizer: Any, tmp_path: Path) -> None:
    make, loss, options = MODELS[name]
    device = Device(lg.export_training_graph(make(), loss, optimizer, tmp_path / "step.onnx", **options))
    model = make().train()
    training = TrainingStep(model, loss, optimizer, engine="numpy", **options)
    for number, (inputs, target) in enumerate(data_of(name)):
        drawn: dict[str, Array] = {}
        given = inputs if len(inputs) > 1 else inputs["x"]
        expected = training.run(given, target, lambda draw, n=number: np.random.default_rng([n, len(draw.label)]))
        for draw in next(iter(training._prepared.values())).traced.draws:
            rng = np.random.default_rng([number, len(draw.label)])
            drawn[draw.label] = draw.sample(rng, {"batch": len(target)})
        assert sorted(drawn) == sorted(device.contract["draws"])
        assert device.train({**inputs, "target": target, **drawn}) == pytest.approx(expected, rel=1e-10)
    training.sync()
    for label, array in training.state().items():
        np.testing.assert_allclose(device.state[label], array, rtol=1e-9, atol=1e-10)
    inputs, _ = data_of(name)[0]
    expected_outputs = model.eval().forward(inputs if len(inputs) > 1 else inputs["x"])
    np.testing.assert_allclose(device.predict(inputs), expected_outputs, rtol=1e-9, atol=1e-10)


def test_what_was_trained_goes_back_to_the_model(tmp_path: Path) -> None:
    device = Device(lg.export_training_graph(adapted(), "mse", lg.SGD(RATE), tmp_path / "step.onnx"))
    for x, t in batches(3):
        device.train({"x": x, "target": t})
    model = adapted()
    model.assign({name: array for name, array in device.state.items() if name in model.state})
    x = batches(1)[0][0]
    np.testing.assert_allclose(model.forward(x), device.predict({"x": x}), rtol=1e-12)


def test_the_files_hold_standard_ops_and_the_contract(tmp_path: Path) -> None:
    files = lg.export_training_graph(adapted(), "mse", lg.Adam(RATE), tmp_path / "step.onnx", weights=True, opset=23)
    assert [path.name for path in (files.step, files.start, files.evaluation)] == [
        "step.onnx",
        "step.start.onnx",
        "step.eval.onnx",
    ]
    for path in (files.step, files.start, files.evaluation):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert {item.domain: item.version for item in model.opset_import} == {"": 23}
        assert {node.domain for node in model.graph.node} <= {""}
    step = onnx.load(files.step)
    metadata = {item.key: item.value for item in step.metadata_props}
    contract = json.loads(metadata[TRAINING])
    state = ["lora.A", "lora.B", "optimizer.count"]
    state += [f"optimizer.{slot}/{name}" for slot in ("mean", "square") for name in ("lora.A", "lora.B")]
    assert sorted(contract["state"].values()) == sorted(state)
    assert (contract["data"], contract["target"], contract["weights"]) == (["x"], "target", "loss_weights")
    assert contract["learning_rate"] == {"learning_rate": RATE}
    inputs = {item.name for item in step.graph.input}
    assert inputs == {"x", "target", "loss_weights", "learning_rate", *state}
    assert {item.name for item in step.graph.output} == {"loss", "gradient_norm", *(f"next/{name}" for name in state)}
    assert step.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_weights_leave_samples_out(tmp_path: Path) -> None:
    x, t = batches(1)[0]
    few = Device(lg.export_training_graph(adapted(), "mse", lg.SGD(RATE), tmp_path / "few.onnx"))
    weighted = lg.export_training_graph(adapted(), "mse", lg.SGD(RATE), tmp_path / "all.onnx", weights=True)
    whole = Device(weighted)
    expected = few.train({"x": x[:5], "target": t[:5]})
    found = whole.train({"x": x, "target": t, "loss_weights": (np.arange(8) < 5).astype(float)})
    assert found == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(whole.state["lora.A"], few.state["lora.A"], rtol=1e-12)


def test_what_cannot_be_exported_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "step.onnx"
    model = adapted()
    with pytest.raises(ValueError, match=r"opset must be in 21\.\.26, got 20"):
        lg.export_training_graph(model, "mse", lg.SGD(RATE), path, opset=20)
    with pytest.raises(ValueError, match="loss must be one of"):
        lg.export_training_graph(model, "absolute", lg.SGD(RATE), path)
    with pytest.raises(ValueError, match="has no Erf for float64"):
        lg.export_training_graph(lg.DenseLayer(3, 2, "gelu", dtype=np.float64), "mse", lg.SGD(RATE), path)
    with pytest.raises(FileNotFoundError):
        lg.export_training_graph(model, "mse", lg.SGD(RATE), tmp_path / "nowhere" / "step.onnx")
    assert not list(tmp_path.iterdir())
