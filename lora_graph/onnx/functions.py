"""Functions that a model defines, put in the place of their calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
import onnx.inliner

from lora_graph.onnx.subgraphs import nested_nodes

MAX_NODES = 1_000_000
"""How many nodes a model may have once its functions are written out."""

Key = tuple[str, str, str]


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` without functions; ValueError for one that calls itself, or for what cannot be written out."""
    if not model.functions:
        return model
    bodies: dict[Key, list[Key]] = {}
    sizes: dict[Key, int] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in bodies:
            raise ValueError(f"two functions are called {_text(key)}")
        bodies[key], sizes[key] = _calls(function.node)
    calls, count = _calls(model.graph.node)
    _require_small(bodies, sizes, calls, count)
    try:
        written = onnx.inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"its functions cannot be written out: {str(error).splitlines()[0]}") from error
    left = [key for key in _calls(written.graph.node)[0] if key in bodies]
    if left:
        raise ValueError(f"the function {_text(left[0])} is written for another opset than the model")
    written.ClearField("functions")
    return written


def _calls(nodes: Iterable[onnx.NodeProto]) -> tuple[list[Key], int]:
    """What is called by ``nodes`` and those inside them, and how many there are."""
    found = [(inner.domain, inner.op_type, inner.overload) for node in nodes for inner in nested_nodes(node)]
    return found, len(found)


def _require_small(bodies: Mapping[Key, list[Key]], sizes: dict[Key, int], calls: list[Key], count: int) -> None:
    """Raise ValueError if a function calls itself, or writing all of them out gives too many nodes."""
    done: dict[Key, int] = {}
    for start in bodies:
        path: list[Key] = [start]
        opened: set[Key] = set()
        while path:
            key = path[-1]
            inner = [called for called in bodies[key] if called in bodies]
            waiting = [called for called in dict.fromkeys(inner) if called not in done]
            if key not in done and waiting:
                opened.add(key)
                if opened.intersection(waiting):
                    raise ValueError(f"the function {_text(next(iter(opened.intersection(waiting))))} calls itself")
                path.append(waiting[0])
                continue
            done[key] = sizes[key] + sum(done[called] for called in inner)
            opened.discard(key)
            path.pop()
    total = count + sum(done[called] for called in calls if called in bodies)
    if total > MAX_NODES:
        raise ValueError(f"its functions written out are more than {MAX_NODES:,} nodes")


def _text(key: Key) -> str:
    return repr("::".join(part for part in key[:2] if part))
