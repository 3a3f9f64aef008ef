"""``export --form``: models and adapter files as a shell script would write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import lora_graph as lg
from lora_graph.adapters.runs import create, load, save
from lora_graph.cli import main
from lora_graph.cli.commands import FORMS as NAMED
from lora_graph.layers.weights import read_safetensors
from lora_graph.onnx.forms import FORMS
from tests.onnx.forms.models import adapted, dense, numbers, randomized


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def run(rng: np.random.Generator, tmp_path: Path) -> Path:
    base = tmp_path / "base.onnx"
    lg.export_onnx(dense(rng), base)
    create(tmp_path / "run", base, adapted(lg.load_onnx(base), "lora", rng), [])
    return tmp_path / "run"


def test_the_command_names_every_form() -> None:
    assert set(NAMED) == set(FORMS)


def test_a_hot_swap_model_and_its_adapter(run: Path, rng: np.random.Generator, tmp_path: Path) -> None:
    result = call("export", run, "--form", "hot-swap", "-o", tmp_path / "model.onnx", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    file = tmp_path / "model.onnx_adapter"
    assert facts["adapter_files"] == {str(file): file.stat().st_size}
    only = call("export", run, "--form", "hot-swap", "--adapter-only", "-o", tmp_path / "again.onnx_adapter")
    assert only.exit_code == 0, only.output
    assert only.output.startswith(f"{tmp_path / 'again.onnx_adapter'}: ")
    assert (tmp_path / "again.onnx_adapter").read_bytes() == file.read_bytes()
    session = lg.Session(tmp_path / "model.onnx")
    assert session.load_adapter(file) == "model"
    x = numbers(rng, 4)
    np.testing.assert_array_equal(session.run(x), lg.Session(tmp_path / "base.onnx").run(x))
    np.testing.assert_allclose(session.run(x, adapter="model"), load(run).eval().forward(x), rtol=1e-5, atol=1e-5)


def test_a_web_model_and_its_matrices(run: Path, rng: np.random.Generator, tmp_path: Path) -> None:
    result = call("export", run, "--form", "web", "-o", tmp_path / "model.onnx")
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) == 2
    x = numbers(rng, 4)
    found = lg.Session(tmp_path / "model.onnx").run({"x": x, **read_safetensors(tmp_path / "model.safetensors")})
    np.testing.assert_allclose(found, load(run).eval().forward(x), rtol=1e-5, atol=1e-5)


def test_a_run_with_several_adapters(run: Path, rng: np.random.Generator, tmp_path: Path) -> None:
    model = load(run)
    model.add_adapter("second", rank=3, rng=rng)
    randomized(model, rng)
    save(run, model)
    result = call("export", run, "--form", "hot-swap", "-o", tmp_path / "model.onnx", "--dtype", "float16")
    assert result.exit_code == 0, result.output
    session = lg.Session(tmp_path / "model.onnx")
    x = numbers(rng, 4)
    for name in ("default", "second"):
        assert session.load_adapter(tmp_path / f"model.{name}.onnx_adapter", name) == name
        model.set_active(name)
        y = model.forward(x)
        np.testing.assert_allclose(session.run(x, adapter=name), y, atol=1e-2 * np.abs(y).max())
    stacked = call("export", run, "--form", "multi-adapter", "-o", tmp_path / "many.onnx", "--json")
    assert list(json.loads(stacked.output)["adapter_files"]) == [str(tmp_path / "many.onnx_adapter")]
    np.testing.assert_allclose(
        lg.Session(tmp_path / "many.onnx").run({"x": x, "adapter": [1] * 4}), y, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("form", "suffix"), [("hot-swap", ".onnx_adapter"), ("web", ".safetensors")])
def test_a_model_is_run_with_an_adapter_file(
    form: str, suffix: str, run: Path, rng: np.random.Generator, tmp_path: Path
) -> None:
    model, x, y = tmp_path / "model.onnx", numbers(rng, 4), tmp_path / "y.npy"
    np.save(tmp_path / "x.npy", x)
    assert call("export", run, "--form", form, "-o", model).exit_code == 0
    result = call("run", model, tmp_path / "x.npy", "--adapter", model.with_suffix(suffix), "-o", y)
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(np.load(y), load(run).eval().forward(x), rtol=1e-5, atol=1e-5)
    wrong = call("run", model, tmp_path / "x.npy", "--adapter", tmp_path / f"none{suffix}")
    assert (wrong.exit_code, len(wrong.output.splitlines())) == (2, 1)
    assert f"none{suffix}" in wrong.output


def test_inputs_with_a_default_may_be_in_the_file(run: Path, rng: np.random.Generator, tmp_path: Path) -> None:
    model, x, y = tmp_path / "mix.onnx", numbers(rng, 4), tmp_path / "y.npy"
    assert call("export", run, "--form", "weighted", "-o", model).exit_code == 0
    assert list(lg.Session(model).optional_inputs) == ["default.weight"]
    np.savez(tmp_path / "x.npz", **{"x": x, "default.weight": np.float32(0), "unused": x})
    assert call("run", model, tmp_path / "x.npz", "-o", y).exit_code == 0
    np.testing.assert_allclose(np.load(y), lg.Session(tmp_path / "base.onnx").run(x), rtol=1e-5, atol=1e-5)


def test_the_layout_of_a_stack_is_chosen(run: Path, tmp_path: Path) -> None:
    for layout, axes in (("columns", 2), ("rows", 3)):
        result = call("export", run, "--form", "multi-adapter", "--layout", layout, "-o", tmp_path / "many.onnx")
        assert result.exit_code == 0, result.output
        kinds = lg.Session(tmp_path / "many.onnx").optional_inputs
        assert {kind.rank for name, kind in kinds.items() if name.endswith(".A")} == {axes}


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("run", ("--form", "parallel", "--adapter-only"), "parallel takes no adapter files"),
        ("base.onnx", ("--form", "hot-swap"), "no adapter that takes part"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    model: str, options: tuple[str, ...], message: str, run: Path, tmp_path: Path
) -> None:
    result = call("export", tmp_path / model, *options, "-o", tmp_path / "new.onnx")
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1
    assert not list(tmp_path.glob("new*"))
