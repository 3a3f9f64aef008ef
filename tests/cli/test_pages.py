"""--html: the page of a model, a profile or a diff, as a shell script would ask for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.inspect import profile_peak
from tests.cli.test_commands import call
from tests.onnx.forms.models import adapted, dense

COMMANDS = ["inspect", "profile"]
FEW = {"inspect": (), "profile": ("--repeat", 2, "--warmup", 0)}


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_peak, "SHAPES", ((16, 16, 16),))
    profile_peak.gemm_peak.cache_clear()


@pytest.fixture
def model(rng: np.random.Generator, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    lg.export_onnx(adapted(dense(rng), "lora", rng), path)
    return path


def data_of(page: Path) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_is_written_beside_what_is_printed(command: str, model: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    result = call(command, model, "--html", page, "--json", *FEW[command])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["model"] == str(model)
    data = data_of(page)
    assert data["name"] == "model.onnx"
    assert "MatMul" in data["strings"]
    assert len(data["stages"]) > 1
    assert data["adapter"]


def test_the_page_shows_the_passes_and_statistics_asked_for(model: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    assert call("inspect", model, "--html", page, "--preset", "deploy", "--values").exit_code == 0
    data = data_of(page)
    assert "fuse Gemm" in [stage["name"] for stage in data["stages"]]
    assert "mean ± std" in data["strings"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12\x04half"])
def test_a_broken_model_leaves_no_page(command: str, content: bytes, tmp_path: Path) -> None:
    broken, page = tmp_path / "broken.onnx", tmp_path / "out.html"
    broken.write_bytes(content)
    result = call(command, broken, "--html", page)
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]


def test_the_page_of_a_diff_has_two_sides(model: Path, tmp_path: Path) -> None:
    page, merged = tmp_path / "out.html", tmp_path / "merged.onnx"
    assert call("export", model, "-o", merged, "--form", "merged").exit_code == 0
    result = call("diff", model, merged, "--html", page, "--json")
    assert result.exit_code == 1, result.output
    found, data = json.loads(result.output), data_of(page)
    assert data["kind"] == "diff"
    assert data["name"] == "model.onnx → merged.onnx"
    assert [stage["name"] for stage in data["stages"]] == ["model.onnx", "merged.onnx"]
    panels = [{data["strings"][i]: data["strings"][j] for i, j in pairs} for pairs in data["details"].values()]
    told = [panel for panel in panels if "‖ΔW‖" in panel]
    expected = [(f"{w['norm']:.3g}", f"{w['rank']} of {w['full_rank']}") for w in found["weights"] if w["norm"]]
    assert [(panel["‖ΔW‖"], panel["rank of ΔW"]) for panel in told] == expected
    assert expected
    assert len(data["changes"]) == sum(len(found[kind]) for kind in ("added", "removed", "changed", "fused", "weights"))


def test_two_broken_models_leave_no_page(model: Path, tmp_path: Path) -> None:
    broken, page = tmp_path / "broken.onnx", tmp_path / "out.html"
    broken.write_bytes(b"not a model")
    for pair in ((broken, model), (model, broken)):
        result = call("diff", *pair, "--html", page)
        assert result.exit_code == 2
        assert len(result.output.splitlines()) == 1
        assert not page.exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_that_cannot_be_written_is_one_line(command: str, model: Path, tmp_path: Path) -> None:
    result = call(command, model, "--html", tmp_path / "nowhere" / "out.html", *FEW[command])
    assert result.exit_code == 2
    assert "cannot write" in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize("option", ["--html", "--svg"])
@pytest.mark.parametrize("command", [["inspect"], ["diff", "other.onnx"]], ids=["inspect", "diff"])
def test_what_is_read_is_not_written_over(
    command: list[str], option: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = model.read_bytes()
    (tmp_path / "other.onnx").write_bytes(before)
    (tmp_path / "link.onnx").symlink_to(model)
    for path in ("model.onnx", "./link.onnx", model):
        result = call(*command, "model.onnx", option, path)
        assert (result.exit_code, result.output) == (2, f"error: {option} would overwrite what is read: {Path(path)}\n")
    assert model.read_bytes() == before


def test_a_profile_is_not_written_over_its_inputs(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=np.zeros((2, 8), np.float32))
    before = data.read_bytes()
    for option in ("--html", "--svg"):
        result = call("profile", model, "--inputs", data, option, data, *FEW["profile"])
        assert result.exit_code == 2
        assert f"{option} would overwrite what is read" in result.output
    assert data.read_bytes() == before


def test_where_one_output_cannot_be_written_none_is(model: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    result = call("inspect", model, "--html", page, "--svg", tmp_path / "nowhere" / "out.svg")
    assert (result.exit_code, len(result.output.splitlines()), page.exists()) == (2, 1, False)
    result = call("inspect", model, "--html", page, "--svg", page)
    assert (result.exit_code, page.exists()) == (2, False)
    assert "--svg would overwrite what --html writes" in result.output
