"""Models whose weights are in files of their own: mapped, in parts, and larger than what a model can hold itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lora_graph as lg
from lora_graph.errors import LoadError

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def located(name: str, dims: tuple[int, ...], **entries: object) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def looked_up(folder: Path, table: TensorProto, width: int, *more: TensorProto) -> Path:
    """y = table[ids] w, with w the second tensor or ones."""
    w = more[0] if more else numpy_helper.from_array(np.ones((width, 3), np.float32), "w")
    nodes = [helper.make_node("Gather", ["table", "ids"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "rows", [ids], [y], [table, w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def arrays() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((5, 4)).astype(np.float32), rng.standard_normal((4, 3)).astype(np.float32)


@pytest.mark.parametrize("gap", [0, 1, 4096])
def test_tensors_may_share_a_file_at_any_offset(gap: int, tmp_path: Path) -> None:
    table, w = arrays()
    (tmp_path / "data.bin").write_bytes(b"\xff" * gap + table.tobytes() + b"\xff" * gap + w.tobytes() + b"\xff")
    second = located("w", (4, 3), location="data.bin", offset=2 * gap + table.nbytes, length=w.nbytes)
    path = looked_up(tmp_path, located("table", (5, 4), location="data.bin", offset=gap), 4, second)
    model = lg.load_onnx(path)
    np.testing.assert_array_equal(model.state["table"], table)
    np.testing.assert_array_equal(model.state["w"], w)
    np.testing.assert_allclose(model.forward(np.asarray([4, 0])), table[[4, 0]] @ w, rtol=1e-6)


def test_tensors_may_be_in_several_files_and_folders(tmp_path: Path) -> None:
    table, w = arrays()
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "table").write_bytes(table.tobytes())
    (tmp_path / "w.bin").write_bytes(w.tobytes())
    first, second = located("table", (5, 4), location="a/b/table"), located("w", (4, 3), location="./w.bin", offset=0)
    model = lg.load_onnx(looked_up(tmp_path, first, 4, second))
    np.testing.assert_allclose(model.forward(np.asarray([1])), table[[1]] @ w, rtol=1e-6)
    model.set_parameter("w", w * 2)
    assert (tmp_path / "w.bin").read_bytes() == w.tobytes()


@pytest.mark.parametrize("offset", ["1e3", "0x10", "+4", " 4", "4.0", "9" * 18, "9" * 19, "٣", str(2**64)])
def test_absurd_offsets(offset: str, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"\0" * 80)
    with pytest.raises(LoadError, match=r"tensor 'table': (external data has the offset|bytes .* are beyond the 80)"):
        lg.load_onnx(looked_up(tmp_path, located("table", (5, 4), location="data.bin", offset=offset), 4))


def test_a_tensor_without_elements_needs_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"")
    model = lg.load_onnx(looked_up(tmp_path, located("table", (0, 4), location="data.bin"), 4))
    assert model.state["table"].shape == (0, 4)


SCRIPT = """
import resource, sys, threading, time
import numpy as np
import lora_graph as lg

def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

peak, stop = [0], threading.Event()
def watch():
    while not stop.wait(0.01):
        peak[0] = max(peak[0], kib("RssAnon"))

model = lg.load_onnx(sys.argv[1])
loaded = kib("VmHWM")
adapted = lg.adapt(model, targets="w", rank=1, rng=0)
rows = np.asarray([0, 7, model.state["table"].shape[0] - 1])
before = adapted.forward(rows)
watcher = threading.Thread(target=watch)
watcher.start()
lg.export_onnx(adapted, sys.argv[2])
stop.set()
watcher.join()
again = lg.load_onnx(sys.argv[2])
print(loaded, peak[0], np.array_equal(again.forward(rows), before), *before[:, 0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_model_of_more_than_two_gigabytes_is_mapped_and_written_again(tmp_path: Path) -> None:
    rows, width = 270_000, 2000
    size = rows * width * 4
    assert size > 2**31
    with open(tmp_path / "data.bin", "wb") as file:  # with holes, which take no space
        file.truncate(size)
        for row, value in ((7, 1.0), (rows - 1, 2.0)):
            file.seek(row * width * 4)
            file.write(np.full(width, value, np.float32).tobytes())
    path = looked_up(tmp_path, located("table", (rows, width), location="data.bin", length=size), width)
    command = [sys.executable, "-c", SCRIPT, str(path), str(tmp_path / "out.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded, peak, same, *found = done.stdout.split()
    assert int(loaded) < 2**19, "KiB in memory after reading: half a gigabyte"
    assert int(peak) < 2**19, "KiB of its own while writing; mapped pages belong to the file"
    assert same == "True"
    np.testing.assert_allclose([float(value) for value in found], [0, width, 2 * width], rtol=1e-6)
    (data,) = tmp_path.glob("out.onnx.*.data")
    assert data.stat().st_size >= size
    model = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"} == {
        data.name
    }
