"""check, as a shell script would call it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.ops.activation import Tanh
from tests.cli.test_commands import call


def test_a_file_that_agrees(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    result = call("check", base)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["y", "interpreter", "/", "reference"] in [line[:4] for line in lines]
    assert ["y", "runtime", "as", "is", "/", "reference"] in [line[:6] for line in lines]
    assert f"{base}: all within the tolerance" in result.output
    assert "run at: batch 1; batch 7" in result.output
    assert "largest at" in result.output
    monkeypatch.setenv("COLUMNS", "80")
    narrow = call("check", base)
    assert "largest at" not in narrow.output
    assert max(map(len, narrow.output.splitlines()[:8])) <= 80


def test_a_run_is_compared_merged_as_well(run: Path) -> None:
    result = call("check", run, "--batch-size", 2, "--seed", 5, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["ok"] is True
    assert facts["model"] == str(run)
    assert facts["cases"] == ["batch 2"]
    assert [c["found"] for c in facts["comparisons"]][-1] == "merged"


def test_what_differs_is_named_and_gives_exit_code_1(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lg.export_onnx(lg.DenseLayer(4, 3, "tanh", rng=rng), tmp_path / "m.onnx")
    right = Tanh.evaluate
    monkeypatch.setattr(Tanh, "evaluate", lambda self, x, out=None: right(self, x * x.dtype.type(1.01), out=out))
    result = call("check", tmp_path / "m.onnx")
    assert result.exit_code == 1
    assert "runtime as is / reference: the first value that diverges is y (Tanh, float32[batch, 3]) by" in result.output
    assert "2 of 3 comparisons differ" in result.output
    assert sum(line.split()[-1:] == ["differs"] for line in result.output.splitlines()) == 2
    wider = call("check", tmp_path / "m.onnx", "--rtol", 0.1)
    assert wider.exit_code == 0, wider.output


def test_given_inputs_and_sizes(base: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(3, 12)).astype(np.float32))
    result = call("check", base, "--inputs", tmp_path / "x.npz", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["cases"] == ["given inputs"]
    sized = call("check", base, "--size", "batch=3", "--json")
    assert json.loads(sized.output)["cases"] == ["fixed size"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "batch"), "--size must be a name and a number"),
        (("--size", "time=3"), "no dimension called 'time'"),
        (("--batch-size", 0), "0 is not in the range"),
        (("--rtol", -1), "rtol must be at least 0"),
        (("--inputs", "missing.npz"), "missing.npz: No such file"),
    ],
)
def test_bad_options_are_one_line(options: tuple[object, ...], message: str, base: Path) -> None:
    result = call("check", base, *options)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x08\x0a" * 9])
def test_bad_models_are_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    result = call("check", path)
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {path}")
    assert len(result.output.splitlines()) == 1


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    result = call("check", tmp_path)
    assert result.exit_code == 2
    assert "not a run" in result.output


def test_numbers_that_are_not_finite_are_json(tmp_path: Path) -> None:
    lg.export_onnx(lg.DenseLayer(4, 3), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.full((2, 4), np.nan, np.float32))
    result = call("check", tmp_path / "m.onnx", "--inputs", tmp_path / "x.npz", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["notes"] == ["y holds values that are not finite (given inputs)"]


def test_help_names_the_exit_codes() -> None:
    result = call("check", "--help")
    assert result.exit_code == 0
    assert "Exit code 0" in result.output


def test_an_adapter_is_looked_through_and_used(run: Path, base: Path, tmp_path: Path) -> None:
    result = call("check", base, "--adapter", run / "adapter.safetensors", "--batch-size", 2)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("note: lora of rank 2 at 2 weights of the model\n")
    assert "merged / runtime optimized" in result.output
    model = tmp_path / "model.onnx"
    assert call("export", run, "--form", "hot-swap", "-o", model).exit_code == 0
    swapped = call("check", model, "--adapter", model.with_suffix(".onnx_adapter"), "--json")
    assert swapped.exit_code == 0, swapped.output
    facts = json.loads(swapped.output)
    assert facts["findings"] == []
    assert "batch 7, the adapter" in facts["cases"]


def test_an_adapter_that_does_not_fit_gives_exit_code_1(run: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    lg.export_onnx(lg.DenseLayer(12, 10, rng=rng), tmp_path / "other.onnx")
    result = call("check", tmp_path / "other.onnx", "--adapter", run / "adapter.safetensors")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["error"] * 3
    assert lines[-1] == f"{tmp_path / 'other.onnx'}: the adapter does not fit"
    as_json = call("check", tmp_path / "other.onnx", "--adapter", run / "adapter.safetensors", "--json")
    assert as_json.exit_code == 1
    facts = json.loads(as_json.output)
    assert facts["ok"] is False
    assert {"severity", "where", "message"} == set(facts["findings"][0])


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04pickle", b"\xff" * 40])
def test_a_bad_adapter_is_one_line(content: bytes | None, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx_adapter"
    if content is not None:
        path.write_bytes(content)
    result = call("check", base, "--adapter", path)
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {path}")
    assert len(result.output.splitlines()) == 1
