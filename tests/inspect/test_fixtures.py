"""Models that PyTorch exported, with the adapters that PEFT and LyCORIS saved: they agree wherever they run."""

from __future__ import annotations

from pathlib import Path

import pytest

import lora_graph as lg

ROOT = Path(__file__).parents[3] / "shared" / "fixtures"
CASES = sorted(path.parent for path in ROOT.glob("*/adapter*") if (path.parent / "base_dynamo.onnx").exists())
FOLDED = ("cnn_bn_lora",)
"""Where a BatchNorm was folded into the adapted weight, which no adapter fits."""

pytestmark = pytest.mark.skipif(not CASES, reason="the fixtures lie beside the repository, not in it")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_model_and_its_adapter(case: Path) -> None:
    folder, file = case / "adapter", case / "adapter.safetensors"
    report = lg.check(case / "base_dynamo.onnx", adapter=folder if folder.is_dir() else file, batch_sizes=(3,))
    if case.name in FOLDED:
        assert "a BatchNorm was folded into conv1.weight" in str(report)
        assert not report.ok
        return
    assert report.ok, report
    assert report.findings[-1].message.startswith("modules found in the model")
    assert all(c.relative < 2e-6 for c in report.comparisons)
