"""Writing models: whole or not at all, large weights beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lora_graph.ir import Graph, input, parameter  # noqa: A004
from lora_graph.onnx import Session, export_model, lower, read_model, save_model, store

x = input("x", np.float32, ("batch", 40))
w, v = parameter("w", np.float32, (40, 30)), parameter("v", np.float32, (30, 20))
b = parameter("b", np.float32, (20,))
GRAPH = Graph((x,), {"y": (x @ w) @ v + b})


def state(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(leaf.shape, np.float32) for name, leaf in GRAPH.parameters.items()}


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_saved_model_is_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = lower(GRAPH, state())
    save_model(model, path)
    assert onnx.load(path) == model
    assert names(tmp_path) == ["model.onnx"]
    export_model(GRAPH, state(), path)
    assert onnx.load(path) == model


@pytest.mark.parametrize("direct", [True, False])
def test_large_weights_go_to_a_file_beside_the_model(tmp_path: Path, direct: bool) -> None:
    path, model = tmp_path / "model.onnx", lower(GRAPH, state())
    before = model.SerializeToString()
    if direct:
        export_model(GRAPH, state(), path, external_limit=5000)
    else:
        save_model(model, path, external_limit=5000)
    assert model.SerializeToString() == before
    name, data = names(tmp_path)
    assert name == "model.onnx"
    assert data.startswith("model.onnx.")
    assert data.endswith(".data")
    assert path.stat().st_size < 4000
    tensors = {tensor.name: tensor for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    offsets = [int(entry.value) for n in ("w", "v") for entry in tensors[n].external_data if entry.key == "offset"]
    assert all(offset % 4096 == 0 for offset in offsets)
    assert not tensors["b"].external_data
    onnx.checker.check_model(path, full_check=True)
    read = read_model(path)
    assert read.graph == GRAPH
    for key, array in state().items():
        np.testing.assert_array_equal(read.state[key], array)
    given = np.ones((2, 40), np.float32)
    np.testing.assert_array_equal(Session(path).run(given), Session(model).run(given))


def test_the_data_file_of_the_version_before_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    (tmp_path / "model.onnx.notes.data").write_bytes(b"mine")
    export_model(GRAPH, state(0), path, external_limit=5000)
    first = names(tmp_path)
    export_model(GRAPH, state(1), path, external_limit=5000)
    second = names(tmp_path)
    assert len(first) == len(second) == 3
    assert first != second
    np.testing.assert_array_equal(read_model(path).state["w"], state(1)["w"])
    export_model(GRAPH, state(2), path)
    assert names(tmp_path) == ["model.onnx", "model.onnx.notes.data"]


@pytest.mark.parametrize("external_limit", [0, store.EXTERNAL_LIMIT])
def test_a_failure_leaves_the_version_before(
    tmp_path: Path, external_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    export_model(GRAPH, state(0), path, external_limit=external_limit)
    before = names(tmp_path)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_write", fail)
    with pytest.raises(OSError, match="No space left"):
        export_model(GRAPH, state(1), path, external_limit=external_limit)
    assert names(tmp_path) == before
    np.testing.assert_array_equal(read_model(path).state["w"], state(0)["w"])


def test_an_unwritable_path_is_named(tmp_path: Path) -> None:
    model = lower(GRAPH, state())
    for external_limit in (0, store.EXTERNAL_LIMIT):
        with pytest.raises(FileNotFoundError, match=r"cannot write '.*nowhere.*': No such file"):
            save_model(model, tmp_path / "nowhere" / "model.onnx", external_limit=external_limit)
        with pytest.raises(IsADirectoryError, match="is a directory"):
            save_model(model, tmp_path, external_limit=external_limit)
    assert not names(tmp_path)
    with pytest.raises(TypeError, match="got bytes"):
        save_model(b"", tmp_path / "model.onnx")  # type: ignore[arg-type]


def test_more_weights_than_a_message_holds_need_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lora_graph.onnx import model

    monkeypatch.setattr(model, "PROTO_LIMIT", 5000)
    with pytest.raises(ValueError, match=r"bytes of weights do not fit .* give a path"):
        lower(GRAPH, state())
    export_model(GRAPH, state(), tmp_path / "model.onnx", external_limit=5000)
    assert read_model(tmp_path / "model.onnx").graph == GRAPH
