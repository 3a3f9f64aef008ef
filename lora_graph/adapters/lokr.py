"""LoKr: a weight change that is a Kronecker product (Edalati et al., 2022, arXiv:2212.10650; LyCORIS, 2023)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.adapters.adapter import Adapter, Place
from lora_graph.adapters.site import Site
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context

Factors = tuple[tuple[int, int], tuple[int, int]]


class KroneckerLayer(Layer):
    """y = s · x (A ⊗ B)ᵀ with A ``[m, n]``, B ``[p, q, *kernel]``, n·q·∏ kernel = input_size, m·p = output_size.

    With X = x reshaped ``[…, n, q·∏ kernel]`` and B as a matrix alike this is s · reshape(A X Bᵀ): A ⊗ B is never
    built. A ~ N(0, 1/n), B = 0. The kernel is that of a convolution, whose windows are the x.
    """

    def __init__(
        self, factors: Factors, kernel: tuple[int, ...], scaling: float, *, dtype: npt.DTypeLike, rng: checks.Seed
    ):
        (m, n), (p, q) = factors
        self._width = q * math.prod(kernel)
        super().__init__(input_shape=(n * self._width,), output_shape=(m * p,), dtype=dtype, rng=rng)
        self.factors = factors
        self.scaling = scaling
        self.add_parameter("A", self.rng.normal(0.0, math.sqrt(1 / n), (m, n)))
        self.add_parameter("B", np.zeros((p, q, *kernel)))

    def build(self, ctx: Context, x: Value) -> Value:
        (m, n), (p, _) = self.factors
        lead = x.shape[:-1]
        inner = x.reshape((*lead, n, self._width)) @ ctx.param("B").reshape((p, self._width)).T
        return (ctx.param("A") @ inner).reshape((*lead, m * p)) * self.scaling

    def product(self, a: Value, b: Value) -> Value:
        """s · A ⊗ B as a matrix ``[output_size, input_size]``."""
        (m, n), (p, _) = self.factors
        blocks = a.reshape((m, 1, n, 1)) * (b * self.scaling).reshape((p, 1, self._width))
        return blocks.reshape((m * p, n * self._width))


class LoKrAdapter(Adapter):
    """y = base(x) + s · x (A ⊗ B)ᵀ, s = alpha / rank, with A ``[m, n]`` and B ``[p, q]``.

    n is the largest divisor of the input width that is at most ``rank``, p that of the output width; m = out / p and
    q = in / n. ``factors=((m, n), (p, q))`` sets them otherwise. ``rank`` has no upper bound; where a width has no
    divisor but 1 a warning says so.

    The weight ``[out, in/g, *kernel]`` of a convolution (``site="weight"``) becomes W + s · A ⊗ B with B
    ``[p, q, *kernel]``; its input width is in/g, whatever the number g of groups.

    1000 × 1000 at rank 8 has m = 125, n = 8, p = 8, q = 125 and so 2,000 parameters. (The reference page's example of
    280 parameters does not satisfy n·q = in and belongs to no Kronecker factorization of that layer.)
    """

    family = "lokr"
    branch = "lokr"

    def __init__(
        self,
        base_layer: Layer,
        rank: int,
        alpha: float = -1,
        freeze_base_layer: bool = True,
        *,
        factors: Factors | None = None,
        site: Place = "output",
        rng: checks.Seed = None,
    ):
        self._wanted = None if factors is None else _checked(factors)
        super().__init__(base_layer, rank, alpha, freeze_base_layer, site=site, rng=rng)

    @property
    def lora_layer(self) -> None:
        """LoKr has no low-rank pair."""
        return

    @property
    def matrix_a_dimensions(self) -> tuple[int, int]:
        """(m, n)."""
        return self._only.factors[0]

    @property
    def matrix_b_dimensions(self) -> tuple[int, int]:
        """(p, q)."""
        return self._only.factors[1]

    def get_matrix_a(self) -> Array:
        """A copy of A ``[m, n]``."""
        return self._only.get_parameter("A")

    def get_matrix_b(self) -> Array:
        """A copy of B ``[p, q]``."""
        return self._only.get_parameter("B")

    @property
    def _only(self) -> KroneckerLayer:
        """The first branch; the matrices of further ones are parameters of their own names."""
        layer = next(iter(self.branches.values()))
        assert isinstance(layer, KroneckerLayer)
        return layer

    def _find_sites(self, base: Layer) -> list[Site]:
        if self.site == "output" and any(isinstance(d, int) for d in (*base.input_shape[:-1], *base.output_shape[:-1])):
            raise ValueError(f"site='output': LoKr needs a layer of one feature axis in and out, got {base!r}")
        return super()._find_sites(base)

    def create_branch(self, name: str, site: Site) -> Layer:
        inner, outer = site.in_features // math.prod(site.kernel), site.out_features
        factors = self._wanted or kronecker_factors(inner, outer, site.rank)
        (m, n), (p, q) = factors
        if (m * p, n * q) != (outer, inner):
            raise ValueError(f"factors ((m, n), (p, q)) must have m·p = {outer} and n·q = {inner}, got {factors}")
        if self._wanted is None and 1 in (n, p):
            warnings.warn(
                f"at rank {site.rank} a weight [{inner}, {outer}] gets the Kronecker factors "
                f"A [{m}, {n}] and B [{p}, {q}]: a width of which no divisor but 1 is that small is not factored",
                stacklevel=4,
            )
        return KroneckerLayer(factors, site.kernel, site.alpha / site.rank, dtype=self.dtype, rng=self.rng)

    def delta(self, ctx: Context, name: str, branch: Layer, h: Value) -> Value:
        return ctx.call(branch, h)

    def change(self, ctx: Context, name: str, branch: Layer, weight: Value) -> Value:
        assert isinstance(branch, KroneckerLayer)
        matrices = ctx.of(branch)
        return branch.product(matrices.param("A"), matrices.param("B")).T

    def get_diagnostics(self) -> dict[str, str]:
        a, b = self.matrix_a_dimensions, self.matrix_b_dimensions
        return {**super().get_diagnostics(), "matrix_a": f"{a[0]} x {a[1]}", "matrix_b": f"{b[0]} x {b[1]}"}


def kronecker_factors(in_features: int, out_features: int, rank: int) -> Factors:
    """((m, n), (p, q)) with n and p the largest divisors of the widths that are at most ``rank``."""
    n, p = (max(d for d in range(1, min(rank, width) + 1) if width % d == 0) for width in (in_features, out_features))
    return (out_features // p, n), (p, in_features // n)


def _checked(factors: Any) -> Factors:
    valid = (
        isinstance(factors, Sequence)
        and len(factors) == 2
        and all(isinstance(pair, Sequence) and len(pair) == 2 for pair in factors)
    )
    if not valid:
        raise TypeError(f"factors must be ((m, n), (p, q)), got {factors!r}")
    m, n, p, q = (checks.integer("factors", value, 1) for pair in factors for value in pair)
    return (m, n), (p, q)
