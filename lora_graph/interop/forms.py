"""The tensors of one module as an adapter family has them: the family, the form in it, the arrays of its branch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lora_graph.adapters.site import Site
from lora_graph.interop.modules import Weight
from lora_graph.interop.tensors import Tensors
from lora_graph.ir.types import Array, show

Scale = Callable[[int], float]
"""s by rank."""


@dataclass(frozen=True)
class Form:
    """What a file has for one module."""

    family: str
    kinds: tuple[str, ...]
    shape: tuple[int, ...]
    """That of the weight change as the module has it: ``[out, in, *kernel]``, or ``[rows, features]``."""
    rank: int
    scale: float
    arrays: Mapping[str, Array]
    """By the name of the branch's parameter."""
    tensors: Tensors
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that an adapter has for all of its weights."""

    def fits(self, weight: Weight) -> bool:
        """Whether the weight has this shape; the change of a grouped convolution is dense over the input channels."""
        out, inner, *kernel = self.shape
        groups = groups_of(weight.target.site)
        return inner % groups == 0 and weight.shape == (out, inner // groups, *kernel)

    def at(self, weight: Weight) -> Mapping[str, Array]:
        """The arrays as a branch at this weight has them."""
        return self.arrays

    @property
    def described(self) -> str:
        """The family, and what is more than a pair of matrices."""
        return " + ".join(
            [self.family, *sorted(self.arrays.keys() & {"mid", "bias", "B_core"}), *self.options.values()]
        )

    def __str__(self) -> str:
        return f"a change {show(self.shape)} by {', '.join(self.tensors.names)}"


def groups_of(site: Site) -> int:
    return 1 if site.geometry is None else site.geometry.op.group


@dataclass(frozen=True)
class Names:
    """What a library calls the tensors of a low-rank pair."""

    down: str
    up: str
    mid: str = ""
    bias: str = ""
    magnitude: str = ""
    norms: Callable[[int, int, tuple[int, ...]], Mapping[tuple[int, ...], str]] = lambda out, inner, ones: {}
    """By the shape that magnitudes may have for these outputs, inputs and axes of a kernel: what each is the norm of,
    ``"output"`` or ``"input"``."""

    @property
    def known(self) -> tuple[str, ...]:
        return tuple(name for name in (self.down, self.up, self.mid, self.bias, self.magnitude) if name)


def low_rank(tensors: Tensors, names: Names, scale: Scale) -> Form:
    """ΔW = s · up @ down beside a product or a convolution, with all that may come with it."""
    down = tensors[names.down]
    form = linear(tensors, names, scale) if down.ndim <= 2 else convolution(tensors, names, scale)
    if names.bias in tensors:
        bias = tensors.require(names.bias, form.shape[0])
        form = replace(form, arrays={**form.arrays, "bias": bias})
    return decomposed(form, names)


def linear(tensors: Tensors, names: Names, scale: Scale) -> Form:
    """ΔW ``[out, in]`` = s · up @ down, with ``down`` ``[r, in]`` and ``up`` ``[out, r]``."""
    a = tensors.require(names.down, None, None)
    b = tensors.require(names.up, None, len(a))
    return Form("lora", ("linear",), (len(b), a.shape[1]), len(a), scale(len(a)), {"A": a.T, "B": b.T}, tensors)


def embedding(tensors: Tensors, names: Names, scale: Scale) -> Form:
    """ΔW ``[rows, features]`` = s · (up @ down)ᵀ, with ``down`` ``[r, rows]`` and ``up`` ``[features, r]``."""
    form = linear(tensors, names, scale)
    return decomposed(replace(form, kinds=("embedding",), shape=form.shape[::-1]), names)


def convolution(tensors: Tensors, names: Names, scale: Scale) -> Form:
    """ΔW ``[out, in, *kernel]`` = s · up @ down over the first axes, with ``down`` ``[r, in, *kernel]``, ``up``
    ``[out, r, 1, …]``; or ``down`` ``[r, in, 1, …]`` and ``mid`` ``[r, r, *kernel]`` in between.

    ``up`` may lack the axes of the kernel, and in a grouped convolution has ``[out, r/g, 1, …]``.
    """
    down = tensors[names.down]
    a = tensors.require(names.down, *(None,) * down.ndim)
    rank, inner, *kernel = a.shape
    arrays = {"A": a}
    if names.mid in tensors:
        tensors.require(names.down, rank, inner, *(1,) * len(kernel))
        arrays["mid"] = tensors.require(names.mid, rank, rank, *(None,) * len(kernel))
        kernel = list(arrays["mid"].shape[2:])
    up = tensors[names.up]
    b = tensors.require(names.up, None, None, *(1,) * (len(kernel) if up.ndim != 2 else 0))
    if rank % b.shape[1]:
        raise tensors.error(names.up, f"has shape {list(b.shape)}, which {rank} components do not go into")
    arrays["B"] = b.reshape(*b.shape[:2], *(1,) * len(kernel))
    shape = (len(b), inner, *kernel)
    return Form("lora", ("convolution",), shape, rank, scale(rank), arrays, tensors)


def decomposed(form: Form, names: Names) -> Form:
    """DoRA where there are magnitudes: one for each output of the changed weight, or for each input."""
    if names.magnitude not in form.tensors:
        return form
    if "bias" in form.arrays:
        raise form.tensors.error(names.bias, f"cannot be honoured beside {names.magnitude}")
    first, second, *kernel = form.shape
    out, inner = (second, first) if form.kinds == ("embedding",) else (first, second)
    norms = names.norms(out, inner, (1,) * len(kernel))
    array = form.tensors[names.magnitude]
    if array.shape not in norms:
        wanted = " or ".join(map(show, norms))
        raise form.tensors.error(names.magnitude, f"has shape {show(array.shape)}, wanted {wanted}")
    arrays = {**form.arrays, "magnitude": array.reshape(-1)}
    return replace(form, family="dora", arrays=arrays, options={"norm": norms[array.shape]})
