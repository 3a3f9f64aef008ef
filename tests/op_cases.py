"""One row of cases for every op: what to apply it to, and an independent formula for what comes out.

From these rows come the type, value, gradient, text and ONNX tests of ops/. An op without a row fails the suite.
The rows stand in op_rows/, a file a family.
Shapes are written ``"batch 3"``; SIZES says how large the names are when a case is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

import lora_graph.ops  # noqa: F401
from lora_graph.ir import Op, TensorType, Value, apply, dim, input, project  # noqa: A004
from lora_graph.ir.graph import substitute_dims
from lora_graph.ops.fused import Fused

SIZES = {"batch": 2, "time": 3, "width": 4}

Draw = Callable[[np.random.Generator, tuple[int, ...]], Any]


@dataclass(frozen=True)
class Operand:
    """A kind of array to draw; dtype ``float`` stands for whichever float type a test runs in."""

    dtype: str
    shape: tuple[Any, ...]
    draw: Draw

    def type(self, floats: str) -> TensorType:
        return TensorType(np.dtype(floats if self.dtype == "float" else self.dtype), self.shape)


@dataclass(frozen=True)
class Case:
    """``op`` on operands such as these is what ``expected`` computes from the arrays; None if no formula applies."""

    op: Op
    operands: tuple[Operand, ...]
    expected: Callable[..., Any] | None
    differentiable: bool = True
    """Whether the float operands have a derivative (at the arrays drawn)."""
    second_order: bool = True
    float16: bool = True
    empty: bool = True
    """Whether the formula holds when the batch is empty."""
    onnx: bool = True
    onnx64: bool = True
    """Whether ONNX Runtime's CPU provider has a float64 kernel."""
    readable: bool = True
    """Whether the importer takes what the exporter writes."""
    result: int | None = None
    """Which result is meant, of an op that has several."""
    typed: Callable[[str], Op] | None = None
    """The op for a float type, where that is part of it; ``op`` is the one for float64."""
    number: int = 0

    def __str__(self) -> str:
        return f"{self.op.name}-{self.number}"

    @cached_property
    def float_operands(self) -> list[int]:
        return [i for i, operand in enumerate(self.operands) if operand.dtype == "float"]

    @property
    def is_named(self) -> bool:
        return any("batch" in str(d) for operand in self.operands for d in operand.shape)

    def types(self, floats: str = "float64") -> list[TensorType]:
        return [operand.type(floats) for operand in self.operands]

    def leaves(self, floats: str = "float64") -> list[Value]:
        return [input(f"x{i}", t.dtype, t.shape) for i, t in enumerate(self.types(floats))]

    def value(self, floats: str = "float64") -> Value:
        return self.applied(*self.leaves(floats))

    def applied(self, *operands: Value) -> Value:
        value = apply(self.op_for(operands), *operands)
        return value if self.result is None else project(value, self.result)

    def op_for(self, operands: Sequence[Any]) -> Op:
        """The op for operands of these dtypes."""
        return self.op if self.typed is None else self.typed(operands[self.float_operands[0]].dtype.name)

    def spelled(self) -> Value:
        """What the decomposition of a fused op gives."""
        assert isinstance(self.op, Fused)
        spelled = self.op.decompose(*self.leaves())
        return spelled if self.result is None else spelled[self.result]

    def evaluate(self, arrays: list[Any], sizes: Mapping[str, int] = SIZES) -> Any:
        """What the op computes from arrays, for these sizes of the named dimensions."""
        computed = substitute_dims(self.op_for(arrays), dict(sizes)).evaluate(*arrays)
        return computed if self.result is None else computed[self.result]

    def arrays(self, floats: str = "float64", sizes: Mapping[str, int] = SIZES) -> list[Any]:
        rng = np.random.default_rng(7)
        types = [t.bind(sizes) for t in self.types(floats)]
        return [
            np.asarray(operand.draw(rng, tuple(map(int, t.shape))), t.dtype)  # type: ignore[arg-type]
            for operand, t in zip(self.operands, types, strict=True)
        ]

    def feeds(self, arrays: list[Any]) -> dict[str, Any]:
        return {f"x{i}": array for i, array in enumerate(arrays)}

    def bound_op(self, sizes: Mapping[str, int] = SIZES) -> Op:
        return substitute_dims(self.op, dict(sizes))

    def truth(self, arrays: list[Any]) -> Any:
        """The formula in float64 on these arrays."""
        return self.truth_of(*arrays)

    def truth_of(self, *arrays: Any) -> Any:
        assert self.expected is not None
        return np.asarray(self.expected(*[a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]))


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.standard_normal(shape)


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.uniform(0.5, 2.0, shape)


def nonzero(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """At least a quarter away from zero, either sign."""
    return rng.uniform(0.25, 2.0, shape) * rng.choice([-1.0, 1.0], shape)


def distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Values at least a quarter apart from each other and from integers by a sixteenth."""
    count = int(np.prod(shape))
    return (rng.permutation(count).reshape(shape) - count // 2) * 0.25 + 0.0625


def integers(low: int, high: int) -> Draw:
    return lambda rng, shape: rng.integers(low, high, shape)


def chosen(*values: float) -> Draw:
    """These very numbers, repeated as often as it takes."""
    return lambda rng, shape: np.resize(np.asarray(values, np.float64), shape)


def x(shape: str = "batch 3", draw: Draw = normal) -> Operand:
    return Operand("float", _shape(shape), draw)


def i(shape: str, low: int, high: int, dtype: str = "int64") -> Operand:
    return Operand(dtype, _shape(shape), integers(low, high))


def b(shape: str = "batch 3") -> Operand:
    return Operand("bool", _shape(shape), lambda rng, size: rng.random(size) < 0.5)


def _shape(text: str) -> tuple[Any, ...]:
    return tuple(dim(int(item) if item.isdigit() else item) for item in text.split())


def case(op: Op, *operands: Operand, expected: Callable[..., Any] | None, **flags: Any) -> Case:
    return Case(op, operands, expected, **flags)


def numbered(cases: Iterator[Case]) -> list[Case]:
    seen: Counter[str] = Counter()
    result = []
    for item in cases:
        result.append(replace(item, number=seen[item.op.name]))
        seen[item.op.name] += 1
    return result


def all_cases() -> list[Case]:
    """Every row of every family."""
    from tests.op_rows.convolution import convolution
    from tests.op_rows.coverage import coverage
    from tests.op_rows.elementwise import elementwise
    from tests.op_rows.indexing import indexing
    from tests.op_rows.leaves import leaves
    from tests.op_rows.linalg import linalg
    from tests.op_rows.movement import movement
    from tests.op_rows.nn import nn
    from tests.op_rows.pooling import pooling
    from tests.op_rows.recurrent import recurrent
    from tests.op_rows.reduction import reduction

    families = (leaves, elementwise, reduction, linalg, movement, indexing, nn, pooling, convolution, recurrent)
    return numbered(item for family in (*families, coverage) for item in family())


CASES = all_cases()
