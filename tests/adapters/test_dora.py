"""DoRA beyond what the generated tests ask: its norms in the gradient, its start, several adapters, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from tests.layers.cases import shifted
from tests.reference import close


def dora(base: lg.Layer, rng: np.random.Generator, alpha: float = 3.0) -> lg.DoRAAdapter:
    adapter = lg.DoRAAdapter(base, 2, alpha, rng=rng)
    for name in adapter.get_parameter_names():
        if not name.startswith("base."):
            adapter.set_parameter(name, rng.normal(0, 0.5, adapter.get_parameter_shape(name)))
    return adapter


def test_magnitudes_start_as_the_norms_of_the_weight(rng: np.random.Generator) -> None:
    w = rng.normal(size=(6, 5))
    dense, rows = lg.DenseLayer(6, 5, dtype="float64"), lg.FullyConnectedLayer(6, 5, dtype="float64")
    dense.set_parameter("weight", w)
    rows.set_parameter("weight", w.T)
    for base in (dense, rows):
        for norm, axis in (("output", 0), ("input", 1)):
            found = lg.DoRAAdapter(base, 2, norm=norm).get_parameter("lora.magnitude")
            close(found, np.sqrt((w**2).sum(axis)), 1e-14)
    kernel = lg.ConvolutionalLayer(4, 6, (2, 3), groups=2, dtype="float64", rng=0)
    k = kernel.get_parameter("weight")
    for norm, axes in (("output", (1, 2, 3)), ("input", (0, 2, 3))):
        found = lg.DoRAAdapter(kernel, 1, norm=norm).get_parameter("lora.magnitude")
        close(found, np.sqrt((k**2).sum(axes)), 1e-14)
    table = lg.EmbeddingLayer(9, 4, dtype="float64", rng=0)
    found = lg.DoRAAdapter(table, 2).get_parameter("lora.magnitude")
    close(found, np.sqrt((table.get_parameter("weight") ** 2).sum(0)), 1e-14)


def test_an_output_that_is_always_zero_stays_so_and_divides_by_nothing(rng: np.random.Generator) -> None:
    base = lg.DenseLayer(6, 5, rng=0)
    w = base.get_parameter("weight")
    w[:, 2] = 0
    base.set_parameter("weight", w)
    adapter = lg.DoRAAdapter(base, 2, rng=1)
    x = rng.normal(size=(3, 6)).astype(np.float32)
    np.testing.assert_array_equal(adapter.forward(x), base.forward(x))
    adapter.backward(np.ones((3, 5)))
    assert np.isfinite(adapter.get_parameter_gradients()).all()
    assert np.isfinite(lg.Session(lg.export_onnx(adapter)).run(x)).all()


def test_the_norm_has_no_gradient(rng: np.random.Generator) -> None:
    """∂/∂W' of g ⊙ (W + s A B) is that of a product with constants g, not that of a normalized column."""
    adapter = dora(lg.DenseLayer(6, 5, dtype="float64", rng=0), rng)
    x, cotangent = rng.normal(size=(3, 6)), rng.normal(size=(3, 5))
    adapter.forward(x)
    adapter.backward(cotangent)
    p, s = adapter.state, 1.5
    total = p["base.weight"] + s * p["lora.A"] @ p["lora.B"]
    norm = np.sqrt((total**2).sum(0))
    of_b = s * (x @ p["lora.A"]).T @ (cotangent * p["lora.magnitude"] / norm)
    of_magnitude = (cotangent * (x @ total)).sum(0) / norm
    gradient = adapter.get_parameter_gradients()
    close(gradient[12:22].reshape(2, 5), of_b, 1e-12)
    close(gradient[22:], of_magnitude, 1e-12)


def test_a_file_that_is_read_back_trains_alike(rng: np.random.Generator, tmp_path: Path) -> None:
    """Norms count as constants there, too; s = 1, which is folded into B."""
    adapter = dora(lg.DenseLayer(6, 5, "tanh", dtype="float64", rng=0), rng, alpha=2.0)
    lg.export_onnx(adapter, tmp_path / "dora.onnx")
    read = lg.load_onnx(tmp_path / "dora.onnx")
    x, cotangent = rng.normal(size=(3, 6)), rng.normal(size=(3, 5))
    found = []
    for layer in (adapter, read):
        layer.forward(x)
        layer.backward(cotangent)
        parts = {name: slot.array.size for name, (slot, trains) in layer.slots().items() if trains}
        pieces = np.split(layer.get_parameter_gradients(), np.cumsum([*parts.values()])[:-1])
        found.append(dict(zip(parts, pieces, strict=True)))
    assert found[0].keys() == found[1].keys() == {"lora.A", "lora.B", "lora.magnitude"}
    for name, gradient in found[0].items():
        close(found[1][name], gradient, 1e-12)


@pytest.mark.parametrize("make", [lg.DenseLayer, lg.EmbeddingLayer])
def test_several_on_one_weight_add_what_each_changes(make: Any, rng: np.random.Generator) -> None:
    base = make(6, 6, dtype="float64", rng=0)
    model = lg.AdaptedModel(base)
    for name, family in (("a", "dora"), ("b", "lora"), ("c", "dora")):
        model.add_adapter(name, family, targets="weight", rank=2)
    shifted(model)
    x = rng.integers(0, 6, 4) if isinstance(base, lg.EmbeddingLayer) else rng.normal(size=(4, 6))
    changes = []
    for name in "abc":
        model.set_active(name)
        changes.append(model.forward(x))
    model.set_active()
    plain = model.forward(x)
    model.set_active("a", "b", "c")
    close(model.forward(x), sum(changes) - 2 * plain, 1e-12)
    close(model.merge_to_base().forward(x), model.forward(x), 1e-12)


def test_a_convolution_with_several_merges_its_bias_too(rng: np.random.Generator) -> None:
    model = lg.AdaptedModel(shifted(lg.ConvolutionalLayer(2, 4, 3, groups=2, dtype="float64", rng=0)))
    for name, family in (("a", "dora"), ("b", "lora"), ("c", "dora")):
        model.add_adapter(name, family, targets="weight", rank=1)
    shifted(model)
    x = rng.normal(size=(2, 2, 6, 5))
    close(model.merge_to_base().forward(x), model.forward(x), 1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"site": "output"}, ValueError, "site must be 'weight' for DoRA"),
        ({"norm": "both"}, ValueError, "norm must be one of output, input"),
        ({"rank_scaling": "root"}, ValueError, "rank_scaling must be one of rank, sqrt_rank"),
        ({"tucker": "weight"}, TypeError, "tucker must be a bool or names of weights"),
        ({"wide": 1}, TypeError, "wide must be a bool"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        lg.DoRAAdapter(lg.DenseLayer(6, 5), 2, **arguments)
