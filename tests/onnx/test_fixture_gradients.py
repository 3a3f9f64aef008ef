"""Adapters of PEFT on models of PyTorch: their outputs, and the gradients that PyTorch computed for them."""

from __future__ import annotations

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.train import TrainingStep
from tests.onnx.recorded import Recorded, adapted, gradients_of_tensors, recorded

CASES = list(recorded())
pytestmark = pytest.mark.skipif(not CASES, reason="the fixtures lie beside the repository, not in it")
rows = pytest.mark.parametrize("case", CASES, ids=str)


def test_there_is_a_case_of_every_kind() -> None:
    kinds = {name for case in CASES for module in case.modules for name in case.own(module)}
    assert kinds >= {"lora_A", "lora_embedding_A", "lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a", "lokr_t2"}
    assert any(array.ndim == 4 for case in CASES for name, array in case.tensors.items() if "lora_A" in name)
    assert any(entry["fan_in_fan_out"] for case in CASES for entry in case.manifest["per_layer"].values())
    assert any(case.trained for case in CASES)


@rows
def test_outputs_are_the_recorded_ones(case: Recorded) -> None:
    model = adapted(case)
    expected = case.io["expected/adapted"]
    np.testing.assert_allclose(model.forward(case.inputs), expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(lg.compile(model)(case.inputs), expected, atol=1e-5, rtol=0)
    # PEFT does not merge beside a grouped convolution, whose weight cannot hold the change
    for form in ("parallel", "merged") if "expected/merged" in case.io else ("parallel",):
        found = lg.Session(lg.export_onnx(model, form=form)).run(case.inputs)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0, err_msg=form)


@rows
def test_gradients_are_the_recorded_ones(case: Recorded) -> None:
    model = adapted(case)
    # at rate 0 the velocity of the first step is the gradient
    step = TrainingStep(model, "mse", lg.SGD(0.0, momentum=0.5))
    loss = step.run(case.inputs, case.wanted)
    assert loss == pytest.approx(case.manifest["grads"]["loss"], rel=1e-5)
    slots = "optimizer.velocity/"
    found = {name.removeprefix(slots): array for name, array in step.state().items() if name.startswith(slots)}
    ours = gradients_of_tensors(case, model, found)
    assert ours.keys() == case.gradients.keys()
    for name, wanted in case.gradients.items():
        np.testing.assert_allclose(ours[name], wanted, rtol=0, atol=1e-4 * np.abs(wanted).max(), err_msg=name)
