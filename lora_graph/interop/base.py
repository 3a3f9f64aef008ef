"""New values for parameters of the base, which a file has beside its adapters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_graph.adapters.adapted import AdaptedModel
from lora_graph.errors import LoadError
from lora_graph.interop.batchnorm import is_folded
from lora_graph.interop.modules import KINDS, Modules, Weight, parameter_of
from lora_graph.interop.report import ModuleReport
from lora_graph.interop.separate import scopes_of
from lora_graph.ir.types import Array, show


@dataclass(frozen=True)
class _Found:
    """The parameter that a name stands for, the array as that lies, and how it was found."""

    label: str
    array: Array
    ways: tuple[str, ...]


def replace_base(
    adapted: AdaptedModel,
    path: Path,
    modules: Modules,
    given: Mapping[str, tuple[str, Array]],
    own: Collection[str] = (),
) -> list[ModuleReport]:
    """Put the arrays ``given``, by parameter with the names of their tensors, into the base, where they train.

    Where an embedding and the product with its transpose hold the same numbers, both change, unless the module is one
    of ``own``, those that got parameters of their own. What has the values it had is left as it is.
    """
    state = adapted.base.state
    folded, scopes = _folded(modules), scopes_of(adapted.base.to_graph())
    changed: dict[str, Array] = {}
    reports = []
    for name, (tensor, array) in given.items():
        found = _locate(name, array, modules, state)
        if found is None:
            raise LoadError(f"{path}: {tensor} has no place in the model: it has no parameter of that name")
        if len(scopes.get(found.label, ())) > 1:
            raise LoadError(f"{path}: {tensor} cannot replace {found.label}, which is in several modules' use")
        if found.label in folded:
            raise LoadError(f"{path}: {tensor} cannot replace {found.label}, into which a BatchNorm was folded")
        old = state[found.label]
        if found.array.shape != old.shape:
            raise LoadError(f"{path}: {tensor} has shape {show(array.shape)}, but {found.label} has {show(old.shape)}")
        is_new = not np.array_equal(found.array, old)
        if is_new:
            module, _, _ = name.rpartition(".")
            is_own = any(module == item or module.endswith(f".{item}") for item in own)
            changed[found.label] = np.array(found.array, order="C")
            changed.update({} if is_own else _tied(modules, found))
        note = "" if is_new else "as it is"
        reports.append(ModuleReport(name, found.label, old.shape, "", "base", None, None, found.ways, note))
    adapted.replace_base(changed, trainable=True)
    return reports


def _locate(name: str, array: Array, modules: Modules, state: Mapping[str, Array]) -> _Found | None:
    """By the module's weight, as the scope of its node says it best; else by the parameter's name."""
    module, _, parameter = name.rpartition(".")
    hits = modules.hits(module, KINDS) if parameter in ("weight", "bias") else []
    scoped = [hit for hit in hits if "scope" in hit.ways]
    named = parameter_of(state, name)
    if len(scoped) == 1 and parameter == "weight":
        weight, ways = scoped[0].weight, scoped[0].ways
        # a parameter that kept its name kept its layout
        return _Found(weight.name, array if weight.name == named else weight.in_layout(array), ways)
    if named:
        return _Found(named, array, ("name",))
    if len(scoped) == 1 and scoped[0].weight.bias and parameter == "bias":
        return _Found(scoped[0].weight.bias, array, scoped[0].ways)
    return None


def _folded(modules: Modules) -> set[str]:
    """The parameters that no longer are what their modules had."""
    changed = [weight for weight in modules.weights if is_folded(weight)]
    return {label for weight in changed for label in (weight.name, weight.bias) if label}


def _tied(modules: Modules, found: _Found) -> dict[str, Array]:
    """The new values of those weights that hold what ``found`` does, one as an embedding and one as a product."""
    weights = {weight.name: weight for weight in modules.weights}
    ours = weights.get(found.label)
    if ours is None:
        return {}
    return {
        other.name: np.array(_as(other, ours, found.array), order="C")
        for other in modules.weights
        if {other.target.kind, ours.target.kind} == {"embedding", "linear"}
        and np.array_equal(_as(other, ours, ours.array), other.array)
    }


def _as(other: Weight, ours: Weight, array: Array) -> Array:
    """The array of one weight as another lies that holds the same numbers."""
    return other.in_layout(ours.in_layout(array))
