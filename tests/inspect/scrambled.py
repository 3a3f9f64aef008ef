"""ONNX models written in another way that computes the same: other names, and nodes in another order."""

from __future__ import annotations

import json

import numpy as np
import onnx

from lora_graph.onnx.attributes import PARAMETERS

SWAPPED = ("Add", "Mul")


def scrambled(model: onnx.ModelProto, seed: int, *, swap: bool = True) -> onnx.ModelProto:
    """``model`` with other names for everything that has one, its nodes in a random topological order, its initializers
    in any, and with ``swap`` some operands of additions and products exchanged."""
    rng = np.random.default_rng(seed)
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = new.graph
    names: dict[str, str] = {"": ""}

    def renamed(name: str) -> str:
        return names.setdefault(name, f"n{rng.integers(10**9)}_{len(names)}")

    for item in (*graph.input, *graph.output, *graph.value_info):
        item.name = renamed(item.name)
        for size in item.type.tensor_type.shape.dim:
            if size.dim_param.isidentifier():
                size.dim_param = "d" + renamed("dimension " + size.dim_param)
    del graph.value_info[:]
    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
    for node in graph.node:
        node.name = renamed("node " + node.name) if node.name else ""
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
        if swap and node.op_type in SWAPPED and rng.random() < 0.5:
            node.input[:] = node.input[::-1]
    for prop in new.metadata_props:
        if prop.key == PARAMETERS:
            prop.value = json.dumps({renamed(name): flag for name, flag in json.loads(prop.value).items()})
    _shuffle(graph, rng)
    return new


def _shuffle(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Nodes in a random order that is still topological, initializers in any."""
    nodes, tensors = list(graph.node), list(graph.initializer)
    computed = {name for node in nodes for name in node.output}
    ready = {item.name for item in (*graph.input, *tensors)}
    del graph.node[:]
    while nodes:
        possible = [i for i, node in enumerate(nodes) if _needs(node) & computed <= ready]
        node = nodes.pop(possible[rng.integers(len(possible))])
        ready.update(node.output)
        graph.node.append(node)
    del graph.initializer[:]
    graph.initializer.extend(tensors[i] for i in rng.permutation(len(tensors)))


def _needs(node: onnx.NodeProto) -> set[str]:
    """The names that a node refers to, those inside its subgraphs included."""
    inside = [inner for attribute in node.attribute for inner in attribute.g.node]
    return set(node.input).union(*map(_needs, inside))
