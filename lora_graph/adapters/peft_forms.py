"""Branches of adapters in the tensors that PEFT has for them; see :mod:`lora_graph.adapters.pretrained`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_graph.adapters.adapter import Adapter
from lora_graph.adapters.convolution import LoRAConvolution
from lora_graph.adapters.dora import DoRAAdapter
from lora_graph.adapters.kronecker import KroneckerLayer
from lora_graph.adapters.lora_layer import LoRALayer
from lora_graph.adapters.site import Site
from lora_graph.ir.types import Array
from lora_graph.layers.layer import Layer


@dataclass(frozen=True)
class Written:
    """The tensors of one module, by the ends of their names, and what the config has to say of their scale α/r."""

    tensors: dict[str, Array]
    rank: int
    alpha: float


def written(adapter: Adapter, site: Site, branch: Layer) -> Written:
    """What stands for ``branch``; ValueError naming the weight where PEFT has nothing that does."""
    if isinstance(branch, KroneckerLayer):
        return _kronecker(branch)
    is_recurrent = site.changes_weight and not site.kernel and not site.is_lookup
    if adapter.family not in ("lora", "dora") or is_recurrent:
        raise ValueError(f"PEFT has no {adapter.family} adapter that could stand at {site.label}")
    if isinstance(branch, LoRALayer):
        a, b = (branch.get_parameter(name).T for name in "AB")
        names = ("lora_embedding_A", "lora_embedding_B") if site.is_lookup else ("lora_A.weight", "lora_B.weight")
    elif isinstance(branch, LoRAConvolution):
        a, b = _dense(branch)
        names = ("lora_A.weight", "lora_B.weight")
    else:
        raise ValueError(f"PEFT has no LoRA with a core between its matrices, as {site.label} has it")
    tensors = dict(zip(names, (a, b), strict=True))
    if "bias" in branch.own:
        tensors["lora_B.bias"] = branch.get_parameter("bias")
    if isinstance(adapter, DoRAAdapter):
        tensors["lora_magnitude_vector"] = _magnitude(adapter, site, branch)
    return Written(tensors, len(a), branch.scaling * len(a))


def _dense(branch: LoRAConvolution) -> tuple[Array, Array]:
    """A over all input channels: in a grouped pair, each group's rows are zero outside of its channels."""
    a, b = branch.get_parameter("A"), branch.get_parameter("B")
    groups = branch.geometry.op.group
    if groups == 1 or branch.is_dense:
        return a, b
    rank, inner = len(a) // groups, a.shape[1]
    wide = np.zeros((len(a), inner * groups, *a.shape[2:]), a.dtype)
    for group in range(groups):
        rows = slice(group * rank, (group + 1) * rank)
        wide[rows, group * inner : (group + 1) * inner] = a[rows]
    return wide, b


def _magnitude(adapter: DoRAAdapter, site: Site, branch: Layer) -> Array:
    grouped = site.geometry is not None and site.geometry.op.group > 1
    if adapter.norm != "output" or grouped:
        what = "in groups" if grouped else "with a norm for each input"
        raise ValueError(f"PEFT has no DoRA {what}, as {site.label} has it")
    magnitude = branch.get_parameter("magnitude")
    return magnitude if not site.kernel else magnitude.reshape(1, -1, *(1,) * len(site.kernel))


def _kronecker(branch: KroneckerLayer) -> Written:
    """The rank that tells PEFT to have the factors in these parts."""
    (m, n), (p, q) = branch.form.factors
    rank = max(branch.form.ranks) or -(-max(m, n, p, q) // 2)
    tensors: dict[str, Array] = {}
    for name, ours in (("lokr_w1", "A"), ("lokr_w2", "B")):
        if ours in branch.own:
            tensors[name] = branch.get_parameter(ours)
        elif f"{ours}_core" in branch.own:
            tensors["lokr_t2"] = branch.get_parameter(f"{ours}_core")
            tensors[f"{name}_a"] = branch.get_parameter(f"{ours}_left").T
            tensors[f"{name}_b"] = branch.get_parameter(f"{ours}_right")
        else:
            tensors[f"{name}_a"] = branch.get_parameter(f"{ours}_left")
            tensors[f"{name}_b"] = branch.get_parameter(f"{ours}_right").reshape(rank, -1)
    return Written(tensors, rank, branch.scaling * rank)


# -- LoKr's options ---------------------------------------------------------------------------------------------------


def kronecker_options(adapter: Adapter) -> dict[str, Any]:
    """The options with which PEFT comes to the same factors, and parts of these, at every weight.

    ValueError where no options do: PEFT finds the factors itself.
    """
    layers = [branch for branch in adapter.branches.values() if isinstance(branch, KroneckerLayer)]
    both = any(layer.form.ranks[0] for layer in layers)
    tucker = any(layer.form.is_tucker for layer in layers)
    largest = max(size for layer in layers for pair in layer.form.factors for size in pair)
    for bound in (-1, *range(1, largest + 1)):
        if all(_is_found(layer, bound, both, tucker) for layer in layers):
            return {"decompose_factor": bound, "decompose_both": both, "use_effective_conv2d": tucker}
    raise ValueError(
        "PEFT's LoKr chooses the factors of each width, and in no way these: "
        + ", ".join(f"{site.label} {layer.form.factors}" for site, layer in zip(adapter.sites, layers, strict=True))
    )


def _is_found(layer: KroneckerLayer, bound: int, both: bool, tucker: bool) -> bool:
    """Whether PEFT comes to this form with ``bound`` as its decompose_factor."""
    ((m, n), (p, q)), (first, second) = layer.form.factors, layer.form.ranks
    rank = _kronecker(layer).rank
    has_window = any(size > 1 for size in layer.b.kernel)
    return (
        (m, p) == factorization(m * p, bound)
        and (n, q) == factorization(n * q, bound)
        and bool(first) == (both and rank < max(m, n) / 2)
        and bool(second) == (rank < max(p, q) / 2)
        and layer.form.is_tucker == (tucker and has_window and bool(second))
        and {first, second} <= {0, rank}
    )


def factorization(size: int, bound: int) -> tuple[int, int]:
    """The two factors that PEFT has for a width: ``bound`` and the rest, or the nearest below both √size and it."""
    if bound > 0 and size % bound == 0:
        return bound, size // bound
    first = max(d for d in range(1, int(size**0.5) + 1) if size % d == 0 and (bound == -1 or d <= bound))
    return first, size // first
