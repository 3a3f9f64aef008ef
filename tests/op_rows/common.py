"""What the rows of several families use."""

from __future__ import annotations

from typing import Any

from lora_graph.ir import OPS, Op


def op(name: str, *attributes: Any, **named: Any) -> Op:
    return OPS[name](*attributes, **named)


def kept(a: Any, axes: tuple[int, ...]) -> list[int]:
    return [axis for axis in range(a.ndim) if axis not in axes]


def left(a: Any, axes: tuple[int, ...], keep: bool | int) -> list[int]:
    return [1 if axis in axes else n for axis, n in enumerate(a.shape) if keep or axis not in axes]
