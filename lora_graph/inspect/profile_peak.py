"""The best rate at which an engine multiplies matrices on this machine: what everything else is measured by."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from time import perf_counter

import numpy as np
from threadpoolctl import threadpool_limits

from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import input, parameter  # noqa: A004
from lora_graph.ir.types import Array
from lora_graph.onnx.model import lower
from lora_graph.onnx.profiling import QuietSession

SHAPES = ((256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (64, 768, 3072))
"""Rows, columns and what is summed over: of products that fit the second-level cache, the third-level one, and of one
as layers have it."""
TRIES = 5


@lru_cache(maxsize=64)
def gemm_peak(engine: str, dtype: str, threads: int) -> float:
    """Operations a second of the fastest of some products of matrices, 2·m·n·k for one of ``[m, k]`` and ``[k, n]``.

    ``engine`` is ``"numpy"`` or ``"onnxruntime"``, whose right operand is a weight. Measured once in a process.
    """
    product = _numpy if engine == "numpy" else _onnxruntime
    rng = np.random.default_rng(0)
    best = 0.0
    with threadpool_limits(threads, "blas"):
        for rows, columns, inner in SHAPES:
            a, b = (rng.normal(size=shape).astype(dtype) for shape in ((rows, inner), (inner, columns)))
            run = product(a, b, threads)
            run()
            best = max(best, 2 * rows * columns * inner / min(_seconds(run) for _ in range(TRIES)))
    return best


def _numpy(a: Array, b: Array, threads: int) -> Callable[[], object]:
    out = np.empty((len(a), b.shape[1]), a.dtype)
    return lambda: np.matmul(a, b, out=out)


def _onnxruntime(a: Array, b: Array, threads: int) -> Callable[[], object]:
    x = input("x", a.dtype, a.shape)
    graph = Graph((x,), {"y": x @ parameter("weight", b.dtype, b.shape)})
    session = QuietSession(lower(graph, {"weight": b}), threads=threads)
    return lambda: session.run(a)


def _seconds(run: Callable[[], object]) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start
