"""The transformer benchmark: its data, and its contenders on the encoder where PyTorch and PEFT are installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import encoder, transformer
from benchmarks.rounds import check_agreement


def test_every_contender_gets_the_same_data() -> None:
    (inputs, target), (again, _) = encoder.data(4, 8), encoder.data(4, 8)
    assert list(inputs) == list(encoder.INPUTS)
    for name in inputs:
        np.testing.assert_array_equal(inputs[name], again[name])
    assert inputs["input_ids"].max() < encoder.VOCABULARY
    np.testing.assert_array_equal(inputs["attention_mask"].sum(1), [6, 8, 6, 8])
    assert target.shape == (4, 8, encoder.WIDTH)


def test_who_runs_what() -> None:
    every = transformer.contenders("own", "torch")
    assert {name: contender.python for name, contender in every.items() if contender.python == "torch"} == {
        "prepare": "torch",
        "peft": "torch",
    }
    assert set(transformer.TRAINERS) <= every.keys()
    assert {f"latency-{name}" for name in transformer.MODELS} <= every.keys()


@pytest.mark.peft
@pytest.mark.torch
@pytest.mark.slow
def test_contenders_train_alike(tmp_path: Path) -> None:
    for package in ("torch", "peft", "transformers"):
        pytest.importorskip(package)
    made = encoder.export(tmp_path)
    assert made["parameters"] == pytest.approx(22.6e6, rel=0.01)
    losses = {}
    for name, trainer in transformer.TRAINERS.items():
        step = trainer(tmp_path, "cpu")
        losses[name] = [step() for _ in range(2)]
    check_agreement(losses)
    assert transformer.export(tmp_path)["nodes"] < made["nodes"]
    assert transformer.latency(tmp_path / "adapted.onnx", 1)["seconds"]
