"""``lg.optimize`` and ``lg.compile``: any number of leading axes, given in any form, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lora_graph as lg

LAYER = lg.DenseLayer(3, 2, "tanh", dtype="float64", rng=0)
WEIGHT, BIAS = LAYER.get_parameter("weight"), LAYER.get_parameter("bias")


@pytest.mark.parametrize("shape", [(3,), (4, 3), (0, 3), (2, 4, 3), (2, 1, 4, 3)])
def test_arrays_and_nested_lists_of_any_rank(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    compiled = lg.compile(LAYER)
    expected = np.tanh(x @ WEIGHT + BIAS)
    np.testing.assert_allclose(compiled(x), expected, rtol=1e-12)
    if x.size:
        np.testing.assert_allclose(compiled(x.tolist()), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (None, TypeError, "input 'x'"),
        ("text", TypeError, "input 'x'"),
        (3.0, ValueError, "input 'x'"),
        (np.ones((2, 4)), ValueError, "input 'x'"),
        ([[1.0, 2.0], [3.0]], ValueError, "inhomogeneous"),
        ({"z": np.ones((2, 3))}, ValueError, "'z'"),
        ({}, ValueError, "'x'"),
    ],
)
def test_inputs_that_do_not_fit(x: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        lg.compile(LAYER)(x)


@pytest.mark.parametrize("run", [lg.optimize, lg.compile])
def test_presets_and_sources_are_checked(run: Any) -> None:
    for source in (LAYER, LAYER.to_graph()):
        with pytest.raises(ValueError, match=r"preset must be one of .*deploy.*, got 'fast'"):
            run(source, "fast", state=LAYER.state)
        with pytest.raises(TypeError, match="preset must be one of"):
            run(source, None, state=LAYER.state)
    with pytest.raises(TypeError, match="Graph"):
        run("model")


def test_it_is_shown_without_its_arrays() -> None:
    layer = lg.DenseLayer(3, 2, rng=0)
    assert repr(lg.compile(layer)) == "<Compiled: <DenseLayer: [3] -> [2]>, preset 'inference'>"
    assert repr(lg.optimize(layer, "deploy")[2]).startswith("<Report: 2 ops -> ")
