"""LoKr as PEFT and LyCORIS have it: ΔW = s · w1 ⊗ w2, each factor whole or in parts, in the tensors of one module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lora_graph.interop.forms import Form, Scale
from lora_graph.interop.modules import Weight
from lora_graph.interop.tensors import Tensors
from lora_graph.ir.types import Array

W1, W2 = ("lokr_w1", "lokr_w1_a", "lokr_w1_b"), ("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
NAMES = (*W1, *W2)


@dataclass(frozen=True)
class KroneckerForm(Form):
    """``shape`` is ``[out, inputs · window]``: the file may have w2 with the kernel's axes as one."""

    def fits(self, weight: Weight) -> bool:
        out, width = self.shape
        inner, kernel = weight.shape[1], weight.shape[2:]
        columns = self.columns(kernel)
        return len(weight.shape) > 1 and weight.shape[0] == out and inner * math.prod(kernel) == width and columns > 0

    def columns(self, kernel: tuple[int, ...]) -> int:
        """q of w2 ``[p, q, *kernel]``, or 0 where such a kernel does not fit."""
        core = self.arrays.get("B_core")
        right = self.arrays["B"] if "B" in self.arrays else self.arrays["B_right"]
        if core is not None:
            return right.shape[1] if core.shape[2:] == kernel else 0
        if right.ndim > 2:
            return right.shape[1] if right.shape[2:] == kernel else 0
        columns, rest = divmod(right.shape[1], math.prod(kernel))
        return 0 if rest else columns

    def at(self, weight: Weight) -> Mapping[str, Array]:
        if "B_core" in self.arrays:
            return self.arrays
        kernel = weight.shape[2:]
        name = "B" if "B" in self.arrays else "B_right"
        array = self.arrays[name]
        return {**self.arrays, name: array.reshape(len(array), self.columns(kernel), *kernel)}


def kronecker(tensors: Tensors, default: int, scale: Scale, *, whole_scale: float | None = None) -> Form:
    """ΔW = s · w1 ⊗ w2, where s is that of the rank of a factor in parts.

    Where both are whole the rank is ``default``, and s is ``whole_scale`` if that is given.
    """
    first, second = _factor(tensors, "A", *W1), _factor(tensors, "B", *W2)
    rank = next((len(part[name]) for part in (second, first) for name in part if name.endswith("_right")), 0)
    rows, columns = zip(_extent(first, "A"), _extent(second, "B"), strict=True)
    s = whole_scale if whole_scale is not None and not rank else scale(rank or default)
    shape, arrays = (math.prod(rows), math.prod(columns)), {**first, **second}
    return KroneckerForm("lokr", ("linear", "convolution"), shape, rank or default, s, arrays, tensors)


def _factor(tensors: Tensors, name: str, whole: str, left: str, right: str, core: str = "") -> dict[str, Array]:
    """One factor by the names of our parameters, with LoKr's parts the way round that ours are."""
    if whole in tensors:
        other = next((part for part in (left, right, core) if part in tensors), None)
        if other is not None:
            raise tensors.error(other, f"cannot stand beside {whole}")
        array = tensors[whole]
        return {name: tensors.require(whole, *(None,) * max(array.ndim, 2))}
    if core in tensors:
        t = tensors[core]
        rank = len(tensors.require(core, *(None,) * max(t.ndim, 3)))
        tensors.require(core, rank, rank, *t.shape[2:])
        a, b = tensors.require(left, rank, None), tensors.require(right, rank, None)
        return {f"{name}_left": a.T, f"{name}_core": t, f"{name}_right": b}
    a = tensors.require(left, None, None)
    return {f"{name}_left": a, f"{name}_right": tensors.require(right, a.shape[1], None)}


def _extent(factor: Mapping[str, Array], name: str) -> tuple[int, int]:
    """Rows, and columns with the axes of a kernel."""
    if name in factor:
        return len(factor[name]), math.prod(factor[name].shape[1:])
    window = math.prod(factor[f"{name}_core"].shape[2:]) if f"{name}_core" in factor else 1
    return len(factor[f"{name}_left"]), math.prod(factor[f"{name}_right"].shape[1:]) * window
