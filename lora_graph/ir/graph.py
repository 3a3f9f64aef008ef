"""Graphs: named inputs and outputs over Values, with a side table of what is not part of a Value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from lora_graph.display import Shown
from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.op import Op
from lora_graph.ir.types import Assumption, TensorType, assumptions
from lora_graph.ir.value import Value, apply, topological


@dataclass(frozen=True)
class Note:
    """What a graph remembers of a Value: a readable name, the module it belongs to, the rules that made it."""

    name: str = ""
    scope: str = ""
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Graph(Shown):
    """A pure function of its inputs and of a state: ``outputs`` and every Value they depend on.

    ``inputs`` is kept in order and may name inputs that no output uses. ``notes`` is the side table. A graph owns no
    weights: a Parameter names an array of the state, a plain dict.
    """

    inputs: tuple[Value, ...]
    outputs: Mapping[str, Value]
    notes: Mapping[Value, Note] = field(default_factory=dict)
    name: str = "graph"

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", dict(self.outputs))

    def __eq__(self, other: object) -> bool:
        """Same interface and the very same Values; names inside and provenance do not count."""
        if not isinstance(other, Graph):
            return NotImplemented
        return self.inputs == other.inputs and list(self.outputs.items()) == list(other.outputs.items())

    def __hash__(self) -> int:
        return hash((self.inputs, tuple(self.outputs.items())))

    def __deepcopy__(self, memo: dict[int, object]) -> Graph:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        from lora_graph.ir.text import parse, print_graph

        return parse, (print_graph(self),)

    def __str__(self) -> str:
        from lora_graph.ir.text import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self)} values, {', '.join(self.input_names)} -> {', '.join(self.outputs)}>"

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """Every Value of the graph, operands before users."""
        return tuple(topological([*self.inputs, *self.outputs.values()]))

    @cached_property
    def users(self) -> dict[Value, int]:
        """How often each Value is an operand or an output."""
        count = dict.fromkeys(self.values, 0)
        for value in self.values:
            for operand in value.operands:
                count[operand] += 1
        for value in self.outputs.values():
            count[value] += 1
        return count

    @property
    def input_names(self) -> list[str]:
        return [leaf.op.label for leaf in self.inputs if isinstance(leaf.op, Input)]

    @cached_property
    def parameters(self) -> dict[str, Value]:
        """The Parameters that some output depends on, by name."""
        return {value.op.label: value for value in self.values if isinstance(value.op, Parameter)}

    @cached_property
    def trainable(self) -> dict[str, Value]:
        """Those of the Parameters that train."""
        return {n: v for n, v in self.parameters.items() if isinstance(v.op, Parameter) and v.op.trainable}

    @cached_property
    def dim_names(self) -> list[str]:
        """The named dimensions of the inputs, in order of appearance."""
        return list(dict.fromkeys(n for leaf in self.inputs for d in leaf.shape for n in dims.names(d)))

    @cached_property
    def assumptions(self) -> list[Assumption]:
        """Pairs of dimensions that have to turn out equal when the names get sizes."""
        with assumptions() as collected:
            for value in self.values:
                if value.operands:
                    value.op.infer(*[operand.result_type for operand in value.operands])
        return list(dict.fromkeys(collected))

    def op_counts(self) -> dict[str, int]:
        """How many Values there are of each op, leaves left out, most frequent first."""
        counts: dict[str, int] = {}
        for value in self.values:
            if value.operands:
                counts[value.op.name] = counts.get(value.op.name, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def with_outputs(self, outputs: Mapping[str, Value], notes: Mapping[Value, Note] | None = None) -> Graph:
        """The graph with other outputs. It keeps its notes, or gets those of ``notes`` whose Values are in it."""
        if notes is None:
            return Graph(self.inputs, outputs, self.notes, self.name)
        kept: dict[Value, Note] = {}
        new = Graph(self.inputs, outputs, kept, self.name)
        kept.update({value: notes[value] for value in new.values if value in notes})
        return new


def replace(
    outputs: Iterable[Value], mapping: Mapping[Value, Value], binding: Mapping[str, Dim] | None = None
) -> list[Value]:
    """``outputs`` with Values exchanged as ``mapping`` says; what depends on them is built again.

    Where ``binding`` is given, the dimensions it names get their new size in every attribute.
    """
    new = dict(mapping)
    targets = list(outputs)
    for value in topological(targets, stop=new.__contains__):
        op = substitute_dims(value.op, binding) if binding else value.op
        operands = tuple(new[operand] for operand in value.operands)
        new[value] = value if operands == value.operands and op is value.op else apply(op, *operands)
    return [new[value] for value in targets]


def substitute_dims(op: Op, binding: Mapping[str, Dim]) -> Op:
    """``op`` with the named dimensions in its attributes replaced."""
    old = op.attributes().values()
    new = [_substitute(attribute, binding) for attribute in old]
    return op if all(a is b for a, b in zip(old, new, strict=True)) else type(op)(*new)


def _substitute(attribute: object, binding: Mapping[str, Dim]) -> object:
    if isinstance(attribute, dims.SymbolicDim):
        return dims.substitute(attribute, binding)
    if isinstance(attribute, TensorType):
        new = attribute.substitute(binding)
        return attribute if new == attribute else new
    if isinstance(attribute, Graph):
        values = [*attribute.inputs, *attribute.outputs.values()]
        renewed = replace(values, {}, binding)
        if renewed == values:
            return attribute
        inputs, outputs = renewed[: len(attribute.inputs)], renewed[len(attribute.inputs) :]
        return Graph(tuple(inputs), dict(zip(attribute.outputs, outputs, strict=True)), name=attribute.name)
    if isinstance(attribute, tuple):
        items = tuple(_substitute(item, binding) for item in attribute)
        return attribute if all(a is b or a == b for a, b in zip(items, attribute, strict=True)) else items
    return attribute
