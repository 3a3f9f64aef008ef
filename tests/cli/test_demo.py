"""The demo keeps what the README promises, and the models it left in the repository still do what they did."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import lora_graph as lg
from lora_graph.cli import main
from lora_graph.cli.demo import DemoResult, Row
from lora_graph.cli.demo_table import print_demo
from lora_graph.data import changed_task, split

COMMITTED = Path(__file__).parents[2] / "exported_models"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("demo")
    done = CliRunner().invoke(main, ["demo", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows_of(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in result["rows"]}


@pytest.mark.slow
def test_adapters_recover_most_of_what_full_fine_tuning_does(result: dict[str, Any]) -> None:
    rows = rows_of(result)
    base, full = rows["base, unadapted"]["after"], rows["full fine-tuning"]["after"]
    assert result["original_accuracy"] > 0.95
    assert base < 0.3
    assert full > 0.9
    for name in ("LoRA", "LoKr", "LoRA-drop"):
        assert rows[name]["share"] < 0.05
        assert rows[name]["after"] - base > 0.9 * (full - base)


@pytest.mark.slow
def test_accuracy_of_dylora_grows_with_its_rank(result: dict[str, Any]) -> None:
    rows = rows_of(result)
    accuracies = [rows[f"DyLoRA rank {rank}"]["after"] for rank in (1, 2, 4, 8)]
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] - accuracies[0] > 0.05


@pytest.mark.slow
def test_every_form_of_a_model_agrees(result: dict[str, Any]) -> None:
    assert max(row["difference"] for row in result["rows"]) < 1e-3


@pytest.mark.slow
def test_the_files_of_the_demo_are_small(result: dict[str, Any]) -> None:
    written = [path for path in Path(result["out"]).iterdir() if path.suffix == ".onnx"]
    assert sorted(path.name for path in written) == sorted(f for row in result["rows"] for f in row["files"])
    assert sum(path.stat().st_size for path in written) < 2e6


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn", "lstm"])
def test_other_networks_are_adapted_alike(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("EPOCHS", 6), ("BATCH", 32)):
        monkeypatch.setattr(sys.modules[DemoResult.__module__], name, value)
    done = CliRunner().invoke(main, ["demo", "--model", model, "-o", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    rows = rows_of(result)
    assert result["original_accuracy"] > 0.85
    assert rows["base, unadapted"]["after"] < 0.35
    for name in ("LoRA", "LoKr", "LoRA-drop"):
        assert rows[name]["after"] > 0.6
        assert rows[name]["share"] < 0.25
    assert max(row["difference"] for row in result["rows"]) < 1e-3
    assert {path.name for path in tmp_path.glob("*.onnx")} == {file for row in result["rows"] for file in row["files"]}


def committed_models() -> list[Path]:
    return sorted(COMMITTED.glob("*.onnx"))


def test_models_are_committed() -> None:
    recorded = json.loads((COMMITTED / "results.json").read_text())
    assert [path.name for path in committed_models()] == sorted(f for row in recorded["rows"] for f in row["files"])
    assert sum(path.stat().st_size for path in committed_models()) < 2e6


@pytest.mark.parametrize("path", committed_models(), ids=lambda path: path.stem)
def test_a_committed_model_still_loads_and_agrees(path: Path) -> None:
    recorded = json.loads((COMMITTED / "results.json").read_text())
    (row,) = [row for row in recorded["rows"] if path.name in row["files"]]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    held_out = split(recorded["seed"]).held_out
    images = changed_task(held_out.images)
    outputs = lg.Session(path).run(images)
    np.testing.assert_allclose(lg.load_onnx(path).forward(images), outputs, atol=1e-4, rtol=1e-4)
    twin = COMMITTED / row["files"][0]
    np.testing.assert_allclose(lg.Session(twin).run(images), outputs, atol=1e-3, rtol=1e-4)
    accuracy = (outputs.argmax(axis=1) == held_out.labels).mean()
    assert accuracy == pytest.approx(row["after"], abs=1 / len(images))


@pytest.mark.parametrize(("width", "columns"), [("79", 8), ("60", 5)])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers(
    width: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    row = Row("full fine-tuning", 26122, 1.0, 0.15, 0.953, 2e-6, ("full.onnx",), 105444, 123.4)
    print_demo(DemoResult("mlp", 0, "out", 0.981, (row,), 12.0))
    printed = capsys.readouterr().out
    assert "…" not in printed
    (line,) = [line for line in printed.splitlines() if "fine-tuning" in line]
    cells = ["26,122", "100.0%", "15.0%", "95.3%", "2e-06", "103 KiB", "123 µs"]
    assert line.split("fine-tuning")[1].split() == " ".join(cells[: columns - 1]).split()
