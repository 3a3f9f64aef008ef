"""Every op in a compiled graph, on memory of the plan that dies there and on tiles, against its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.interpret import compile_graph, tiles
from lora_graph.ir import Graph, Value
from tests.op_cases import CASES, SIZES, Case
from tests.reference import close, run

COMPUTED = [case for case in CASES if case.expected is not None and case.operands]
DIFFERENTIABLE = [case for case in COMPUTED if case.differentiable and case.float_operands]
TILE_BYTES = [16, 1 << 17]

SIZED = ops.input("sized", "bool", tuple(SIZES))
"""An input that gives every named dimension its size; nothing reads it."""


def compiled(case: Case, arrays: list[Any], outputs: dict[str, Value]) -> dict[str, Any]:
    graph = Graph((*case.leaves(), SIZED), outputs)
    sized = np.empty(tuple(SIZES.values()), np.bool_)
    return compile_graph(graph).run(case.feeds(arrays) | {"sized": sized}, {})


def computed(leaf: Value) -> Value:
    """The leaf's own numbers, in memory that the plan may overwrite."""
    if leaf.type.is_float:
        return leaf * 2.0 * 0.5
    return ops.logical_not(ops.logical_not(leaf)) if leaf.dtype == np.bool_ else leaf + 0


@pytest.mark.parametrize("case", COMPUTED, ids=str)
def test_forward(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    leaves, arrays = case.leaves(), case.arrays()
    y = case.applied(*map(computed, leaves))
    outputs = {"direct": y, "turned": ops.transpose(y), "read": computed(y)}
    truth = case.truth(arrays)
    for tile_bytes in TILE_BYTES:
        monkeypatch.setattr(tiles, "TILE_BYTES", tile_bytes)
        got = compiled(case, arrays, outputs)
        close(got["direct"], truth, 1e-12)
        close(got["turned"], truth.T, 1e-12)
        close(got["read"], truth, 1e-12)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_backward(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    leaves, arrays = case.leaves(), case.arrays()
    inputs = [computed(leaf) for leaf in leaves]
    y = case.applied(*inputs)
    cotangent = ops.cos(y)
    found = gradients(y, [inputs[i] for i in case.float_operands], cotangent)
    expected = run(found, case.feeds(arrays), SIZES)
    for tile_bytes in TILE_BYTES:
        monkeypatch.setattr(tiles, "TILE_BYTES", tile_bytes)
        got = compiled(case, arrays, {f"g{i}": g for i, g in enumerate(found)})
        for i, array in enumerate(expected):
            close(got[f"g{i}"], array, 1e-12)
