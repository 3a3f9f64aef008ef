"""LoRA: a low-rank pair beside a weight (Hu et al., 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.adapters.adapter import Adapter
from lora_graph.errors import MergeError
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.layers.dense import Activation, activation_of
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context
from lora_graph.ops.activation import identity


def check_rank(name: str, rank: int, in_features: int, out_features: int) -> None:
    """ValueError unless 1 ≤ rank < min(in_features, out_features)."""
    width = min(in_features, out_features)
    if width < 2:
        raise ValueError(
            f"a weight [{in_features}, {out_features}] is too small for a low-rank pair: "
            f"{name} must be less than {width}, got {rank}"
        )
    if not 1 <= rank < width:
        raise ValueError(
            f"{name} must be at least 1 and less than {width} for a weight [{in_features}, {out_features}], got {rank}"
        )


class LoRALayer(Layer):
    """y = act(s · (x A) B) with A ``[input_size, rank]``, B ``[rank, output_size]`` and s = alpha / rank.

    A ~ N(0, 1/rank) (``init="gaussian"``) or Kaiming-uniform, U(-a, a) with a = 1/√input_size (``init="kaiming"``);
    B = 0, so the layer starts as zero. A negative ``alpha`` means the rank.

    Raises ValueError unless 1 ≤ rank < min(input_size, output_size).
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        rank: int,
        alpha: float = -1,
        activation: Activation = None,
        *,
        init: str = "gaussian",
        dtype: npt.DTypeLike = np.float32,
        rng: checks.Seed = None,
        layer_name: str | None = None,
    ):
        inner = checks.integer("input_size", input_size, 1)
        outer = checks.integer("output_size", output_size, 1)
        self._rank = checks.integer("rank", rank)
        check_rank("rank", self._rank, inner, outer)
        checks.choice("init", init, ("gaussian", "kaiming"))
        self._set_up(inner, outer, alpha, activation, dtype=dtype, rng=rng, layer_name=layer_name)
        shape = (inner, self._rank)
        if init == "gaussian":
            a = self.rng.normal(0.0, math.sqrt(1 / self._rank), shape)
        else:
            a = self.rng.uniform(-math.sqrt(1 / inner), math.sqrt(1 / inner), shape)
        self.add_parameter("A", a)
        self.add_parameter("B", np.zeros((self._rank, outer)))

    def _set_up(self, inner: int, outer: int, alpha: float, activation: Activation, **options: Any) -> None:
        """All but the matrices; ``options`` are those of every Layer."""
        self._alpha = checks.scale("alpha", alpha, self._rank)
        self.activation, self._activate = activation_of(activation)
        super().__init__(input_shape=(inner,), output_shape=(outer,), **options)

    @classmethod
    def from_matrices(cls, A: npt.ArrayLike, B: npt.ArrayLike, alpha: float = -1) -> Self:
        """A layer with these matrices, of any rank and in their dtype (anything but float64 becomes float32)."""
        dtype = np.dtype(np.float64 if np.result_type(np.asarray(A), np.asarray(B)) == np.float64 else np.float32)
        a, b = checks.numeric("A", A, dtype), checks.numeric("B", B, dtype)
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or 0 in (*a.shape, *b.shape):
            raise ValueError(f"A [in, rank] and B [rank, out] must share a rank, got {a.shape} and {b.shape}")
        layer = cls.__new__(cls)
        layer._rank = a.shape[1]
        layer._set_up(a.shape[0], b.shape[1], alpha, None, dtype=dtype)
        layer.add_parameter("A", a)
        layer.add_parameter("B", b)
        return layer

    @property
    def rank(self) -> int:
        """The width between A and B."""
        return self._rank

    @property
    def alpha(self) -> float:
        """The numerator of the scale."""
        return self._alpha

    @property
    def scaling(self) -> float:
        """s = alpha / rank."""
        return self._alpha / self._rank

    def build(self, ctx: Context, x: Value) -> Value:
        y: Value = self._activate((x @ ctx.param("A")) @ ctx.param("B") * self.scaling)
        return y

    def get_matrix_a(self) -> Array:
        """A copy of A ``[input_size, rank]``."""
        return self.get_parameter("A")

    def get_matrix_b(self) -> Array:
        """A copy of B ``[rank, output_size]``."""
        return self.get_parameter("B")

    def merge_weights(self) -> Array:
        """The weight change s · A B ``[in, out]``; MergeError with a nonlinear activation."""
        if self._activate is not identity:
            raise MergeError(f"{self.layer_name} ends in {self.activation}: it is no product with one matrix")
        product: Array = self.dtype.type(self.scaling) * (self.slot("A").array @ self.slot("B").array)
        return product

    def get_diagnostics(self) -> dict[str, str]:
        return {
            **super().get_diagnostics(),
            "activation": self.activation,
            "rank": str(self.rank),
            "alpha": f"{self.alpha:g}",
            "scaling": f"{self.scaling:g}",
        }


class StandardLoRAAdapter(Adapter):
    """y = base(x) + s · (x A) B, or with ``site="weight"`` the same inside the layer: act(x (W + s A B) + b)."""

    family = "lora"

    def create_branch(self, name: str, in_features: int, out_features: int) -> Layer:
        return LoRALayer(in_features, out_features, self.rank, self.alpha, dtype=self.dtype, rng=self.rng)

    def delta(self, ctx: Context, name: str, branch: Layer, h: Value) -> Value:
        return ctx.call(branch, h)
