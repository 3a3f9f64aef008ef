"""diff, as a shell script would call it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from tests.cli.test_commands import call
from tests.inspect.scrambled import scrambled


@pytest.fixture
def merged(run: Path, tmp_path: Path) -> Path:
    assert call("export", run, "-o", tmp_path / "merged.onnx").exit_code == 0
    return tmp_path / "merged.onnx"


def test_equal_files_give_exit_code_0(base: Path, tmp_path: Path) -> None:
    result = call("diff", base, base)
    assert result.exit_code == 0, result.output
    assert result.output == f"{base} -> {base}: equal\n"
    other = tmp_path / "other.onnx"
    other.write_bytes(scrambled(lg.export_onnx(lg.load_onnx(base)), 1).SerializeToString())
    renamed = call("diff", base, other)
    assert renamed.exit_code == 0, renamed.output
    assert renamed.output.splitlines()[-1] == f"{base} -> {other}: equal (7 renamed)"
    assert "  input x -> " in renamed.output


def test_merged_against_base_shows_which_layers_moved(
    base: Path, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    result = call("diff", base, merged)
    assert result.exit_code == 1
    lines = [line.split() for line in result.output.splitlines()]
    assert ["0", "1"] in lines
    assert ["0.weight", "float32[12,", "16]"] in [line[:3] for line in lines]
    assert [line[-3:] for line in lines if line[:1] == ["1.weight"]] == [["2", "of", "10"]]
    assert lines[-1][-3:] == ["2", "weights", "changed"]
    assert max(map(len, result.output.splitlines()[:-1])) <= 100


def test_as_json(base: Path, merged: Path, run: Path) -> None:
    result = call("diff", base, merged, "--json")
    assert result.exit_code == 1
    facts = json.loads(result.output)
    assert facts["equal"] is False
    assert [(weight["before"], weight["rank"]) for weight in facts["weights"]] == [("0.weight", 2), ("1.weight", 2)]
    facts = json.loads(call("diff", merged, run, "--json", "--preset", "export").output)
    assert [(m["name"], m["weights"], m["added"]) for m in facts["modules"]] == [("0", 1, 4), ("1", 1, 4)]


def test_presets_and_tolerance(rng: np.random.Generator, tmp_path: Path) -> None:
    adapter = lg.StandardLoRAAdapter(lg.DenseLayer(6, 4, "relu", rng=rng), 2, alpha=3, site="weight", rng=rng)
    adapter.set_parameters(rng.normal(size=adapter.parameter_count))
    files = tmp_path / "parallel.onnx", tmp_path / "merged.onnx"
    for path in files:
        lg.export_onnx(adapter, path, form=path.stem)
    assert call("diff", *files).exit_code == 1
    result = call("diff", *files, "--preset", "deploy", "--rtol", 1e-6)
    assert result.exit_code == 0, result.output


def test_a_long_list_is_cut_unless_all_is_asked_for(tmp_path: Path) -> None:
    for name, number in (("short", 1), ("long", 30)):
        x = y = lg.ops.input("x", "float32", ("batch", 4))
        for index in range(number):
            y = (y * (index + 1.5)).tanh()
        (tmp_path / f"{name}.onnx").write_bytes(lower(lg.Graph((x,), {"y": y})))
    files = tmp_path / "short.onnx", tmp_path / "long.onnx"
    cut, whole = call("diff", *files), call("diff", *files, "--all")
    assert "  ... and 38 more (--all)" in cut.output.splitlines()
    assert len(whole.output.splitlines()) == len(cut.output.splitlines()) + 37
    assert cut.exit_code == whole.exit_code == 1


def test_a_drawing_of_both(base: Path, merged: Path, tmp_path: Path) -> None:
    image = tmp_path / "diff.svg"
    assert call("diff", base, merged, "--svg", image).exit_code == 1
    assert image.read_text().startswith("<svg")
    assert call("diff", base, tmp_path / "missing.onnx", "--svg", tmp_path / "none.svg").exit_code == 2
    assert not (tmp_path / "none.svg").exists()


def lower(graph: lg.Graph) -> bytes:
    from lora_graph.onnx.model import lower

    content: bytes = lower(graph, {}).SerializeToString()
    return content


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x08\x0a" * 9])
@pytest.mark.parametrize("place", [0, 1])
def test_bad_files_are_one_line(content: bytes | None, place: int, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    files = (path, base)[:: -1 if place else 1]
    result = call("diff", *files)
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {path}")
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--preset", "none"), "'none' is not one of"),
        (("--rtol", -1), "rtol must be at least 0"),
        (("--rtol", "much"), "'much' is not a valid float"),
    ],
)
def test_bad_options_are_one_line(options: tuple[object, ...], message: str, base: Path) -> None:
    result = call("diff", base, base, *options)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_numbers_that_are_not_finite_are_json(tmp_path: Path) -> None:
    for name, value in (("a", 0.0), ("b", 1.0)):
        layer = lg.DenseLayer(3, 2, rng=0)
        layer.set_parameter("bias", np.full(2, value, np.float32))
        lg.export_onnx(layer, tmp_path / f"{name}.onnx")
    facts = json.loads(call("diff", tmp_path / "a.onnx", tmp_path / "b.onnx", "--json").output)
    assert facts["weights"][0]["relative"] is None
    assert facts["weights"][0]["largest"] == 1.0


def test_a_weight_that_became_nan_says_so(tmp_path: Path) -> None:
    layer = lg.DenseLayer(3, 2, rng=0)
    layer.set_parameter("bias", np.ones(2, np.float32))
    lg.export_onnx(layer, tmp_path / "a.onnx")
    layer.set_parameter("bias", np.full(2, np.nan, np.float32))
    lg.export_onnx(layer, tmp_path / "b.onnx")
    result = call("diff", tmp_path / "a.onnx", tmp_path / "b.onnx")
    (row,) = [line.split() for line in result.output.splitlines() if line.split()[:1] == ["bias"]]
    assert row == ["bias", "float32[2]", "nan", "nan", "nan"]


def test_help_names_the_exit_codes() -> None:
    result = call("diff", "--help")
    assert result.exit_code == 0
    assert "Exit code 0" in result.output
