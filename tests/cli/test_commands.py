"""The commands as a user calls them: what they print, what they write, how they fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import lora_graph as lg
from lora_graph.cli import main
from lora_graph.cli.arrays import write_arrays


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def adapter(rng: np.random.Generator) -> lg.Adapter:
    layer = lg.StandardLoRAAdapter(lg.DenseLayer(6, 4, "relu", rng=rng), 2, alpha=3, site="weight", rng=rng)
    layer.set_parameters(rng.normal(size=layer.parameter_count))
    return layer.eval()


@pytest.fixture
def parallel(adapter: lg.Adapter, tmp_path: Path) -> Path:
    path = tmp_path / "parallel.onnx"
    lg.export_onnx(adapter, path)
    return path


@pytest.fixture
def data(rng: np.random.Generator, tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, rng.normal(size=(5, 6)).astype(np.float32))
    return path


@pytest.mark.parametrize("command", [(), ("demo",), ("export",), ("run",)])
def test_help_explains_every_command(command: tuple[str, ...]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output
    assert len(result.output.splitlines()) > 5


def test_export_merges_a_parallel_file(adapter: lg.Adapter, parallel: Path, data: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.onnx"
    result = call("export", parallel, "-o", merged)
    assert result.exit_code == 0, result.output
    assert "lora rank 2" in result.output
    names = lg.load_onnx(merged).get_parameter_names()
    assert names == ["base.weight", "base.bias"]
    x = np.load(data)
    np.testing.assert_allclose(lg.Session(merged).run(x), adapter.forward(x), rtol=1e-5, atol=1e-5)


def test_export_says_as_json_what_it_wrote(parallel: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.onnx"
    facts = json.loads(call("export", parallel, "-o", merged, "--json").output)
    assert facts["form"] == "merged"
    assert facts["bytes"] == merged.stat().st_size
    assert facts["adapters"] == ["model: lora rank 2"]


def test_run_writes_and_summarises_the_outputs(adapter: lg.Adapter, parallel: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "y.npz"
    result = call("run", parallel, data, "-o", out)
    assert result.exit_code == 0, result.output
    assert "y: float32[5, 4]" in result.output
    with np.load(out) as file:
        np.testing.assert_allclose(file["y"], adapter.forward(np.load(data)), rtol=1e-5, atol=1e-5)
    facts = json.loads(call("run", parallel, data, "--json").output)
    assert facts["providers"] == ["CPUExecutionProvider"]
    assert facts["outputs"]["y"]["type"] == "float32[5, 4]"


def test_run_writes_a_single_output_as_npy(adapter: lg.Adapter, parallel: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "y.npy"
    assert call("run", parallel, data, "-o", out).exit_code == 0
    assert out.read_bytes().startswith(b"\x93NUMPY")
    np.testing.assert_allclose(np.load(out), adapter.forward(np.load(data)), rtol=1e-5, atol=1e-5)


def test_several_outputs_do_not_fit_an_npy_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds one array, the model gives y, z; use \.npz"):
        write_arrays(tmp_path / "y.npy", {"y": np.zeros(1), "z": np.zeros(1)})
    assert not list(tmp_path.iterdir())


def test_run_takes_an_npz_with_one_array(parallel: Path, data: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", anything=np.load(data))
    assert call("run", parallel, tmp_path / "x.npz").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "{tmp}/none.onnx", "{data}"), "none.onnx"),
        (("run", "{model}", "{tmp}/none.npy"), "none.npy: No such file or directory"),
        (("run", "{model}", "{model}"), "neither an .npy nor an .npz"),
        (("run", "{model}", "{pickled}"), "cannot be read as .npy or .npz"),
        (("run", "{model}", "{cut}"), "cannot be read as .npy or .npz"),
        (("run", "{model}", "{damaged}"), "cannot be read as .npy or .npz"),
        (("run", "{model}", "{tmp}"), "Is a directory"),
        (("nonsense",), "No such command 'nonsense'"),
        (("--nonsense",), "No such option"),
        (("run", "{model}"), "Missing argument 'DATA'. (see main run --help)"),
        (("export", "{model}"), "Missing option '-o'"),
        (("export", "{model}", "-o", "{tmp}"), "is a directory"),
        (("export", "{model}", "-o", "{tmp}/o.onnx", "--form", "half"), "'half'"),
        (("demo", "--seed", "x"), "--seed"),
        (("run", "{model}", "{wide}"), "'x'"),
        (("run", "{model}", "{data}", "--provider", "nonsense"), "available: "),
        (("run", "{model}", "{data}", "-o", "{tmp}/no/where.npz"), "cannot write"),
        (("export", "{data}", "-o", "{tmp}/o.onnx"), "not an ONNX model"),
        (("export", "{model}", "-o", "{tmp}/no/where.onnx"), "cannot write"),
        (("export", "{model}", "-o", "{tmp}/o.onnx", "--opset", "99"), "21..26"),
        (("export", "{outside}", "-o", "{tmp}/o.onnx"), "site='weight'"),
        (("export", "{merged}", "-o", "{tmp}/o.onnx", "--form", "parallel"), "cannot be taken out again"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*cannot be merged into it exactly")
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], words: str, parallel: Path, data: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.save(tmp_path / "wide.npy", np.zeros((5, 7), np.float32))
    np.savez_compressed(tmp_path / "damaged.npz", x=np.linspace(0, 1, 300).reshape(50, 6))
    content = (tmp_path / "damaged.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "damaged.npz").write_bytes(content[:100] + bytes(100) + content[200:])
    lg.export_onnx(lg.StandardLoRAAdapter(lg.DenseLayer(6, 4, "relu"), 2), tmp_path / "outside.onnx")
    lg.export_onnx(lg.load_onnx(parallel), tmp_path / "merged.onnx", form="merged")
    before = sorted(tmp_path.iterdir())
    places = {
        "tmp": tmp_path,
        "model": parallel,
        "data": data,
        **{name: tmp_path / f"{name}.npy" for name in ("pickled", "wide")},
        **{name: tmp_path / f"{name}.npz" for name in ("cut", "damaged")},
        **{name: tmp_path / f"{name}.onnx" for name in ("outside", "merged")},
    }
    result = call(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == 2, result.output
    (line,) = result.output.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert sorted(tmp_path.iterdir()) == before


def test_json_has_null_where_a_number_is_not_finite(parallel: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((2, 6), np.nan, np.float32))
    result = call("run", parallel, tmp_path / "nan.npy", "--json")
    assert result.exit_code == 0
    found = json.loads(result.output, parse_constant=pytest.fail)["outputs"]["y"]
    assert found == {"type": "float32[2, 4]", "min": None, "mean": None, "max": None}
    assert "min nan" in call("run", parallel, tmp_path / "nan.npy").output


def test_debug_shows_the_traceback(tmp_path: Path, data: Path) -> None:
    result = call("--debug", "run", tmp_path / "none.onnx", data)
    assert result.exit_code == 2
    assert "Traceback" in result.output


def test_the_installed_program_runs() -> None:
    command = [sys.executable, "-m", "lora_graph", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"lora-graph, version {lg.__version__}"
