"""profile, as a shell script would call it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.inspect import profile_peak
from tests.cli.test_commands import call

FEW = ("--repeat", 2, "--warmup", 0)


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_peak, "SHAPES", ((16, 16, 16),))
    profile_peak.gemm_peak.cache_clear()


def test_a_table_for_each_engine(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("profile", base, *FEW, "--size", "batch=4")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{base}: batch = 4; 1 thread, medians of 2 runs\n")
    heads = [line for line in result.output.splitlines() if line.startswith(("numpy: ", "onnxruntime"))]
    assert [line.partition(":")[0] for line in heads] == ["numpy", "onnxruntime as is", "onnxruntime"]
    assert all("of the GEMM peak" in line for line in heads)
    rows = [line.split() for line in result.output.splitlines()]
    assert ["Gemm", "Gemm", "0"] in [row[:3] for row in rows]
    assert [path.name for path in tmp_path.iterdir()] == ["base.onnx"]


def test_only_the_longest_rows(base: Path) -> None:
    result = call("profile", base, *FEW, "--engine", "numpy", "--top", 1)
    assert result.exit_code == 0, result.output
    nodes = len(lg.profile(base, engine="numpy", repeat=1).timings["numpy"].nodes)
    assert f"and {nodes - 1} more nodes" in result.output


def test_a_run_against_its_base_as_json(run: Path, base: Path) -> None:
    result = call("profile", run, "--against", base, *FEW, "--engine", "onnxruntime", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["model"] == str(run)
    assert facts["against"]["model"] == str(base)
    assert list(facts["compared"]) == ["onnxruntime as is", "onnxruntime"]
    assert {row["node"] for row in facts["compared"]["onnxruntime"]} >= {
        row["node"] for row in facts["engines"][1]["nodes"]
    }


def test_given_inputs(base: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(3, 12)).astype(np.float32))
    result = call("profile", base, *FEW, "--inputs", tmp_path / "x.npz", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["run_at"] == "batch = 3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "batch"), "--size must be a name and a number"),
        (("--size", "time=3"), "no dimension called 'time'"),
        (("--repeat", 0), "0 is not in the range"),
        (("--engine", "cuda"), "'cuda' is not one of"),
        (("--inputs", "missing.npz"), "missing.npz: No such file"),
        (("--against", "missing.onnx"), "missing.onnx: cannot be read"),
    ],
)
def test_bad_options_are_one_line(options: tuple[object, ...], message: str, base: Path) -> None:
    result = call("profile", base, *options)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x08\x0a" * 9])
def test_bad_models_are_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    result = call("profile", path)
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {path}")
    assert len(result.output.splitlines()) == 1
