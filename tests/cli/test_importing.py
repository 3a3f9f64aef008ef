"""import, as a shell script would call it, and what follows it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from safetensors.numpy import load_file, save_file

import lora_graph as lg
from lora_graph.adapters.runs import ADAPTER, RECORD, create, load, save
from tests.cli.test_commands import call
from tests.interop.models import Arrays, lora_config, pair, product, save_peft


@pytest.fixture
def base(tmp_path: Path, rng: np.random.Generator) -> Path:
    """y = W relu(2 V x): an exporter folded the 2 of a BatchNorm, which it notes."""
    first = helper.make_node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["a"], transB=1)
    first.metadata_props.append(
        onnx.StringStringEntryProto(key="pkg.onnxscript.rewriter.rule_name", value="FuseBatchNormIntoGemm")
    )
    nodes = [
        first,
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("Gemm", ["h", "fc2.weight"], ["y"], transB=1),
    ]
    w, bias, v = (rng.normal(size=shape).astype(np.float32) for shape in ((8, 6), (8,), (3, 8)))
    stored = {"fc1.weight": 2 * w, "fc1.bias": bias, "fc2.weight": v}
    save_file({"fc1.weight": w}, tmp_path / "weights.safetensors")
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ("batch", k)) for n, k in (("x", 6), ("y", 3))]
    graph = helper.make_graph(nodes, "main", ends[:1], ends[1:], tensors)
    path = tmp_path / "base.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def expected(base: Path, x: np.ndarray, tensors: Arrays, folded: float = 1.0) -> np.ndarray:
    w = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(base).graph.initializer}
    first = w["fc1.weight"] + (3.0 * folded * product(tensors, "fc1") if "fc1.lora_A.weight" in tensors else 0)
    second = w["fc2.weight"] + (3.0 * product(tensors, "fc2") if "fc2.lora_A.weight" in tensors else 0)
    y: np.ndarray = np.maximum(x @ first.T + w["fc1.bias"], 0) @ second.T
    return y


def test_from_a_peft_folder_to_a_tuned_file(base: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    tensors, x, run = pair("fc2", 2, 3, 8), rng.normal(size=(5, 6)).astype(np.float32), tmp_path / "run"
    save_peft(tmp_path / "adapter", tensors, lora_config())
    result = call("import", tmp_path / "adapter", "--base", base, "-o", run)
    assert result.exit_code == 0, result.output
    assert "fc2     fc2.weight  [3, 8]  out, in  lora  2     3      name" in result.output
    assert "22 of 102 parameters train" in result.output
    assert sorted(path.name for path in run.iterdir()) == [ADAPTER, RECORD]
    y = expected(base, x, tensors)
    np.testing.assert_allclose(load(run).eval().forward(x), y, atol=1e-4)
    assert call("export", run, "--form", "merged", "-o", tmp_path / "tuned.onnx").exit_code == 0
    np.testing.assert_allclose(lg.Session(tmp_path / "tuned.onnx").run(x), y, atol=1e-4)
    np.savez(tmp_path / "train.npz", inputs=x, targets=rng.normal(size=(5, 3)).astype(np.float32))
    assert call("train", run, "--data", tmp_path / "train.npz", "--epochs", 2).exit_code == 0
    assert np.abs(load(run).eval().forward(x) - y).max() > 1e-4


def test_a_run_goes_back_to_peft(base: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    folder = save_peft(tmp_path / "adapter", pair("fc2", 2, 3, 8), lora_config())
    run, new = tmp_path / "run", tmp_path / "new"
    assert call("import", folder, "--base", base, "-o", run).exit_code == 0
    result = call("export", run, "--form", "peft", "-o", new)
    assert (result.exit_code, result.output) == (0, f"{new}\n")
    written, given = (load_file(place / "adapter_model.safetensors") for place in (new, folder))
    assert written.keys() == given.keys()
    for name, array in given.items():
        np.testing.assert_array_equal(written[name], array)
    options = json.loads((new / "adapter_config.json").read_text())
    assert (options["peft_type"], options["r"], options["lora_alpha"]) == ("LORA", 2, 6)

    model = load(run)
    model.add_adapter("second", "lokr", targets="fc2", rank=2, decompose_factor=-1, rng=rng)
    save(run, model)
    several = call("export", run, "--form", "peft", "-o", tmp_path / "several", "--json")
    places = [tmp_path / "several" / name for name in ("default", "second")]
    assert json.loads(several.output) == {"form": "peft", "folders": [str(place) for place in places]}
    assert all((place / "adapter_config.json").is_file() for place in places)


def test_what_peft_cannot_have_leaves_nothing(base: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    model = lg.adapt(lg.load_onnx(base), rank=1, targets="fc2", rng=rng)
    model.add_adapter("nested", "dylora", targets="fc2", rank=2, active_ranks=[1, 2], rng=rng)
    create(tmp_path / "run", base, model, [])
    before = sorted(tmp_path.iterdir())
    for arguments, words in (
        ((tmp_path / "run", "-o", tmp_path / "new"), "dylora"),
        ((tmp_path / "run", "-o", tmp_path / "run"), "exists already"),
        ((tmp_path / "run", "-o", tmp_path / "no" / "new"), "there is no folder"),
        ((tmp_path / "run", "-o", tmp_path / "new", "--dtype", "float16"), "--form peft takes no"),
        ((base, "-o", tmp_path / "new"), "--form peft takes the folder of a run"),
    ):
        result = call("export", "--form", "peft", *arguments)
        assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
        assert words in result.output
        assert sorted(tmp_path.iterdir()) == before


def test_a_run_keeps_the_base_that_had_to_be_changed(base: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    tensors, x, run = pair("fc1", 2, 8, 6), rng.normal(size=(5, 6)).astype(np.float32), tmp_path / "run"
    folder = save_peft(tmp_path / "adapter", tensors, lora_config())
    refused = call("import", folder, "--base", base, "-o", run)
    assert refused.exit_code == 2
    assert "fc1: a BatchNorm was folded into fc1.weight" in refused.output
    assert not run.exists()
    weights = ("--base-weights", tmp_path / "weights.safetensors")
    result = call("import", folder, "--base", base, "-o", run, *weights, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["modules"][0]["module"] == "fc1"
    assert "factor" in facts["modules"][0]["note"]
    assert sorted(path.name for path in run.iterdir()) == [ADAPTER, "base.onnx", RECORD]
    np.testing.assert_allclose(load(run).eval().forward(x), expected(base, x, tensors, folded=2.0), atol=1e-4)
    again = call("import", folder, "--base", base, "-o", run, *weights)
    assert again.exit_code == 2
    assert "holds a run already" in again.output


def test_a_file_of_several_families_is_a_run_of_several_adapters(
    base: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    x, run = rng.normal(size=(5, 6)).astype(np.float32), tmp_path / "run"
    shapes = {"fc1.lora_down.weight": (2, 6), "fc1.lora_up.weight": (8, 2), "fc1.dora_scale": (8, 1)}
    shapes |= {"fc2.lora_down.weight": (2, 8), "fc2.lora_up.weight": (3, 2)}
    tensors = {f"lycoris_{name}": rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    weights = ("--base-weights", tmp_path / "weights.safetensors")
    result = call("import", tmp_path / "a.safetensors", "--base", base, "-o", run, *weights)
    assert result.exit_code == 0, result.output
    made = load(run).eval()
    assert [adapter.family for adapter in made.adapters.values()] == ["dora", "lora"]
    given = {"fc1.weight": lg.load_onnx(base).get_parameter("fc1.weight") / 2}
    wanted = lg.load_lycoris(lg.load_onnx(base), tmp_path / "a.safetensors", base_weights=given).eval().forward(x)
    np.testing.assert_allclose(made.forward(x), wanted, atol=1e-6)


@pytest.mark.parametrize("argument", ["--base", "-o"])
def test_what_is_missing_is_said(argument: str, base: Path, tmp_path: Path) -> None:
    given = {"--base": base, "-o": tmp_path / "run"}
    del given[argument]
    result = call("import", tmp_path, *[part for pair_ in given.items() for part in pair_])
    assert result.exit_code == 2
    assert "Missing option" in result.output
