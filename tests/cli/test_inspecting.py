"""inspect, as a shell script would call it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.cli.commands import PRESETS
from lora_graph.inspect.built_in import NAMES
from lora_graph.ir import Graph, input, parameter, parse  # noqa: A004
from lora_graph.onnx import lower, read_model
from lora_graph.rewrite.pipeline import PRESETS as ALL_PRESETS
from tests.cli.test_commands import call


def test_a_run_at_a_glance(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    result = call("inspect", run, "--values", "--passes", "--preset", "deploy")
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.output.splitlines()]
    assert max(map(len, lines)) <= 100
    words = [line.split() for line in lines]
    assert ["inputs", "x:", "float32[batch,", "12]"] in words
    assert "parameters   486 in 1.90 KiB; 108 train (22.22%), 108 of adapters" in lines
    assert "adapter      default: lora of rank 2, alpha 3" in lines
    assert "operations   1.01 kFLOP at batch = 1" in lines
    assert any(line[:1] == ["default.lora_0_weight"] and line[1:4] == ["56", "128", "484"] for line in words)
    assert any(line[:2] == ["base.0.weight", "2"] for line in words)  # the effective rank
    assert any(line[:3] == ["merge", "14", "12"] for line in words)
    assert any(line[:2] == ["14", "ops"] for line in words)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_tables_fit_the_terminal(width: int, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    result = call("inspect", run, "--passes")
    assert result.exit_code == 0
    assert max(len(line) for line in result.output.splitlines()) <= width
    assert ("MatMul" in result.output.split("module")[1]) == (width >= 80)


@pytest.mark.parametrize("name", NAMES)
def test_built_in_layers(name: str) -> None:
    result = call("inspect", name)
    assert result.exit_code == 0, result.output
    assert f"model        {name}" in result.output


def test_sizes(run: Path) -> None:
    found = json.loads(call("inspect", "LSTMLayer", "--size", "hidden_size=7", "--size", "time=3", "--json").output)
    assert found["sizes"] == {"batch": 1, "time": 3}
    assert found["outputs"] == {"y": "float32[batch, time, 7]"}
    found = json.loads(call("inspect", run, "--size", "batch=5", "--json").output)
    assert found["cost"]["flops"] == 5 * 1014


def test_json_holds_everything(run: Path) -> None:
    result = call("inspect", run, "--values", "--passes", "--ir", "--script", "--json", "--depth", 1)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["model"] == str(run)
    assert facts["parameters"] == {"total": 486, "trainable": 108, "adapter": 108}
    assert [module["name"] for module in facts["modules"]] == ["base", "default"]
    assert [change["effective_rank"] for change in facts["values"]["changes"]] == [2, 2]
    assert facts["values"]["weights"][0].keys() >= {"name", "minimum", "maximum", "mean", "std", "zeros", "nonfinite"}
    assert facts["passes"]["preset"] == "inference"
    assert facts["passes"]["passes"][0].keys() == {
        *("name", "before", "after", "fired", "refused", "sweeps", "seconds"),
    }
    assert parse(facts["ir"]).input_names == ["x"]
    assert "@script(default_opset=op)" in facts["script"]
    assert json.loads(call("inspect", run, "--json").output).keys() == facts.keys() - {
        *("values", "passes", "ir", "script"),
    }


def test_the_graph_as_text(base: Path) -> None:
    result = call("inspect", base, "--ir")
    assert result.exit_code == 0
    assert parse(result.output) == read_model(base).graph


def test_the_source(base: Path) -> None:
    result = call("inspect", base, "--script")
    assert result.exit_code == 0
    assert "@script(default_opset=op)" in result.output
    assert "op.Gemm(" in result.output
    both = call("inspect", "DenseLayer", "--size", "input_size=2", "--size", "output_size=3", "--ir", "--script").output
    assert both.startswith("graph DenseLayer(")
    assert "from onnxscript import" in both


def test_refusals_are_told(tmp_path: Path) -> None:
    x, w = input("x", "float32", ("batch", 4)), parameter("w", "float32", (4, 4))
    model = lower(Graph((x,), {"y": x @ w + lg.ops.relu(x)}), {"w": np.ones((4, 4), np.float32)})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    result = call("inspect", tmp_path / "m.onnx", "--passes", "--preset", "merge")
    assert result.exit_code == 0, result.output
    assert "merge refused merge_bypass: Relu on the way is not linear in float32[batch, 4]" in result.output


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    name = "[red]\x1b[2J\u202eevil[/red]"
    x, w = input("x", "float32", ("batch", 4)), parameter(f"{name}.weight", "float32", (4, 4))
    model = lower(Graph((x,), {name: x @ w}), {f"{name}.weight": np.ones((4, 4), np.float32)})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    result = call("inspect", tmp_path / "m.onnx", "--values")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "\u202e" not in result.output
    assert "[red]\\x1b[2J\\u202eevil[/red]: float32[batch, 4]" in result.output


def test_weights_that_are_not_finite_are_strict_json(tmp_path: Path) -> None:
    x, w = input("x", "float32", ("batch", 2)), parameter("w", "float32", (2, 2))
    state = {"w": np.array([[np.nan, np.inf], [-np.inf, np.nan]], np.float32)}
    (tmp_path / "m.onnx").write_bytes(lower(Graph((x,), {"y": x @ w}), state).SerializeToString())
    result = call("inspect", tmp_path / "m.onnx", "--values", "--json")
    assert result.exit_code == 0, result.output
    (weight,) = json.loads(result.output)["values"]["weights"]
    assert (weight["nonfinite"], weight["minimum"]) == (4, None)
    assert call("inspect", tmp_path / "m.onnx", "--values").exit_code == 0


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x08\x0a" * 9])
def test_bad_models_are_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    result = call("inspect", path)
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {path}")
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("NoLayer",), "NoLayer: neither a file nor a folder, nor a built-in layer: DenseLayer"),
        (("DenseLayer", "--size", "time=3"), "DenseLayer has no dimension called 'time'; it has batch"),
        (("DenseLayer", "--size", "time"), "--size must be a name and a number"),
        (("DenseLayer", "--size", "input_size=0"), "input_size must be at least 1, got 0"),
        (("DenseLayer", "--preset", "fast"), "'fast' is not one of"),
        (("DenseLayer", "--depth", "-1"), "-1 is not in the range"),
        ((".",), "not a run"),
    ],
)
def test_bad_options_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = call("inspect", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_every_preset_can_be_asked_for() -> None:
    assert set(PRESETS) == set(ALL_PRESETS)


def test_a_drawing_beside_the_tables(run: Path, tmp_path: Path) -> None:
    image = tmp_path / "run.svg"
    assert call("inspect", run, "--svg", image, "--depth", "1").exit_code == 0
    folded = image.read_text()
    assert folded.startswith("<svg")
    assert call("inspect", run, "--svg", image, "--passes", "--preset", "deploy").exit_code == 0
    assert image.read_text() != folded


def test_a_file_that_cannot_be_read_is_not_drawn(tmp_path: Path) -> None:
    broken, image = tmp_path / "broken.onnx", tmp_path / "broken.svg"
    broken.write_bytes(b"no model")
    result = call("inspect", broken, "--svg", image)
    assert result.exit_code == 2
    assert not image.exists()
