"""float16: what is stored and multiplied in half precision, what is not, and how far it is from float32."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg
from lora_graph import ops
from lora_graph.layers.imported import ImportedLayer
from tests.onnx.forms.models import adapted, dense, numbers, randomized

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def error(found: Any, wanted: Any) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.fixture(scope="module")
def transformer() -> ImportedLayer:
    path = Path(__file__).parents[3] / "examples" / "transformer.py"
    spec = importlib.util.spec_from_file_location("transformer_example", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = example  # where onnxscript looks for the names that its functions use
    spec.loader.exec_module(example)
    return lg.load_onnx(example.untrained(np.random.default_rng(3)))


@pytest.mark.parametrize("form", ["parallel", "merged"])
def test_a_transformer_with_adapters(form: str, transformer: ImportedLayer, rng: np.random.Generator) -> None:
    model = lg.adapt(transformer, rank=4, rng=rng)
    model.set_parameters(rng.normal(0, 0.1, model.parameter_count))
    ids = rng.integers(0, 72, (16, 9))
    wanted = lg.Session(lg.export_onnx(model.eval(), form=form)).run(ids)
    written = lg.export_onnx(model, form=form, dtype="float16")
    onnx.checker.check_model(written, full_check=True)
    found = lg.Session(written).run(ids)
    assert found.dtype == np.float32
    assert 0 < error(found, wanted) < 1e-2
    by_name = {name.removeprefix("base."): kind for name, kind in kinds(written).items()}
    assert by_name["query_0"] == by_name["tokens"] == by_name["up_bias_0"] == HALF
    assert by_name["scale_1_0"] == FLOAT, "a normalization has its parameters in float32"
    types = {value.name: value.type.tensor_type.elem_type for value in written.graph.value_info}
    for node in written.graph.node:
        if node.op_type in ("Softmax", "LayerNormalization"):
            assert types[node.output[0]] == FLOAT
        elif node.op_type == "MatMul" and node.output[0] in types:
            assert types[node.output[0]] == HALF


def test_files_have_half_the_size(rng: np.random.Generator, tmp_path: Path) -> None:
    model = adapted(lg.DenseLayer(128, 96, rng=rng), "lora", rng)
    for name, dtype in (("whole", None), ("half", np.float16)):
        lg.export_onnx(model, tmp_path / f"{name}.onnx", dtype=dtype)
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.55 * sizes[0]


def test_adapters_are_swapped_in_half_precision(rng: np.random.Generator, tmp_path: Path) -> None:
    base = dense(rng)
    model = adapted(base, "lora", rng)
    session = lg.Session(lg.export_onnx(model, form="hot-swap", dtype="float16"))
    lg.export_adapter(model, tmp_path / "half.onnx_adapter", dtype="float16")
    lg.export_adapter(model, tmp_path / "whole.onnx_adapter")
    session.load_adapter(tmp_path / "half.onnx_adapter")
    with pytest.raises(lg.LoadError, match=r"is float32.*takes float16"):
        session.load_adapter(tmp_path / "whole.onnx_adapter")
    x = numbers(rng, 3)
    np.testing.assert_array_equal(session.run(x), lg.Session(lg.export_onnx(base, dtype="float16")).run(x))
    assert error(session.run(x, adapter="half"), model.forward(x)) < 1e-2


class Masked(lg.Layer):
    """Attention weights where a mask adds a number beyond float16 to what is not to be seen."""

    def __init__(self, hidden: float, rng: np.random.Generator) -> None:
        super().__init__(input_shape=(4, 8), output_shape=(4, 8))
        self.hidden = hidden
        self.add_parameter("weight", rng.normal(size=(8, 8)))
        mask = np.where(np.tri(4) > 0, 0.0, 1.0)
        mask[2] = 1
        self.add_parameter("mask", mask, trainable=False)

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        scores = x @ ctx.param("weight") @ x.swapaxes(-1, -2) + ctx.param("mask") * self.hidden
        return ops.softmax(scores, axis=-1) @ x


@pytest.mark.parametrize("hidden", [-1e9, float(np.finfo(np.float32).min), -1e4])
def test_masks_beyond_the_range_of_float16_stay_what_they_are(hidden: float, rng: np.random.Generator) -> None:
    """A row that sees nothing is uniform with a finite mask, and would be NaN with an infinite one."""
    layer = Masked(hidden, rng)
    x = rng.normal(size=(2, 4, 8)).astype(np.float32)
    found = lg.Session(lg.export_onnx(layer, dtype="float16")).run(x)
    assert np.isfinite(found).all()
    assert error(found, layer.forward(x)) < 2e-2


def test_large_sums_do_not_overflow(rng: np.random.Generator) -> None:
    layer = lg.Sequential(
        [lg.DenseLayer(16, 32, rng=rng), lg.LayerNormalizationLayer(32), lg.DenseLayer(32, 4, rng=rng)]
    )
    x = (rng.normal(size=(3, 16)) * 2000).astype(np.float32)
    found = lg.Session(lg.export_onnx(layer, dtype="float16")).run(x)
    assert error(found, layer.forward(x)) < 1e-2, "variances of ten million are beyond float16"


def test_recurrent_layers_stay_as_they_are(rng: np.random.Generator) -> None:
    layer = lg.Sequential([lg.LSTMLayer(6, 8, rng=rng), lg.DenseLayer(8, 4, rng=rng)])
    written = lg.export_onnx(layer, dtype="float16")
    assert [kind for name, kind in kinds(written).items() if name.startswith("1.")] == [HALF, HALF]
    assert all(kind != HALF for name, kind in kinds(written).items() if name.startswith("0."))
    x = rng.normal(size=(2, 5, 6)).astype(np.float32)
    assert error(lg.Session(written).run(x), layer.forward(x)) < 1e-2


def test_what_cannot_be_halved(rng: np.random.Generator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="models of float32"):
        lg.export_onnx(lg.DenseLayer(4, 3, dtype=np.float64, rng=rng), dtype="float16")
    with pytest.raises(ValueError, match="dtype must be one of float16, got 'int8'"):
        lg.export_onnx(lg.DenseLayer(4, 3, rng=rng), dtype="int8")
    with pytest.raises(TypeError, match="dtype must be one of float16, got 5"):
        lg.export_onnx(lg.DenseLayer(4, 3, rng=rng), dtype=5)  # type: ignore[call-overload]
    model = randomized(lg.adapt(lg.DenseLayer(12, 9, rng=rng), rank=2, rng=rng), rng)
    model.set_parameters(np.full(model.parameter_count, 1e5))
    with pytest.raises(ValueError, match=r"lora\.[AB] has numbers beyond ±65,504"):
        lg.export_adapter(model, tmp_path / "a.onnx_adapter", dtype="float16")
    assert list(tmp_path.iterdir()) == []
