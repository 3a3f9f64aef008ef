"""``export --form``: models and adapter files as a shell script would write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import lora_graph as lg
from lora_graph.cli import main
from lora_graph.cli.commands import FORMS as NAMED
from lora_graph.cli.runs import create, load, save
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
