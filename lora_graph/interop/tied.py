"""Weights that a model uses in two ways, as an embedding and as the matrix of its head, made two that are equal.

An adapter stands at one of the two: PEFT, too, leaves the other as it is.
"""

from __future__ import annotations

from lora_graph.adapters.site import Site, Use, uses
from lora_graph.interop.surgery import rebuilt
from lora_graph.ir.graph import replace
from lora_graph.ir.leaves import Parameter, parameter
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value, apply
from lora_graph.layers.imported import ImportedLayer
from lora_graph.layers.layer import Layer


def untied(model: Layer) -> Layer:
    """``model`` with a parameter of its own, of the same array, for each further way a weight is used in."""
    if not isinstance(model, ImportedLayer):
        return model
    state = model.state
    ways: dict[str, list[Site]] = {}
    added: dict[str, Array] = {}
    for value in model.to_graph().values:
        for use in uses(value):
            known = ways.setdefault(_label(use), [])
            if (site := use.site(True)) not in known:
                known.append(site)
                if len(known) > 1:
                    added[_own(use, known)] = state[_label(use)]
    if not added:
        return model

    def parted(value: Value, operands: list[Value]) -> Value | None:
        changed = list(operands)
        for use in uses(value):
            name = _own(use, ways[_label(use)])
            if name in added:
                own = parameter(name, use.weight.dtype, use.weight.shape)
                changed[use.position] = replace([operands[use.position]], {use.weight: own})[0]
        return apply(value.op, *changed) if changed != operands else None

    return rebuilt(model, parted, added)


def _label(use: Use) -> str:
    assert isinstance(use.weight.op, Parameter)
    return use.weight.op.label


def _own(use: Use, ways: list[Site]) -> str:
    """What the parameter is called for this use; the first way keeps the name."""
    number = ways.index(use.site(True))
    return f"{_label(use)}_tied{number}" if number else _label(use)
