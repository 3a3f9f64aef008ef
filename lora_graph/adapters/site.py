"""Where an adapter attaches: beside a whole layer, or at each linear weight inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import show
from lora_graph.ir.value import Value, apply, topological
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context
from lora_graph.ops.arithmetic import Add
from lora_graph.ops.linalg import MatMul
from lora_graph.ops.shape import Transpose


@dataclass(frozen=True)
class Site:
    """One place for a branch: the widths it maps between and, inside a layer, the weight it stands beside."""

    in_features: int
    out_features: int
    owner: Layer | None = None
    weight: str = ""
    label: str = ""
    transposed: bool = False
    """Whether the weight is used as Wᵀ."""


def output_site(base: Layer) -> Site:
    """Beside ``base`` as a whole: from its last input axis to its last output axis, the axes before being the same."""
    match base.input_shape, base.output_shape:
        case (*before, int(inner)), (*after, int(outer)) if before == after:
            return Site(inner, outer)
    raise ValueError(
        f"site='output' needs a layer that maps features to features, "
        f"but {base.layer_name} maps {show(base.input_shape)} to {show(base.output_shape)}"
    )


def weight_uses(base: Layer) -> list[Site]:
    """Every product x W or x Wᵀ with a parameter of ``base``, in order of use; those inside adapters do not count."""
    places = base.places()
    inside = {layer for owner in places for branch in owner.branches.values() for layer in branch.places()}
    owners = {p.label(name): (layer, name) for layer, p in places.items() if layer not in inside for name in layer.own}
    found = []
    for value in base.to_graph().values:
        weight = weight_of(value)
        if weight is not None and isinstance(weight.op, Parameter) and weight.op.label in owners:
            label = weight.op.label
            match value.operands[1].shape:
                case (int(inner), int(outer)):
                    found.append(Site(inner, outer, *owners[label], label, weight is not value.operands[1]))
    return found


def weight_sites(base: Layer) -> list[Site]:
    """Every matrix parameter that ``base`` multiplies by, in order of use; ValueError for one used as W and as Wᵀ."""
    found: dict[str, Site] = {}
    for site in weight_uses(base):
        if found.setdefault(site.label, site) != site:
            raise ValueError(f"site='weight': {base.layer_name} uses {site.label} both as it is and transposed")
    return list(found.values())


def weight_of(value: Value) -> Value | None:
    """The parameter W of x W or x Wᵀ, if ``value`` is such a product."""
    if not isinstance(value.op, MatMul) or value.operands[1].rank != 2:
        return None
    factor = value.operands[1]
    if isinstance(factor.op, Transpose):
        factor = factor.operands[0]
    return factor if isinstance(factor.op, Parameter) else None


def is_affine(graph: Graph) -> bool:
    """Whether the output is x W + b, so that a bypass beside it can go into the weight."""
    y = graph.outputs["y"]
    if isinstance(y.op, Add):
        y = next((operand for operand in y.operands if isinstance(operand.op, MatMul)), y)
    return weight_of(y) is not None and y.operands[0] in graph.inputs


def inject(ctx: Context, x: Value, y: Value, deltas: Mapping[Value, Callable[[Value], Value]]) -> Value:
    """``y`` as computed from ``x``, with every product h W of a weight in ``deltas`` replaced by h W + delta(h).

    What ``x`` itself was computed from stays as it is, whichever weights are used there.
    """
    new: dict[Value, Value] = {x: x}
    for value in topological([y], stop=new.__contains__):
        operands = tuple(new[operand] for operand in value.operands)
        built = value if operands == value.operands else apply(value.op, *operands)
        weight = weight_of(value)
        if weight is not None and weight in deltas:
            built = built + deltas[weight](operands[0])
        ctx.carry(value, built)
        new[value] = built
    return new[y]
