"""Running models: what goes in, what comes out, and on which provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import lora_graph as lg
from lora_graph.errors import LoadError
from lora_graph.ir import Graph, input, parameter  # noqa: A004
from lora_graph.onnx import Session, lower, save_model, session
from tests.reference import close

x = input("x", np.float32, ("batch", 3))
k = input("k", np.int64, ("batch",))
w = parameter("w", np.float32, (3, 2))
WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)
MODEL = lower(Graph((x,), {"y": x @ w}), {"w": WEIGHT})
TWO = lower(Graph((x, k), {"sum": x.sum(1), "twice": k + k}), {})
GIVEN = np.asarray([[1.0, 2.0, 3.0]])

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def test_a_path_bytes_and_a_model_run_alike(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_model(MODEL, path)
    for source in (MODEL, MODEL.SerializeToString(), path, str(path)):
        with Session(source, threads=1) as running:
            result = running.run(GIVEN)
            assert result.dtype == np.float32
            close(result, GIVEN @ WEIGHT, 0)
            assert running.providers == ["CPUExecutionProvider"]


def test_inputs_and_outputs_have_types() -> None:
    running = Session(TWO)
    assert {name: str(type_) for name, type_ in running.inputs.items()} == {
        "x": "float32[batch, 3]",
        "k": "int64[batch]",
    }
    assert {name: str(type_) for name, type_ in running.outputs.items()} == {
        "sum": "float32[batch]",
        "twice": "int64[batch]",
    }
    result = running.run({"x": GIVEN, "k": [4]})
    assert {name: value.tolist() for name, value in result.items()} == {"sum": [6.0], "twice": [8]}


def test_inputs_that_the_model_fails_on_are_bad_values(capfd: pytest.CaptureFixture[str]) -> None:
    shape = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [3, 4])
    node = onnx.helper.make_node("Reshape", ["x", "shape"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, d) for n, d in (("x", ["n"]), ("y", [3, 4]))]
    graph = onnx.helper.make_graph([node], "three by four", ends[:1], ends[1:], [shape])
    opset = onnx.helper.make_opsetid("", 21)
    running = Session(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10))
    assert running.run(np.ones(12)).shape == (3, 4)
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot run the model on x: float32\[5\]: .*Reshape"):
        running.run(np.ones(5))
    assert capfd.readouterr().err == ""


WRONG: list[tuple[Any, type[Exception], str]] = [
    ({"z": GIVEN}, ValueError, "unknown input 'z'; the model's inputs are 'x', 'k'"),
    ({"x": GIVEN}, ValueError, "input 'k' is missing"),
    (GIVEN, ValueError, "2 inputs takes a dict of arrays by name: 'x', 'k'"),
    ({"x": GIVEN[0], "k": [1]}, ValueError, r"input 'x' must be float32\[batch, 3\], got shape \[3\]"),
    ({"x": GIVEN[:, :2], "k": [1]}, ValueError, r"input 'x' must be float32\[batch, 3\], got shape \[1, 2\]"),
    ({"x": GIVEN, "k": [1, 2]}, ValueError, r"input 'k' must be int64\[batch\], got shape \[2\]"),
    ({"x": GIVEN, "k": [1.5]}, TypeError, r"input 'k' must be int64\[batch\], got float64"),
    ({"x": [["a", "b", "c"]], "k": [1]}, TypeError, "input 'x' must be float32"),
    ({"x": GIVEN + 1j, "k": [1]}, TypeError, "input 'x' must be float32"),
]


@pytest.mark.parametrize(("given", "kind", "message"), WRONG, ids=[row[2] for row in WRONG])
def test_wrong_inputs_are_named(given: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Session(TWO).run(given)


def test_an_overridable_parameter_may_be_left_out_or_given() -> None:
    a = parameter("A", np.float32, (3, "rank"))
    model = lower(Graph((x,), {"y": x + (x @ a).sum(1, True)}), {"A": np.zeros((3, 0), np.float32)})
    running = Session(model)
    assert list(running.inputs) == ["x"]
    close(running.run(GIVEN), GIVEN, 0)
    close(running.run({"x": GIVEN, "A": np.ones((3, 2))}), GIVEN + 12, 0)
    with pytest.raises(ValueError, match="input 'A'"):
        running.run({"x": GIVEN, "A": np.ones((2, 2))})


def test_a_provider_that_is_not_there_is_an_error_that_lists_those_that_are() -> None:
    for wanted in ("tpu", ["cpu", "NoSuchExecutionProvider"]):
        with pytest.raises(ValueError, match=r"is not available; available: .*cpu"):
            Session(MODEL, wanted)
    for wrong in ([], 3, ["cpu", 1]):
        with pytest.raises(TypeError, match="a provider is a name"):
            Session(MODEL, wrong)  # type: ignore[arg-type]


def test_a_provider_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    available = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(session.onnxruntime, "get_available_providers", lambda: available)
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        session.onnxruntime,
        "InferenceSession",
        lambda model, options, **how: real(model, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(ValueError, match="CUDAExecutionProvider could not be started"):
        Session(MODEL, "cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not HAS_CUDA, reason="ONNX Runtime has no CUDA provider here")
def test_cuda_computes_the_same() -> None:
    running = Session(MODEL, "cuda")
    assert running.providers[0] == "CUDAExecutionProvider"
    close(running.run(GIVEN), GIVEN @ WEIGHT, 1e-5)


@pytest.mark.parametrize(("threads", "kind"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_threads_must_be_a_positive_int(threads: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="threads"):
        Session(MODEL, threads=threads)


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"nowhere\.onnx: no such file"):
        Session(tmp_path / "nowhere.onnx")
    with pytest.raises(LoadError, match="ONNX Runtime cannot load it"):
        Session(b"garbage")
    with pytest.raises(TypeError, match="not int"):
        Session(3)  # type: ignore[arg-type]


def test_a_model_too_large_for_a_message_goes_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "INLINE_LIMIT", 0)
    close(Session(MODEL).run(GIVEN), GIVEN @ WEIGHT, 0)


def test_a_closed_session_says_so() -> None:
    running = Session(MODEL)
    running.close()
    with pytest.raises(RuntimeError, match="closed"):
        running.run(GIVEN)


def test_it_shows_what_it_takes_and_gives() -> None:
    x = input("x", np.float32, ("batch", 2))
    shown = repr(Session(lower(Graph((x,), {"y": x + 1}), {})))
    assert shown == "<Session: x float32[batch, 2] -> y float32[batch, 2] on CPUExecutionProvider>"


@pytest.mark.parametrize("form", ["layer", "bytes", "path"])
@pytest.mark.parametrize(("recurrent", "shape"), [(lg.LSTMLayer, (0, 3, 2)), (lg.GRULayer, (2, 0, 2))])
def test_empty_inputs_that_would_end_the_process_are_an_error(
    recurrent: Any, shape: tuple[int, ...], form: str, tmp_path: Path
) -> None:
    layer, path = recurrent(2, 3, rng=0), tmp_path / "model.onnx"
    model = lg.export_onnx(layer, path)
    running = Session({"layer": layer, "bytes": model.SerializeToString(), "path": path}[form])
    with pytest.raises(ValueError, match=r"ONNX Runtime has no (LSTM|GRU) of empty inputs, but 'x' is float32\["):
        running.run(np.zeros(shape))
    x = np.ones((2, 3, 2), np.float32)
    close(running.run(x), layer.forward(x), 1e-6)
