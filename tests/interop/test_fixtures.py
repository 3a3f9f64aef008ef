"""Adapters that PEFT and LyCORIS saved, on models that PyTorch exported: the outputs are those that were recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg

ROOT = Path(__file__).parents[3] / "shared" / "fixtures"
ATOL = 1e-5


def cases() -> Iterator[tuple[Path, Path]]:
    """Every case with recorded outputs, and every export of its base."""
    for io in sorted(ROOT.glob("*/io.npz")):
        for base in sorted(io.parent.glob("**/base_*.onnx")):
            yield io.parent, base


CASES = list(cases())
pytestmark = pytest.mark.skipif(not CASES, reason="the fixtures lie beside the repository, not in it")
rows = pytest.mark.parametrize(("case", "base"), CASES, ids=[str(base.relative_to(ROOT)) for _, base in CASES])


def loaded(case: Path, base: Path, base_weights: Any = None) -> lg.AdaptedModel:
    model = lg.load_onnx(base)
    if (case / "adapter").is_dir():
        return lg.load_peft(model, case / "adapter", base_weights=base_weights).eval()
    return lg.load_lycoris(model, case / "adapter.safetensors", base_weights=base_weights).eval()


def recorded(case: Path) -> tuple[dict[str, Any], Any, Any]:
    """The inputs, and what adapted and merged gave; where the library cannot merge, None."""
    with np.load(case / "io.npz") as file:
        inputs = {name.removeprefix("input/"): file[name] for name in file.files if name.startswith("input/")}
        merged = file["expected/merged"] if "expected/merged" in file.files else None
        return inputs, file["expected/adapted"], merged


def folded(case: Path) -> dict[str, np.ndarray] | None:
    """The weights before exporting, where that changed them."""
    if "_bn_" not in case.name:
        return None
    with np.load(case / "weights.npz") as file:
        return {name.removeprefix("base/"): file[name] for name in file.files if name.startswith("base/")}


@cache
def prepared(case: Path, base: Path) -> lg.AdaptedModel:
    """The adapted model, which no test changes."""
    return loaded(case, base, folded(case))


@rows
def test_it_computes_what_the_library_does(case: Path, base: Path) -> None:
    adapted = prepared(case, base)
    inputs, expected, _ = recorded(case)
    np.testing.assert_allclose(adapted.forward(inputs), expected, atol=ATOL, rtol=0)
    np.testing.assert_allclose(lg.Session(lg.export_onnx(adapted)).run(inputs), expected, atol=ATOL, rtol=0)


@rows
def test_it_merges_as_the_library_does(case: Path, base: Path) -> None:
    adapted = prepared(case, base)
    inputs, expected, merged = recorded(case)
    if merged is None:
        with pytest.raises(lg.MergeError):
            adapted.merge()
        return
    # a head that is tied to its embedding is merged alone here; PEFT's own merged model changes the embedding as well
    wanted = expected if "tied" in case.name else merged
    exported = lg.export_onnx(adapted, form="merged")
    np.testing.assert_allclose(lg.Session(exported).run(inputs), wanted, atol=ATOL, rtol=0)


@rows
def test_the_report_tells_scale_and_rank(case: Path, base: Path) -> None:
    adapted = prepared(case, base)
    layers = json.loads((case / "manifest.json").read_text())["per_layer"]
    found = {entry.module: entry for entry in adapted.report.modules if entry.form != "base"}
    assert found.keys() == layers.keys()
    for module, layer in layers.items():
        entry = found[module]
        assert entry.scale == pytest.approx(layer.get("scaling", layer.get("scale")), rel=1e-12)
        assert entry.found_by
        assert entry.weight in adapted.base.state
        if layer.get("r", layer.get("rank")) is not None:
            assert entry.rank == layer.get("r", layer.get("rank"))


@rows
def test_saved_and_loaded_again_it_is_the_same(case: Path, base: Path, tmp_path: Path) -> None:
    adapted = prepared(case, base)
    inputs, _, _ = recorded(case)
    again = lg.AdaptedModel(adapted.base if folded(case) else lg.load_onnx(base))
    for name in adapted.adapters:
        adapted.save_adapter(tmp_path / f"{name}.safetensors", name)
        again.load_adapter(tmp_path / f"{name}.safetensors", name)
    np.testing.assert_array_equal(again.eval().forward(inputs), adapted.forward(inputs))


@pytest.mark.parametrize("export", ["dynamo", "torchscript"])
def test_a_folded_batch_norm_is_refused(export: str) -> None:
    case = ROOT / "cnn_bn_lora"
    with pytest.raises(lg.LoadError, match=r"adapter_model\.safetensors: conv\d: a BatchNorm was folded into"):
        loaded(case, case / f"base_{export}.onnx")
    weights = folded(case)
    assert weights is not None
    with pytest.raises(lg.LoadError, match=r"no multiple, output by output, of conv1\.weight"):
        loaded(case, case / f"base_{export}.onnx", weights | {"conv1.weight": weights["conv1.weight"] + 0.01})
