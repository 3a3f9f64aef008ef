"""The low-rank pair beside a matrix (Hu et al., 2021, arXiv:2106.09685), which is a layer by itself as well."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.adapters.pair import LowRankPair, check_width
from lora_graph.errors import MergeError
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.layers.dense import Activation, activation_of
from lora_graph.layers.trace import Context
from lora_graph.ops.activation import identity
from lora_graph.ops.gather import gather
from lora_graph.ops.shape import unsqueeze


class LoRALayer(LowRankPair):
    """y = act(s · (x A) B) with A ``[input_size, rank]``, B ``[rank, output_size]`` and s = alpha / rank.

    ``rank_scaling="sqrt_rank"`` makes that s = alpha / √rank. With ``bias``, which starts as zero, s · bias is added.

    A ~ N(0, 1/rank) (``init="gaussian"``) or Kaiming-uniform, U(-a, a) with a = 1/√input_size (``init="kaiming"``);
    B = 0, so the layer starts as zero. A negative ``alpha`` means the rank.

    Raises ValueError unless 1 ≤ rank < min(input_size, output_size), the upper bound not holding if ``wide``.
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
        rank_scaling: str = "rank",
        wide: bool = False,
        bias: bool = False,
        dtype: npt.DTypeLike = np.float32,
        rng: checks.Seed = None,
        layer_name: str | None = None,
    ):
        inner = checks.integer("input_size", input_size, 1)
        outer = checks.integer("output_size", output_size, 1)
        check_width("rank", rank, rank_limit(inner, outer), wide)
        checks.choice("init", init, ("gaussian", "kaiming"))
        options = {"rank_scaling": rank_scaling, "dtype": dtype, "rng": rng, "layer_name": layer_name}
        self._set_up(inner, outer, rank, alpha, activation, **options)
        shape = (inner, rank)
        if init == "gaussian":
            a = self.rng.normal(0.0, math.sqrt(1 / rank), shape)
        else:
            a = self.rng.uniform(-math.sqrt(1 / inner), math.sqrt(1 / inner), shape)
        self.add_parameter("A", a)
        self.add_parameter("B", np.zeros((rank, outer)))
        if bias:
            self.add_parameter("bias", np.zeros(outer))

    def _set_up(self, inner: int, outer: int, rank: int, alpha: float, activation: Activation, **options: Any) -> None:
        """All but the matrices; ``options`` are those of every Layer."""
        self.activation, self._activate = activation_of(activation)
        super().__init__(rank, alpha, input_shape=(inner,), output_shape=(outer,), **options)

    @classmethod
    def from_matrices(cls, A: npt.ArrayLike, B: npt.ArrayLike, alpha: float = -1) -> Self:
        """A layer with these matrices, of any rank and in their dtype (anything but float64 becomes float32)."""
        dtype = np.dtype(np.float64 if np.result_type(np.asarray(A), np.asarray(B)) == np.float64 else np.float32)
        a, b = checks.numeric("A", A, dtype), checks.numeric("B", B, dtype)
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or 0 in (*a.shape, *b.shape):
            raise ValueError(f"A [in, rank] and B [rank, out] must share a rank, got {a.shape} and {b.shape}")
        layer = cls.__new__(cls)
        layer._set_up(a.shape[0], b.shape[1], a.shape[1], alpha, None, dtype=dtype)
        layer.add_parameter("A", a)
        layer.add_parameter("B", b)
        return layer

    def product(self, x: Value, a: Value, b: Value) -> Value:
        # numbers of rows stand for the vectors that are 1 there and 0 elsewhere
        return (x @ a if x.type.is_float else gather(a, x, 0)) @ b

    def ranked(self, rank: Dim) -> dict[str, Shape]:
        return {"A": (*self.input_shape, rank), "B": (rank, *self.output_shape)}

    def matrix(self, a: Value, b: Value) -> Value:
        return a @ b

    def cut(self, a: Value, b: Value, rank: int) -> tuple[Value, Value]:
        return a[:, :rank], b[:rank]

    def masks(self, within: Value) -> tuple[Value, Value]:
        return unsqueeze(within, 0), unsqueeze(within, 1)

    def build(self, ctx: Context, x: Value) -> Value:
        y: Value = self._activate(super().build(ctx, x))
        return y

    def merge_weights(self) -> Array:
        """The weight change s · A B ``[in, out]``; MergeError with a nonlinear activation."""
        if self._activate is not identity:
            raise MergeError(f"{self.layer_name} ends in {self.activation}: it is no product with one matrix")
        if "bias" in self.own:
            raise MergeError(f"{self.layer_name} adds a bias: it is no product with one matrix")
        product: Array = self.dtype.type(self.scaling) * (self.slot("A").array @ self.slot("B").array)
        return product

    def get_diagnostics(self) -> dict[str, str]:
        return {**super().get_diagnostics(), "activation": self.activation}


def rank_limit(in_features: int, out_features: int, label: str = "") -> tuple[int, str]:
    """The width that a rank must stay below, and what it is the width of: the weight called ``label``."""
    return min(in_features, out_features), f"{label or 'a weight'} [{in_features}, {out_features}]"
