"""StopGradient: the same numbers, and nothing flows back through it."""

from __future__ import annotations

import numpy as np

import lora_graph as lg
from lora_graph.autodiff import gradients
from lora_graph.interpret import evaluate


def test_what_is_behind_it_counts_as_a_constant() -> None:
    x = lg.ops.input("x", "float64", (3,))
    y = (x * lg.ops.stop_gradient(x * x)).sum()
    (g,) = gradients(y, [x])
    array = np.array([1.0, -2.0, 3.0])
    found = evaluate(lg.Graph((x,), {"y": y, "g": g}), {"x": array}, {})
    assert found["y"] == (array**3).sum()
    np.testing.assert_array_equal(found["g"], array**2)  # and not 3 x²
