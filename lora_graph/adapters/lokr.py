"""LoKr: a weight change that is a Kronecker product (Edalati et al., 2022, arXiv:2212.10650; LyCORIS, 2023)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lora_graph import checks
from lora_graph.adapters.adapter import Adapter, Place
from lora_graph.adapters.kronecker import Factors, KroneckerForm, KroneckerLayer
from lora_graph.adapters.site import Site
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context


class LoKrAdapter(Adapter):
    """y = base(x) + s · x (A ⊗ B)ᵀ, s = alpha / rank, with A ``[m, n]`` and B ``[p, q]``.

    n is the largest divisor of the input width that is at most ``rank``, p that of the output width; m = out / p and
    q = in / n. ``factors=((m, n), (p, q))`` sets them otherwise. ``rank`` has no upper bound; where a width has no
    divisor but 1 a warning says so.

    The weight ``[out, in/g, *kernel]`` of a convolution (``site="weight"``) becomes W + s · A ⊗ B with B
    ``[p, q, *kernel]``; its input width is in/g, whatever the number g of groups.

    1000 × 1000 at rank 8 has m = 125, n = 8, p = 8, q = 125 and so 2,000 parameters. (The reference page's example of
    280 parameters does not satisfy n·q = in and belongs to no Kronecker factorization of that layer.)

    With ``decompose_factor`` it is as PEFT's LoKr has it: m and n are the factors of the widths nearest below their
    square roots, at most ``decompose_factor`` (-1 for no bound), and ``rank`` is that of B in two parts where this is
    less than half its larger side; of A likewise with ``decompose_both``. With ``tucker`` the B of a convolution whose
    kernel is not 1 has a core between its parts. The first part of A starts as 0. ``forms`` say it weight by weight,
    for files, whose shapes count; see :class:`KroneckerForm`.
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
        decompose_factor: int | None = None,
        decompose_both: bool = False,
        tucker: bool = False,
        forms: Mapping[str, KroneckerForm] | None = None,
        site: Place = "output",
        rng: checks.Seed = None,
    ):
        self._wanted = None if factors is None else _checked("factors", factors)
        self._bound = None if decompose_factor is None else _bound(decompose_factor)
        self._both = checks.flag("decompose_both", decompose_both)
        self._tucker = checks.flag("tucker", tucker)
        self._forms = {label: _form(form) for label, form in (forms or {}).items()}
        if self._bound is None and (self._both or self._tucker):
            raise ValueError("decompose_both and tucker need decompose_factor")
        if self._bound is not None and self._wanted is not None:
            raise ValueError("factors and decompose_factor exclude each other")
        super().__init__(base_layer, rank, alpha, freeze_base_layer, site=site, rng=rng)

    @property
    def lora_layer(self) -> None:
        """LoKr has no low-rank pair."""
        return

    @property
    def matrix_a_dimensions(self) -> tuple[int, int]:
        """(m, n)."""
        return self._only.form.factors[0]

    @property
    def matrix_b_dimensions(self) -> tuple[int, int]:
        """(p, q)."""
        return self._only.form.factors[1]

    def get_matrix_a(self) -> Array:
        """A copy of A ``[m, n]``, multiplied out where it is in parts."""
        return self._only.get_matrix_a()

    def get_matrix_b(self) -> Array:
        """A copy of B ``[p, q]``, multiplied out where it is in parts."""
        return self._only.get_matrix_b()

    @property
    def _only(self) -> KroneckerLayer:
        """The first branch; the matrices of further ones are parameters of their own names."""
        layer = next(iter(self.branches.values()))
        assert isinstance(layer, KroneckerLayer)
        return layer

    @classmethod
    def options_for(cls, sites: Sequence[Site], matrices: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
        pairs = zip(sites, matrices, strict=True)
        return {"forms": {site.label: KroneckerForm.of(arrays) for site, arrays in pairs}}

    @property
    def options(self) -> dict[str, Any]:
        layers = [branch for branch in self.branches.values() if isinstance(branch, KroneckerLayer)]
        return {"forms": {site.label: layer.form for site, layer in zip(self.sites, layers, strict=True)}}

    def _find_sites(self, base: Layer) -> list[Site]:
        if self.site == "output" and any(isinstance(d, int) for d in (*base.input_shape[:-1], *base.output_shape[:-1])):
            raise ValueError(f"site='output': LoKr needs a layer of one feature axis in and out, got {base!r}")
        return super()._find_sites(base)

    def create_branch(self, name: str, site: Site) -> Layer:
        inner, outer = site.in_features // site.window, site.out_features
        form = self._form_at(site, inner, outer)
        (m, n), (p, q) = form.factors
        if (m * p, n * q) != (outer, inner):
            raise ValueError(f"factors ((m, n), (p, q)) must have m·p = {outer} and n·q = {inner}, got {form.factors}")
        if form.is_tucker and not site.kernel:
            raise ValueError(f"forms: {site.label} has no kernel and so no core")
        is_new = self._bound is None and not self._forms
        if is_new and self._wanted is None and 1 in (n, p):
            warnings.warn(
                f"at rank {site.rank} a weight [{inner}, {outer}] gets the Kronecker factors "
                f"A [{m}, {n}] and B [{p}, {q}]: a width of which no divisor but 1 is that small is not factored",
                stacklevel=4,
            )
        zero = "B" if is_new else "A"
        return KroneckerLayer(form, site.kernel, site.rank, site.alpha, zero=zero, dtype=self.dtype, rng=self.rng)

    def _form_at(self, site: Site, inner: int, outer: int) -> KroneckerForm:
        if self._forms:
            if site.label not in self._forms:
                raise ValueError(f"forms: there is none for {site.label or 'the layer'}, only for {list(self._forms)}")
            return self._forms[site.label]
        if self._bound is None:
            return KroneckerForm(self._wanted or kronecker_factors(inner, outer, site.rank))
        return decomposed(inner, outer, site.kernel, site.rank, self._bound, self._both, self._tucker)

    def delta(self, ctx: Context, name: str, branch: Layer, h: Value) -> Value:
        return ctx.call(branch, h)

    def change(self, ctx: Context, name: str, branch: Layer, weight: Value) -> Value:
        assert isinstance(branch, KroneckerLayer)
        return branch.product(ctx.of(branch)).T

    def get_diagnostics(self) -> dict[str, str]:
        a, b = self.matrix_a_dimensions, self.matrix_b_dimensions
        return {**super().get_diagnostics(), "matrix_a": f"{a[0]} x {a[1]}", "matrix_b": f"{b[0]} x {b[1]}"}


def kronecker_factors(in_features: int, out_features: int, rank: int) -> Factors:
    """((m, n), (p, q)) with n and p the largest divisors of the widths that are at most ``rank``."""
    n, p = (max(d for d in range(1, min(rank, width) + 1) if width % d == 0) for width in (in_features, out_features))
    return (out_features // p, n), (p, in_features // n)


def decomposed(
    inner: int, outer: int, kernel: Sequence[int], rank: int, bound: int, both: bool, tucker: bool
) -> KroneckerForm:
    """The form that PEFT's LoKr gives a weight ``[outer, inner, *kernel]``."""
    (m, p), (n, q) = factorization(outer, bound), factorization(inner, bound)
    first = rank if both and rank < max(m, n) / 2 else 0
    second = rank if rank < max(p, q) / 2 else 0
    return KroneckerForm(((m, n), (p, q)), (first, second), tucker and second > 0 and max(kernel, default=1) > 1)


def factorization(width: int, bound: int = -1) -> tuple[int, int]:
    """Two factors of ``width`` as PEFT chooses them: ``bound`` first where it divides; else the smaller first and as
    near to the root as it can be without being more than ``bound`` (-1 for none)."""
    if bound > 0 and width % bound == 0:
        return bound, width // bound
    highest = min(math.isqrt(width), width if bound == -1 else bound)
    smaller = max(d for d in range(1, highest + 1) if width % d == 0)
    return smaller, width // smaller


def _bound(value: Any) -> int:
    bound = checks.integer("decompose_factor", value)
    if bound < 1 and bound != -1:
        raise ValueError(f"decompose_factor must be at least 1, or -1 for no bound, got {bound}")
    return bound


def _form(value: Any) -> KroneckerForm:
    """A form as it was given, or as JSON has it."""
    if not isinstance(value, Sequence) or len(value) != 3 or not isinstance(value[1], Sequence) or len(value[1]) != 2:
        raise TypeError(f"forms must be KroneckerForms, got {value!r}")
    first, second = (checks.integer("forms: a rank", rank, 0) for rank in value[1])
    is_tucker = checks.flag("forms: is_tucker", value[2])
    if is_tucker and not second:
        raise ValueError(f"forms: a core needs B in parts, got {value!r}")
    return KroneckerForm(_checked("forms", value[0]), (first, second), is_tucker)


def _checked(name: str, factors: Any) -> Factors:
    valid = (
        isinstance(factors, Sequence)
        and len(factors) == 2
        and all(isinstance(pair, Sequence) and len(pair) == 2 for pair in factors)
    )
    if not valid:
        raise TypeError(f"{name} must be ((m, n), (p, q)), got {factors!r}")
    m, n, p, q = (checks.integer(name, value, 1) for pair in factors for value in pair)
    return (m, n), (p, q)
