"""What is particular to pooling and flattening layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg
from tests.layers.cases import windows
from tests.reference import close

LEADS: list[tuple[int, ...]] = [(), (2,), (2, 3), (0,)]


def maximum(kernel: Any, stride: Any, padding: Any, dilation: Any) -> Callable[[Any], Any]:
    axes = tuple(range(-len(kernel), 0))
    return lambda x: windows(x, kernel, stride, padding, dilation, -np.inf).max(axes)


def mean(kernel: Any, stride: Any, padding: Any, include: bool) -> Callable[[Any], Any]:
    axes, ones = tuple(range(-len(kernel), 0)), (1,) * len(kernel)

    def formula(x: Any) -> Any:
        counted = windows(np.ones(x.shape), kernel, stride, padding, ones, float(include)).sum(axes)
        return windows(x, kernel, stride, padding, ones, 0.0).sum(axes) / counted

    return formula


CASES: dict[str, tuple[Callable[[str], lg.Layer], Callable[[Any], Any], int, list[str]]] = {
    "max": (lambda t: lg.MaxPoolLayer(2, dtype=t), maximum((2, 2), (2, 2), (0, 0), (1, 1)), 2, ["MaxPool"]),
    "max with everything": (
        lambda t: lg.MaxPoolLayer((3, 2), (1, 2), 1, (1, 2), dtype=t),
        maximum((3, 2), (1, 2), (1, 1), (1, 2)),
        2,
        ["MaxPool"],
    ),
    "max of a signal": (
        lambda t: lg.MaxPoolLayer((3,), 2, 1, dtype=t),
        maximum((3,), (2,), (1,), (1,)),
        1,
        ["MaxPool"],
    ),
    "mean": (lambda t: lg.AveragePoolLayer(3, 2, 1, dtype=t), mean((3, 3), (2, 2), (1, 1), False), 2, ["AveragePool"]),
    "mean with padding": (
        lambda t: lg.AveragePoolLayer((2, 3), 1, (0, 1), count_include_pad=True, dtype=t),
        mean((2, 3), (1, 1), (0, 1), True),
        2,
        ["AveragePool"],
    ),
    "mean of a volume": (
        lambda t: lg.AveragePoolLayer((2, 1, 3), dtype=t),
        mean((2, 1, 3), (2, 1, 3), (0, 0, 0), False),
        3,
        ["AveragePool"],
    ),
    "global": (
        lambda t: lg.GlobalAveragePoolLayer(dtype=t),
        lambda x: x.mean((-2, -1)),
        2,
        ["GlobalAveragePool", "Reshape"],
    ),
    "global of a signal": (
        lambda t: lg.GlobalAveragePoolLayer(1, dtype=t),
        lambda x: x.mean(-1),
        1,
        ["GlobalAveragePool", "Reshape"],
    ),
    "flatten": (lambda t: lg.FlattenLayer(dtype=t), lambda x: x.reshape((*x.shape[:-3], 90)), 2, ["Flatten"]),
    "flatten a signal": (
        lambda t: lg.FlattenLayer(1, dtype=t),
        lambda x: x.reshape((*x.shape[:-2], 15)),
        1,
        ["Flatten"],
    ),
}


@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_forward(name: str, dtype: str, lead: tuple[int, ...], rng: np.random.Generator) -> None:
    make, formula, axes, _ = CASES[name]
    x = rng.permutation(int(np.prod(lead)) * 3 * 210).reshape((*lead, 3, 5, 6, 7))[..., 0] / 16
    x = (x if axes == 2 else x[..., 0] if axes == 1 else np.stack([x, -x], -3)).astype(dtype)
    layer = make(dtype)
    y = layer(x)
    assert y.dtype == dtype
    close(y, formula(x.astype(np.float64)), 1e-5 if dtype == "float32" else 1e-12)
    # what is linear in x has the same value along x as its gradient there
    assert float((layer.backward(y) * x).sum()) == pytest.approx(float((y * y).sum()), rel=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_computes_the_exported_layer(name: str, dtype: str, rng: np.random.Generator) -> None:
    make, formula, axes, spelled = CASES[name]
    model = lg.export_onnx(make(dtype))
    onnx.checker.check_model(model, full_check=True)
    if dtype == "float32":
        assert [node.op_type for node in model.graph.node if not node.name.startswith("size.")] == spelled
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in dims] == [
        "batch",
        "channels",
        *{1: ["length"], 2: ["height", "width"], 3: ["depth", "height", "width"]}[axes],
    ]
    session = lg.Session(model)
    for batch in (2, 0):
        x = rng.standard_normal((batch, 3, 5, 6, 7)).astype(dtype)
        x = x if axes == 3 else x[..., 0] if axes == 2 else x[..., 0, 0]
        close(session.run(x), formula(x.astype(np.float64)), 1e-5 if dtype == "float32" else 1e-12)


def test_ceil_mode_keeps_what_the_last_window_begins_in() -> None:
    x = np.arange(5.0).reshape(1, 1, 5)
    np.testing.assert_array_equal(lg.MaxPoolLayer((2,), ceil_mode=True)(x), [[[1, 3, 4]]])
    np.testing.assert_array_equal(lg.AveragePoolLayer((2,), ceil_mode=True)(x), [[[0.5, 2.5, 4]]])


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: lg.MaxPoolLayer(0), ValueError, "kernel_size must be an int of at least 1, or 2 of them"),
    (lambda: lg.MaxPoolLayer("2"), TypeError, "kernel_size must be an int"),
    (lambda: lg.MaxPoolLayer(2, 0), ValueError, "stride must be an int of at least 1, or 2 of them"),
    (
        lambda: lg.MaxPoolLayer(2, padding=2),
        ValueError,
        "padding must be smaller than the window, which reaches over 2, got 2",
    ),
    (lambda: lg.MaxPoolLayer(2, dilation=(1, 2, 3)), ValueError, "dilation must be an int of at least 1, or 2 of them"),
    (lambda: lg.MaxPoolLayer(2, ceil_mode=1), TypeError, "ceil_mode must be a bool"),
    (lambda: lg.AveragePoolLayer(2, count_include_pad=0), TypeError, "count_include_pad must be a bool"),
    (lambda: lg.AveragePoolLayer(2, padding=-1), ValueError, "padding must be an int of at least 0, or 2 of them"),
    (lambda: lg.GlobalAveragePoolLayer(0), ValueError, "spatial_axes must be in 1..3, got 0"),
    (lambda: lg.FlattenLayer(2.0), TypeError, "spatial_axes must be an int"),  # type: ignore[arg-type]
    (lambda: lg.MaxPoolLayer(3)(np.zeros((1, 1, 2, 4))), ValueError, r"kernel_shape \(3, 3\).*spatial axis 0 has 2"),
    (lambda: lg.MaxPoolLayer(2)(np.zeros((4, 4))), ValueError, r"x must end in \[channels, height, width\]"),
]


@pytest.mark.parametrize(("build", "error", "message"), WRONG)
def test_errors_name_the_argument(build: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()
