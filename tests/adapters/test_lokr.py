"""LoKr: the Kronecker product by the vec trick, and how widths are factored."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.adapters.lokr import kronecker_factors
from lora_graph.autodiff import gradients
from lora_graph.rewrite import optimize_graph
from tests.layers.cases import Gain, shifted
from tests.reference import close


def lokr(inner: int, outer: int, rank: int, **more: Any) -> lg.LoKrAdapter:
    adapter = lg.LoKrAdapter(lg.DenseLayer(inner, outer, dtype="float64", rng=0), rank, rng=0, **more)
    adapter.set_parameter("lokr.B", np.random.default_rng(1).normal(size=adapter.matrix_b_dimensions))
    return adapter


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 2, 2)], ids=str)
def test_the_vec_trick_is_the_kronecker_product(lead: tuple[int, ...], rng: np.random.Generator) -> None:
    adapter, x = lokr(12, 10, 4, alpha=6), rng.normal(size=(*lead, 12))
    assert adapter.matrix_a_dimensions == (5, 4)
    assert adapter.matrix_b_dimensions == (2, 3)
    change = 1.5 * np.kron(adapter.get_matrix_a(), adapter.get_matrix_b()).T
    close(adapter.forward(x), adapter.base_layer.forward(x) + x @ change, 1e-12)
    merged = adapter.merge_to_original_layer()
    close(merged.get_parameter("weight"), adapter.get_parameter("base.weight") + change, 1e-12)


@pytest.mark.parametrize(
    ("inner", "outer", "rank", "factors"),
    [
        (1000, 1000, 8, ((125, 8), (8, 125))),
        (12, 10, 4, ((5, 4), (2, 3))),
        (768, 3072, 8, ((384, 8), (8, 96))),
        (15, 14, 100, ((1, 15), (14, 1))),
        (9, 25, 4, ((25, 3), (1, 3))),
        (7, 11, 6, ((11, 1), (1, 7))),
        (7, 11, 1, ((11, 1), (1, 7))),
        (7, 11, 7, ((11, 7), (1, 1))),
    ],
)
def test_factors(inner: int, outer: int, rank: int, factors: tuple[tuple[int, int], tuple[int, int]]) -> None:
    assert kronecker_factors(inner, outer, rank) == factors
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapter = lg.LoKrAdapter(lg.DenseLayer(inner, outer, rng=0), rank)
    assert (adapter.matrix_a_dimensions, adapter.matrix_b_dimensions) == factors
    (_, n), (p, _) = factors
    assert len(caught) == (1 in (n, p))
    for warning in caught:
        assert f"rank {rank}" in str(warning.message)
        assert warning.filename == __file__


def test_small_at_any_width_and_never_multiplied_out() -> None:
    adapter = lokr(1000, 1000, 8)
    assert adapter.parameter_count == 2000
    assert adapter.lora_layer is None
    a = adapter.get_matrix_a()
    assert abs(a.std() - 1 / np.sqrt(8)) < 0.02
    graph = adapter.to_graph()
    weights = [leaf for name, leaf in graph.parameters.items() if name.startswith("lokr")]
    backward = lg.Graph(graph.inputs, dict(enumerate(gradients(graph.outputs["y"].sum(), weights))))  # type: ignore[arg-type]
    for one in (graph, backward, *(optimize_graph(graph, preset).graph for preset in ("train", "inference", "export"))):
        sizes = [_size(v) for v in one.values if v.operands]
        assert max(sizes) <= 64 * 1000


def _size(value: lg.Value) -> int:
    """Elements at a batch of 64; a transposed weight is a view and does not count."""
    size = value.type.bind({"batch": 64}).size
    assert isinstance(size, int)
    return 0 if value.op.view else size


def test_given_factors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter = lg.LoKrAdapter(lg.DenseLayer(12, 10, rng=0), 4, factors=((10, 3), (1, 4)))
    assert (adapter.matrix_a_dimensions, adapter.matrix_b_dimensions) == ((10, 3), (1, 4))
    assert adapter.scaling == 1
    assert adapter.get_matrix_a().shape == (10, 3)
    assert adapter.get_matrix_b().shape == (1, 4)


def test_rank_has_no_upper_bound() -> None:
    adapter = lokr(12, 10, 1000, alpha=500)
    assert adapter.scaling == 0.5
    assert adapter.matrix_b_dimensions == (10, 1)


def make(base: Any = None, rank: Any = 2, **more: Any) -> Callable[[], Any]:
    return lambda: lg.LoKrAdapter(lg.DenseLayer(12, 10, rng=0) if base is None else base, rank, **more)


class Image(lg.Layer):
    def __init__(self) -> None:
        super().__init__(input_shape=(3, 4), output_shape=(3, 4))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return x


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (make(rank=0), ValueError, "rank must be at least 1, got 0"),
    (make(rank=2.0), TypeError, "rank must be an int"),
    (make(base=3), TypeError, "base_layer must be a Layer, got 3"),
    (make(base=Image()), ValueError, "LoKr needs a layer of one feature axis in and out"),
    (make(alpha=0), ValueError, "alpha must not be 0"),
    (make(factors=((5, 3), (2, 3))), ValueError, r"m·p = 10 and n·q = 12, got \(\(5, 3\), \(2, 3\)\)"),
    (make(factors=((5, 4), (3, 3))), ValueError, "m·p = 10 and n·q = 12"),
    (make(factors=(5, 4, 2, 3)), TypeError, r"factors must be \(\(m, n\), \(p, q\)\)"),
    (make(factors=((5, 4.0), (2, 3))), TypeError, "factors must be an int, got 4.0"),
    (make(factors=((5, 4), (0, 3))), ValueError, "factors must be at least 1, got 0"),
    (make(base=Gain(12), site="weight"), ValueError, "site='weight': Gain multiplies by no weight"),
]


@pytest.mark.parametrize(("build", "error", "words"), BAD, ids=[words for _, _, words in BAD])
def test_arguments_that_cannot_be(build: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build()


def test_diagnostics() -> None:
    found = lokr(12, 10, 4).get_diagnostics()
    assert (found["matrix_a"], found["matrix_b"], found["family"]) == ("5 x 4", "2 x 3", "lokr")


@pytest.mark.parametrize(
    "base",
    [
        lambda: lg.ConvolutionalLayer(6, 4, 3, groups=2, rng=0),
        lambda: lg.ConvolutionalLayer(6, 4, (3,), rng=0),
        lambda: lg.LSTMLayer(4, 6, rng=0),
        lambda: lg.GRULayer(4, 6, False, rng=0),
    ],
)
def test_a_file_holds_the_factors_of_kernels_and_recurrent_weights_and_goes_on_from_them(base: Any) -> None:
    adapter = shifted(lg.LoKrAdapter(base(), 3, 1.5, site="weight", rng=1))
    read = lg.load_onnx(lg.export_onnx(adapter))
    for name in adapter.get_parameter_names():
        assert read.get_parameter_shape(name) == adapter.get_parameter_shape(name)
    assert read.parameter_count == adapter.parameter_count

    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, *(size if isinstance(size, int) else 5 for size in read.input_shape)))
    target = rng.normal(size=read.forward(x).shape)
    lg.fit(read, (x, target), epochs=2, batch_size=3)
    merged = lg.Session(lg.export_onnx(read, form="merged"))
    np.testing.assert_allclose(merged.run(x), read.eval().forward(x), rtol=1e-5, atol=1e-6)
