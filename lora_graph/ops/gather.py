"""Indexed reading, and the indexed addition that is its transpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.leaves import constant
from lora_graph.ir.op import Op
from lora_graph.ir.types import Array, TensorType, meet, normalize_axis
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents
from lora_graph.ops.shape import expand, zeros_like


@dataclass(frozen=True, eq=False)
class Gather(Op):
    """Slices of ``data`` along ``axis`` at ``indices`` (negative ones count from the end): rows of an embedding.

    ValueError when run with an index that is out of range.
    """

    axis: int = 0

    def infer(self, *operands: TensorType) -> TensorType:
        data, indices = operands
        check_indices(self.name, indices)
        at = normalize_axis(self.axis, data.rank, self.name)
        return data.with_shape((*data.shape[:at], *indices.shape, *data.shape[at + 1 :]))

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        data, indices = operands
        try:
            return np.asarray(np.take(data, indices, axis=self.axis))
        except IndexError as error:
            count = data.shape[self.axis]
            raise ValueError(f"Gather: indices must be in {-count}..{count - 1}: {error}") from error

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        data, indices = operands
        at, count = self.axis % data.rank, dims.product(indices.shape)
        rest = [i for i in range(data.rank) if i != at]
        flat = cotangent.reshape((*data.shape[:at], count, *data.shape[at + 1 :])).transpose((at, *rest))
        into = expand(constant(0, data.dtype), [data.shape[i] for i in (at, *rest)])
        summed = apply(ScatterND("add"), into, indices.reshape(count, 1).astype(np.int64), flat)
        return summed.transpose([*range(1, at + 1), 0, *range(at + 1, data.rank)]), None


@dataclass(frozen=True, eq=False)
class GatherElements(Op):
    """y[i, j] = data[i, indices[i, j]] (here for axis 1): one element per index."""

    axis: int = 0

    def infer(self, *operands: TensorType) -> TensorType:
        data, indices = operands
        check_indices(self.name, indices)
        normalize_axis(self.axis, data.rank, self.name)
        if data.rank != indices.rank:
            raise ValueError(f"GatherElements: data and indices must have one rank, got {data} and {indices}")
        return data.with_shape(indices.shape)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        data, indices = operands
        return data[grid(indices, self.axis)]

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        data, indices = operands
        into = zeros_like(data)
        return apply(ScatterElements(self.axis, "add"), into, indices, cotangent), None


@dataclass(frozen=True, eq=False)
class ScatterElements(Op):
    """``data`` with ``updates[i, j]`` put, or by ``reduction``, at ``[i, indices[i, j]]`` (for axis 1; opset 18)."""

    axis: int = 0
    reduction: str = "none"

    def __post_init__(self) -> None:
        check_reduction(self.name, self.reduction)

    def infer(self, *operands: TensorType) -> TensorType:
        data, indices, updates = operands
        check_indices(self.name, indices)
        normalize_axis(self.axis, data.rank, self.name)
        if indices.shape != updates.shape or data.dtype != updates.dtype:
            raise ValueError(f"ScatterElements: {indices} and {updates} do not fit {data}")
        return data

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        data, indices, updates = operands
        return scatter(data, grid(indices, self.axis), updates, self.reduction)

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return 0 if self.reduction == "none" else operands[2].size

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        check_derivative(self.name, self.reduction)
        _, indices, updates = operands
        of_updates = apply(GatherElements(self.axis), cotangent, indices)
        if self.reduction == "add":
            return cotangent, None, of_updates
        hole = zeros_like(updates)
        return apply(ScatterElements(self.axis), cotangent, indices, hole), None, of_updates


@dataclass(frozen=True, eq=False)
class ScatterND(Op):
    """``data`` with ``updates[i]`` put, or as ``reduction`` says, at the slice ``data[indices[i]]`` (opset 18)."""

    reduction: str = "none"

    def __post_init__(self) -> None:
        check_reduction(self.name, self.reduction)

    def infer(self, *operands: TensorType) -> TensorType:
        data, indices, updates = operands
        depth = depth_of(self.name, data, indices)
        wanted = (*indices.shape[:-1], *data.shape[depth:])
        if len(wanted) != updates.rank or data.dtype != updates.dtype:
            raise ValueError(f"ScatterND: {updates} at {indices} do not fit {data}")
        for want, have in zip(wanted, updates.shape, strict=True):
            meet(want, have, f"ScatterND of {updates} into {data}")
        return data

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        data, indices, updates = operands
        return scatter(data, tuple(np.moveaxis(indices, -1, 0)), updates, self.reduction)

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return 0 if self.reduction == "none" else operands[2].size

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        check_derivative(self.name, self.reduction)
        _, indices, updates = operands
        of_updates = apply(GatherND(), cotangent, indices)
        if self.reduction == "add":
            return cotangent, None, of_updates
        hole = zeros_like(updates)
        return apply(ScatterND(), cotangent, indices, hole), None, of_updates


class GatherND(Op):
    """y[i] = data[indices[i]], where the last axis of ``indices`` is a multi-index."""

    def infer(self, *operands: TensorType) -> TensorType:
        data, indices = operands
        depth = depth_of(self.name, data, indices)
        return data.with_shape((*indices.shape[:-1], *data.shape[depth:]))

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        data, indices = operands
        return np.asarray(data[tuple(np.moveaxis(indices, -1, 0))])

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        data, indices = operands
        into = zeros_like(data)
        return apply(ScatterND("add"), into, indices, cotangent), None


def check_indices(name: str, indices: TensorType) -> None:
    if indices.dtype not in (np.int32, np.int64):
        raise TypeError(f"{name}: indices must be int32 or int64, got {indices}")


def depth_of(name: str, data: TensorType, indices: TensorType) -> int:
    """The length of the multi-indices along the last axis of ``indices``, which ONNX wants as int64 alone."""
    if indices.dtype != np.int64:
        raise TypeError(f"{name}: indices must be int64, got {indices}")
    depth = indices.shape[-1] if indices.rank else None
    if not isinstance(depth, int) or not 1 <= depth <= data.rank:
        raise ValueError(f"{name}: the last axis of {indices} must index into {data}")
    return depth


REDUCTIONS: dict[str, Any] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
"""How an update meets what is there already, instead of taking its place."""


def check_reduction(name: str, reduction: str) -> None:
    if reduction not in ("none", *REDUCTIONS):
        raise ValueError(f"{name}: reduction is 'none', {', '.join(map(repr, REDUCTIONS))}, not {reduction!r}")


def check_derivative(name: str, reduction: str) -> None:
    if reduction not in ("none", "add"):
        raise NotImplementedError(f"{name}: no derivative for reduction {reduction!r}")


def grid(indices: Array, axis: int) -> tuple[Array, ...]:
    """The full multi-index of element-wise gathering along ``axis``."""
    full: list[Any] = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
    full[axis] = indices
    return tuple(full)


def scatter(data: Array, index: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    result = data.copy()
    if reduction == "none":
        result[index] = updates
    else:
        REDUCTIONS[reduction].at(result, index, updates)
    return result


def gather(data: Any, indices: Any, axis: int = 0) -> Any:
    """Slices of ``data`` along ``axis`` at ``indices``, whose axes take the place of that one."""
    return apply(Gather(axis), data, indices)


def gather_elements(data: Any, indices: Any, axis: int = 0) -> Any:
    """y[i, j] = data[i, indices[i, j]] (here for axis 1)."""
    return apply(GatherElements(axis), data, indices)


def gather_nd(data: Any, indices: Any) -> Any:
    """y[i] = data[indices[i]], where the last axis of ``indices`` is a multi-index."""
    return apply(GatherND(), data, indices)


def scatter_elements(data: Any, indices: Any, updates: Any, axis: int = 0, reduction: str = "none") -> Any:
    """``data`` with ``updates[i, j]`` put, or as ``reduction`` says, at ``[i, indices[i, j]]`` (for axis 1)."""
    return apply(ScatterElements(axis, reduction), data, indices, updates)


def scatter_nd(data: Any, indices: Any, updates: Any, reduction: str = "none") -> Any:
    """``data`` with ``updates[i]`` put, or as ``reduction`` says, at the slice ``data[indices[i]]``."""
    return apply(ScatterND(reduction), data, indices, updates)
