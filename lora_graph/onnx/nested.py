"""Lowering the body of a loop, inside the walk that lowers the graph around it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from lora_graph.ir.dims import Shape
from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.leaves import Input
from lora_graph.ir.value import Value
from lora_graph.onnx.lowering import GraphLowering


class BodyLowering(GraphLowering):
    """Walks the body of an op. Names, constants and sizes are those of the graph around it, ``outer``."""

    def __init__(self, outer: GraphLowering, body: Graph) -> None:
        super().__init__(body, {}, outer.opset)
        self._names, self._dimensions = outer._names, outer._dimensions
        self._constants, self._initializers = outer._constants, outer._initializers
        self._values, self._types, self._results = outer._values, outer._types, outer._results
        self._domains = outer._domains
        self._claims = {}
        self._note = Note(scope=outer._note.scope)

    def run_inside(self, captured: Sequence[str]) -> ir.Graph:
        """The body as a graph whose last inputs are the values called ``captured`` outside."""
        graph = self._graph
        cut = len(graph.inputs) - len(captured)
        for leaf in graph.inputs[:cut]:
            self._declare(leaf)
        self._handles.update(zip(graph.inputs[cut:], captured, strict=True))
        for value in graph.values:
            if value not in self._handles:
                self._lower(value)
        outputs: list[ir.Value] = []
        for name, value in graph.outputs.items():
            outputs.append(self._result(name, value, outputs))
        return ir.Graph(self._inputs, outputs, nodes=self._nodes, name=self._names.new(graph.name))

    def _declare(self, leaf: Value) -> None:
        assert isinstance(leaf.op, Input)
        name = self._names.new(leaf.op.label)
        self._values[name] = ir.Value(name=name)
        self._handles[leaf] = name
        self._describe(name, leaf.type)
        self._inputs.append(self._values[name])

    def _result(self, name: str, value: Value, taken: Sequence[ir.Value]) -> ir.Value:
        """What holds ``value``: a result of some node of the body, and of no other output."""
        found = self._values[self._handles[value]]
        if found in taken or not any(found in node.outputs for node in self._nodes):
            handle = self._append(name, "Identity", [self._handles[value]], {}, 1)[0]
            self._describe(handle, value.type)
            found = self._values[handle]
        return found

    def _offer(self, handle: str, shape: Shape) -> None:
        """Sizes are computed outside, where nothing of the body can be seen."""
