"""Operations of products against PyTorch's own counter, which counts no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.inspect.cost import Costs
from lora_graph.inspect.inspected import Inspected
from lora_graph.ir import Graph, input  # noqa: A004
from lora_graph.ops.convolution import Conv, ConvTranspose
from lora_graph.ops.linalg import Gemm, MatMul

pytestmark = pytest.mark.torch


def products(model: Any, **sizes: int) -> int:
    """The operations of matrix products and convolutions, those of a bias left out."""
    found = Inspected.of(model, sizes=sizes)
    costs = Costs(found.graph, found.binding)
    biased = (Gemm, Conv, ConvTranspose)
    counted = [value for value in costs.of if isinstance(value.op, (MatMul, *biased))]
    bias = sum(costs.nbytes(v.type) // v.dtype.itemsize for v in counted if isinstance(v.op, biased) and v.operands[2:])
    return sum(costs.of[value].flops for value in counted) - bias


def counted(function: Any, *operands: Any) -> int:
    counter = pytest.importorskip("torch.utils.flop_counter")
    with counter.FlopCounterMode(display=False) as mode:
        function(*operands)
    return int(mode.get_total_flops())


def test_layers(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    assert products(lg.DenseLayer(30, 40, rng=rng), batch=7) == counted(torch.nn.Linear(30, 40), torch.ones(7, 30))
    for groups, stride in ((1, 1), (2, 2)):
        layer = lg.ConvolutionalLayer(4, 6, 3, stride, 1, groups=groups, rng=rng)
        same = torch.nn.Conv2d(4, 6, 3, stride, 1, groups=groups)
        assert products(layer, batch=2, height=9, width=11) == counted(same, torch.ones(2, 4, 9, 11))


def test_attention(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    shapes = (2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)
    q, k, v = (input(name, "float32", shape) for name, shape in zip("qkv", shapes, strict=True))
    graph = Graph((q, k, v), {"y": lg.ops.attention(q, k, v, scale=1.0)})
    found = Costs(graph, {}).total.flops
    softmax, scaled = 5 * 2 * 3 * 5 * 7, 2 * 3 * 5 * 8

    def attention(q: Any, k: Any, v: Any) -> Any:
        return torch.softmax(q @ k.transpose(-1, -2), -1) @ v

    assert found - softmax - scaled == counted(attention, *(torch.ones(shape) for shape in shapes))
