"""Profiles of training steps: all of it, on a batch that its loss takes, in its parts; the model stays as it is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.inspect import profile_peak
from lora_graph.inspect.profile_model import ENGINES
from lora_graph.inspect.profile_training import Training
from lora_graph.onnx import read_model
from lora_graph.train.graph import TARGET
from tests.cli.test_commands import call
from tests.onnx.forms.models import adapted, dense


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_peak, "SHAPES", ((16, 16, 16),))
    profile_peak.gemm_peak.cache_clear()


def network(rng: np.random.Generator) -> lg.Layer:
    return lg.Sequential([lg.DenseLayer(6, 8, "relu", rng=rng), lg.DenseLayer(8, 5, rng=rng)])


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "binary_cross_entropy"])
def test_a_step_in_every_engine(loss: str, rng: np.random.Generator) -> None:
    report = lg.profile(network(rng), training=True, loss=loss, repeat=2, warmup=1, sizes={"batch": 10})
    assert list(report.timings) == list(ENGINES["all"])
    assert report.run_at == f"batch = 10, a training step ({loss}, Adam)"
    assert report.notes == ()
    forward = 2 * 10 * (6 * 8 + 8 * 5)
    backward = forward + 2 * 10 * 8 * 5  # both weights, and the input of the second layer
    for timing in report.timings.values():
        modules = {group.name: group for group in timing.by_module}
        assert {"0", "1", "loss", "backward", "optimizer"} <= modules.keys()
        products = {"MatMul", "AddMatMul", "Gemm", "FusedGemm", "FusedMatMul"}
        done = sum(node.flops for node in timing.nodes if node.op in products)
        assert forward + backward <= done < 1.1 * (forward + backward)
        assert modules["optimizer"].flops >= 6 * (6 * 8 + 8 + 8 * 5 + 5)
        assert [len(node.seconds) for node in timing.nodes] == [2] * len(timing.nodes)


def test_the_model_stays_as_it_is(rng: np.random.Generator) -> None:
    layer = network(rng).eval()
    before = {name: array.copy() for name, array in layer.state.items()}
    lg.profile(layer, training=True, optimizer=lg.SGD(0.5), repeat=3, warmup=1)
    assert not layer.is_training
    for name, array in layer.state.items():
        np.testing.assert_array_equal(array, before[name])


def test_only_what_trains_gets_a_gradient(rng: np.random.Generator, tmp_path: Path) -> None:
    model = adapted(dense(rng), "lora_drop", rng)
    both = [lg.profile(each, training=True, engine="numpy", repeat=1, warmup=0) for each in (model, dense(rng))]
    whole, alone = ({group.name: group.flops for group in report.timings["numpy"].by_module} for report in both)
    assert whole["optimizer"] < alone["optimizer"]
    assert {"base.0", "default.lora_0_weight"} <= whole.keys()
    lg.export_onnx(model, tmp_path / "m.onnx")
    report = lg.profile(tmp_path / "m.onnx", training=True, engine="numpy", repeat=1, warmup=0)
    found = {group.name: group.flops for group in report.timings["numpy"].by_module}
    assert found["optimizer"] == whole["optimizer"]  # a file remembers what is frozen


def test_what_is_run_is_the_step_that_trains(rng: np.random.Generator) -> None:
    """The engines are given what a step of training gets, and compute the parameters that it leaves."""
    layer = network(rng)
    subject = Training.of(layer, {"batch": 7}, None, 3, "mse", lg.SGD(0.1))
    engine = subject.engine("numpy", 1)
    engine.run()
    results = engine._results  # type: ignore[attr-defined]
    x, target = subject.inputs["x"], subject.inputs[TARGET]
    w, b = layer.get_parameter("1.weight"), layer.get_parameter("1.bias")
    h = np.maximum(x @ layer.get_parameter("0.weight") + layer.get_parameter("0.bias"), 0)
    g = 2 * (h @ w + b - target) / target.size
    np.testing.assert_allclose(results["1.weight"], w - 0.1 * h.T @ g, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(results["loss"], np.mean((h @ w + b - target) ** 2), rtol=1e-5)
    runtime = subject.engine("onnxruntime", 1)
    found = runtime._plain.run(runtime._feeds)  # type: ignore[attr-defined]
    np.testing.assert_allclose(found["next/1.weight"], results["1.weight"], rtol=1e-5, atol=1e-7)
    runtime.close()


def test_a_step_against_that_of_another_model(rng: np.random.Generator) -> None:
    layer = network(rng)
    report = lg.profile(layer, against=lg.adapt(layer, rank=2, rng=rng), training=True, repeat=4, engine="numpy")
    facts = report.to_dict()
    pairs = {(row["node"], row["ratio"] is None) for row in facts["compared"]["numpy"]}
    assert ("0.MatMul", False) in pairs


def test_bad_options(rng: np.random.Generator) -> None:
    layer = network(rng)
    with pytest.raises(ValueError, match="training=True"):
        lg.profile(layer, loss="mse")
    with pytest.raises(TypeError, match="Graph"):
        lg.profile(layer.to_graph(), state=layer.state, training=True)
    layer.freeze()
    with pytest.raises(ValueError, match="nothing to train"):
        lg.profile(layer, training=True)


def test_the_command(rng: np.random.Generator, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    lg.export_onnx(network(rng), path)
    assert list(read_model(path).graph.trainable) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    few = ("--training", "--repeat", 2, "--warmup", 0, "--engine", "numpy")
    result = call("profile", path, *few, "--loss", "cross_entropy", "--optimizer", "sgd")
    assert result.exit_code == 0, result.output
    assert "batch = 64, a training step (cross_entropy, SGD)" in result.output
    assert re.search(r"^optimizer +\d+ ", result.output, re.MULTILINE)
    for options, message in (
        (("--loss", "mse"), "give --training"),
        ((*few, "--loss", "unknown"), "loss"),
    ):
        wrong = call("profile", path, *options)
        assert wrong.exit_code == 2
        assert message in wrong.output
        assert len(wrong.output.splitlines()) == 1
