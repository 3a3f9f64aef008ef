"""A Kronecker product as a layer, each of its two factors whole or in parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.adapters.scale import Scaled
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context

Factors = tuple[tuple[int, int], tuple[int, int]]
Shape = tuple[int, ...]


class KroneckerForm(NamedTuple):
    """The factors ((m, n), (p, q)) of A ⊗ B, and the rank of the parts of each, which is 0 where it is whole.

    A in parts is A_left ``[m, r]`` A_right ``[r, n]``; B is B_left ``[p, r]`` B_right ``[r, q, *kernel]``, or, as a
    Tucker decomposition, B[p, q, k] = Σ B_left[p, i] B_core[i, j, k] B_right[j, q] with B_core ``[r, r, *kernel]``.
    """

    factors: Factors
    ranks: tuple[int, int] = (0, 0)
    is_tucker: bool = False

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> KroneckerForm:
        """The form in which parameters have these shapes; ValueError where there is none."""
        rows = {name[0]: len(array) for name, array in arrays.items() if name in ("A", "B", "A_left", "B_left")}
        last = {name[0]: array for name, array in arrays.items() if name in ("A", "B", "A_right", "B_right")}
        if rows.keys() != {"A", "B"} or last.keys() != {"A", "B"} or any(array.ndim < 2 for array in last.values()):
            raise ValueError(f"a Kronecker product needs A and B, each whole or as left and right, got {list(arrays)}")
        columns = {name: array.shape[1] for name, array in last.items()}
        parts = {name: 0 if name in arrays else len(array) for name, array in last.items()}
        factors = (rows["A"], columns["A"]), (rows["B"], columns["B"])
        return cls(factors, (parts["A"], parts["B"]), "B_core" in arrays)


@dataclass(frozen=True)
class Factor:
    """One factor ``[rows, columns, *kernel]``: a parameter of its name, or the parts that multiply to it."""

    name: str
    rows: int
    columns: int
    kernel: Shape = ()
    rank: int = 0
    is_tucker: bool = False

    @property
    def width(self) -> int:
        """How many numbers each row has."""
        return self.columns * math.prod(self.kernel)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Those of the parameters."""
        name, r = self.name, self.rank
        if not r:
            return {name: (self.rows, self.columns, *self.kernel)}
        if self.is_tucker:
            core = (r, r, *self.kernel)
            return {f"{name}_left": (self.rows, r), f"{name}_core": core, f"{name}_right": (r, self.columns)}
        return {f"{name}_left": (self.rows, r), f"{name}_right": (r, self.columns, *self.kernel)}

    def parts(self, param: Callable[[str], Any]) -> list[Any]:
        """Matrices whose product is the factor as ``[rows, width]``, of the parameters that ``param`` gives."""
        if not self.rank:
            return [param(self.name).reshape((self.rows, self.width))]
        left, right = param(f"{self.name}_left"), param(f"{self.name}_right")
        if self.is_tucker:
            window = math.prod(self.kernel)
            core = param(f"{self.name}_core").reshape((self.rank, self.rank, window)).transpose((0, 2, 1))
            right = (core @ right).transpose((0, 2, 1))
        return [left, right.reshape((self.rank, self.width))]

    def matrix(self, param: Callable[[str], Any]) -> Any:
        """The factor as ``[rows, width]``."""
        first, *rest = self.parts(param)
        return first @ rest[0] if rest else first


class KroneckerLayer(Scaled, Layer):
    """y = s · x (A ⊗ B)ᵀ, A ``[m, n]``, B ``[p, q, *kernel]``, n·q·∏ kernel = input_size, m·p = output_size.

    With X = x reshaped ``[…, n, q·∏ kernel]`` and B as a matrix alike this is s · reshape(A X Bᵀ): A ⊗ B is never
    built, nor a factor that is in parts. The kernel is that of a convolution, whose windows are the x.

    The layer starts as zero: A ~ N(0, 1/n) and B = 0; or with ``zero="A"``, as PEFT has it, A = 0 (A_left where it is
    in parts) and the rest Kaiming-uniform.
    """

    def __init__(
        self,
        form: KroneckerForm,
        kernel: Shape,
        rank: int,
        alpha: float = -1,
        *,
        zero: str = "B",
        dtype: npt.DTypeLike = np.float32,
        rng: checks.Seed = None,
    ):
        (m, n), (p, q) = form.factors
        self.form = form
        self.a = Factor("A", m, n, (), form.ranks[0])
        self.b = Factor("B", p, q, kernel, form.ranks[1], form.is_tucker)
        self.set_scale(rank, alpha)
        super().__init__(input_shape=(n * self.b.width,), output_shape=(m * p,), dtype=dtype, rng=rng)
        for name, shape in {**self.a.shapes, **self.b.shapes}.items():
            self.add_parameter(name, self._drawn(name, shape, zero))

    def _drawn(self, name: str, shape: Shape, zero: str) -> Array:
        """The initial value of a parameter."""
        if name in (zero, f"{zero}_left"):
            return np.zeros(shape)
        if zero == "B":
            return self.rng.normal(0.0, math.sqrt(1 / shape[1]), shape)
        # PEFT holds the left part of a Tucker decomposition transposed
        fan_in = shape[0] if name == "B_left" and self.b.is_tucker else math.prod(shape[1:])
        return self.rng.uniform(-math.sqrt(1 / fan_in), math.sqrt(1 / fan_in), shape)

    def build(self, ctx: Context, x: Value) -> Value:
        lead = x.shape[:-1]
        y = x.reshape((*lead, self.a.columns, self.b.width))
        for part in reversed(self.b.parts(ctx.param)):
            y = y @ part.T
        for part in reversed(self.a.parts(ctx.param)):
            y = part @ y
        return y.reshape((*lead, *self.output_shape)) * self.scaling

    def product(self, ctx: Context) -> Value:
        """s · A ⊗ B as a matrix ``[output_size, input_size]``, in the context of this layer."""
        a, b = self.a.matrix(ctx.param), self.b.matrix(ctx.param) * self.scaling
        m, n, p, width = self.a.rows, self.a.columns, self.b.rows, self.b.width
        blocks: Value = a.reshape((m, 1, n, 1)) * b.reshape((p, 1, width))
        return blocks.reshape((m * p, n * width))

    def get_matrix_a(self) -> Array:
        """A copy of A ``[m, n]``, multiplied out."""
        return np.array(self.a.matrix(self.get_parameter))

    def get_matrix_b(self) -> Array:
        """A copy of B ``[p, q, *kernel]``, multiplied out."""
        whole = self.b.matrix(self.get_parameter)
        return np.array(whole).reshape((self.b.rows, self.b.columns, *self.b.kernel))
