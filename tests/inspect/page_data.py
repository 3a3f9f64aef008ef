"""Data for the page from scenes written out by hand: nodes by name, stages as lists of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_graph.inspect.scene import Edge, Node, Scene, Stage
from lora_graph.inspect.scene_data import to_data

MADE_BY = "merge, gemm"


@dataclass
class N:
    """A node: its name, op, operands by name, and whatever else there is to say."""

    name: str
    op: str
    operands: Sequence[str] = ()
    module: str = ""
    kind: str = "op"
    type: str = "float32[batch, 8]"
    adapter: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    sources: Sequence[str] = ()
    flops: float = 0.0
    mark: str = ""


def page_data(
    nodes: Sequence[N], stages: Mapping[str, Sequence[str]] | None = None, *, name: str = "model.onnx", **more: Any
) -> dict[str, Any]:
    """What the page reads. ``stages`` names the nodes of each stage, by default one with all of them."""
    number = {node.name: i for i, node in enumerate(nodes)}
    edges = [Edge(number[o], number[node.name], k) for node in nodes for k, o in enumerate(node.operands)]
    drawn = tuple(
        Node(
            id=i,
            op=node.op,
            label=node.name,
            kind=node.kind,
            type=node.type,
            module=node.module,
            attributes=node.attributes,
            details=node.details,
            sources=tuple(number[source] for source in node.sources),
            is_adapter=node.adapter,
        )
        for i, node in enumerate(nodes)
    )
    alive = {stage: frozenset(number[n] for n in names) for stage, names in (stages or {"model": [*number]}).items()}
    lived = tuple(
        Stage(stage, ids, frozenset(e for e, (a, b, _) in enumerate(edges) if a in ids and b in ids))
        for stage, ids in alive.items()
    )
    flops = {number[node.name]: node.flops for node in nodes if node.flops}
    marks = {number[node.name]: node.mark for node in nodes if node.mark}
    scene = Scene(name, drawn, tuple(edges), lived, {"flops": flops} if flops else {}, marks)
    return {**to_data(scene), **more}


def dense() -> list[N]:
    """A dense layer with a low-rank pair beside it, and what merging makes of it."""
    wide, low = "float32[batch, 16]", "float32[batch, 4]"
    pair = {"module": "lora", "adapter": True}
    return [
        N("x", "Input", kind="input"),
        N("base.weight", "Parameter", kind="parameter", module="base", type="float32[8, 16]"),
        N("base.bias", "Parameter", kind="parameter", module="base", type="float32[16]"),
        N("h", "MatMul", ["x", "base.weight"], "base", type=wide, flops=256),
        N("biased", "Add", ["h", "base.bias"], "base", type=wide, flops=16),
        N("lora.A", "Parameter", kind="parameter", type="float32[8, 4]", **pair),
        N("lora.B", "Parameter", kind="parameter", type="float32[4, 16]", **pair),
        N("down", "MatMul", ["x", "lora.A"], type=low, flops=64, **pair),
        N("up", "MatMul", ["down", "lora.B"], type=wide, flops=128, **pair),
        N("two", "Constant", kind="constant", module="lora", type="float32"),
        N("scaled", "Mul", ["up", "two"], type=wide, flops=16, **pair),
        N("sum", "Add", ["biased", "scaled"], type=wide, flops=16),
        N("out", "Softmax", ["sum"], type=wide, attributes={"axis": "-1"}, details={"mean": "0.0625"}),
        N("merged", "Parameter", kind="parameter", type="float32[8, 16]", sources=["base.weight", "lora.A", "lora.B"]),
        N("gemm", "Gemm", ["x", "merged", "base.bias"], type=wide, sources=["h", "sum"], details={"rules": MADE_BY}),
        N("final", "Softmax", ["gemm"], type=wide, attributes={"axis": "-1"}),
        N("y", "Output", ["out"], kind="output", type=wide),
        N("z", "Output", ["final"], kind="output", type=wide),
    ]


NEW = ("merged", "gemm", "final", "z")
LEFT = ("x", "base.bias")


def dense_stages() -> dict[str, list[str]]:
    """The layer of ``dense`` before, after a pass that does nothing, and after merging."""
    before = [node.name for node in dense() if node.name not in NEW]
    return {"model": before, "simplify": before, "merge": [*LEFT, *NEW]}


def dense_diff() -> dict[str, Any]:
    """The layer of ``dense`` against what is merged."""
    stages, nodes = dense_stages(), dense()
    for node in nodes:
        node.mark = "added" if node.name in NEW else "" if node.name in LEFT else "removed"
    marks = {"gemm": "fused", "base.bias": "weights"}
    nodes = [node if node.name not in marks else N(**{**vars(node), "mark": marks[node.name]}) for node in nodes]
    ids = {node.name: i for i, node in enumerate(nodes)}
    changes = [
        ["removed", "MatMul, MatMul, Mul in lora", [ids["down"], ids["up"], ids["scaled"]]],
        ["fused", "MatMul, Add, Add became Gemm", [ids["gemm"]]],
        ["weights", "base.bias: norm 0.31 (2.1 %), rank 1", [ids["base.bias"]]],
    ]
    sides = {"parallel.onnx": stages["model"], "merged.onnx": stages["merge"]}
    return page_data(nodes, sides, name="parallel.onnx → merged.onnx", kind="diff", changes=changes)
