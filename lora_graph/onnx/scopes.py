"""The module that a node of a model belongs to, and how the node was made, as its exporter noted them."""

from __future__ import annotations

import ast

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"
"""The metadata in which PyTorch's dynamo exporter lists the modules around a node, and last the node itself."""
RULES = "pkg.onnxscript.rewriter.rule_name"
"""The metadata in which that exporter's optimizer lists the rules that made a node."""


def rules_of(node: onnx.NodeProto) -> tuple[str, ...]:
    """The names of the rules by which the exporter's optimizer made the node."""
    noted = next((item.value for item in node.metadata_props if item.key == RULES), "")
    return tuple(name.strip() for name in noted.split(",") if name.strip())


def scope_of(node: onnx.NodeProto) -> str:
    """The path of the module, "" where nothing tells it.

    It is read off the scopes of PyTorch's dynamo exporter, a node name such as ``/encoder/layer.0/fc1/MatMul`` of its
    TorchScript exporter, or one such as ``base.MatMul`` of this package.
    """
    noted = next((item.value for item in node.metadata_props if item.key == SCOPES), None)
    if noted is not None:
        modules = _listed(noted)
        return modules[-2] if len(modules) > 1 else ""
    if "/" in node.name:
        return _joined([part for part in node.name.split("/")[:-1] if part])
    scope, found, _ = node.name.rpartition(f".{node.op_type}")
    return scope if found else ""


def _listed(text: str) -> list[str]:
    """The strings of a Python list that is written out; none where it is something else."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def _joined(parts: list[str]) -> str:
    """A path; a part that begins with the one before and a dot takes its place."""
    path: list[str] = []
    for part in parts:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path)
