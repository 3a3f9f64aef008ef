"""Parameters that several modules use although each had its own: the TorchScript exporter keeps equal arrays once.

What a file says of one of these modules is not true of the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from lora_graph.adapters.site import uses
from lora_graph.interop.surgery import rebuilt
from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.leaves import Parameter, parameter
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value, apply
from lora_graph.layers.imported import ImportedLayer
from lora_graph.layers.layer import Layer
from lora_graph.ops.arithmetic import Add
from lora_graph.ops.convolution import Conv
from lora_graph.ops.normalization import LayerNormalization
from lora_graph.ops.shape import Reshape, Transpose, Unsqueeze

OWN, SHARED = "_own", "_shared"


def scopes_of(graph: Graph) -> dict[str, set[str]]:
    """The modules that use each parameter."""
    found: dict[str, set[str]] = {}
    for value in graph.values:
        for _, leaf, _ in _parameters(value):
            assert isinstance(leaf.op, Parameter)
            found.setdefault(leaf.op.label, set()).add(_scope(graph, value))
    return found


def separated(model: Layer, wanted: Collection[str]) -> Layer:
    """``model`` in which no other module uses what is called one of ``wanted``, such as ``fc1.bias``.

    It keeps its name if that is its own; else it gets one after its module.
    """
    if not isinstance(model, ImportedLayer):
        return model
    graph, state = model.to_graph(), model.state
    several = {label for label, scopes in scopes_of(graph).items() if len(scopes) > 1}
    names: dict[tuple[str, str], str] = {}
    for value in graph.values:
        scope = _scope(graph, value)
        for _, leaf, role in _parameters(value):
            assert isinstance(leaf.op, Parameter)
            label = leaf.op.label
            if label in several and scope and is_wanted(f"{scope}.{role}", wanted):
                names[label, scope] = f"{scope}.{role}{OWN if any(uses(value)) and role == 'weight' else ''}"
    kept = {label for label, scope in names if label == names[label, scope]}
    added: dict[str, Array] = {}

    def parted(value: Value, operands: list[Value]) -> Value | None:
        changed = list(operands)
        for position, leaf, _ in _parameters(value):
            assert isinstance(leaf.op, Parameter)
            label = leaf.op.label
            name = names.get((label, _scope(graph, value)), f"{label}{SHARED}" if label in kept else label)
            if name != label:
                added[name] = state[label]
                own = parameter(name, leaf.dtype, leaf.shape)
                changed[position] = replace([operands[position]], {leaf: own})[0]
        return apply(value.op, *changed) if changed != operands else None

    return rebuilt(model, parted, added) if names else model


def _scope(graph: Graph, value: Value) -> str:
    note = graph.notes.get(value)
    return note.scope if note else ""


def is_wanted(name: str, wanted: Collection[str]) -> bool:
    """Whether ``name`` is one of ``wanted``, or ends in one."""
    return any(name == one or name.endswith(f".{one}") for one in wanted)


def _parameters(value: Value) -> Iterator[tuple[int, Value, str]]:
    """The operands of a Value that are parameters up to their shape, and what the module calls each."""
    if isinstance(value.op, Reshape | Transpose | Unsqueeze):
        return
    weights = {use.position for use in uses(value)}
    for position, operand in enumerate(value.operands):
        leaf = operand
        while isinstance(leaf.op, Reshape | Transpose | Unsqueeze):
            leaf = leaf.operands[0]
        if isinstance(leaf.op, Parameter):
            yield position, leaf, "weight" if position in weights else _ROLES.get((type(value.op), position), "")


_ROLES: Mapping[tuple[type, int], str] = {
    (Add, 0): "bias",
    (Add, 1): "bias",
    (Conv, 2): "bias",
    (LayerNormalization, 1): "weight",
    (LayerNormalization, 2): "bias",
}
