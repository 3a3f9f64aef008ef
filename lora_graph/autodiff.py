"""Reverse-mode differentiation as a transformation of graphs: the gradient of an expression is an expression.

What comes out can be optimized, exported and differentiated again. Only the Values on a path from ``wrt`` to the
output are visited, so nothing is built for frozen or unreached parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from lora_graph.ir.leaves import constant
from lora_graph.ir.value import Value
from lora_graph.ops.pull import pull
from lora_graph.ops.shape import zeros_like

__all__ = ["gradients", "pull"]


def gradients(output: Value, wrt: Sequence[Value], cotangent: Value | None = None) -> list[Value]:
    """∂output/∂w, contracted with ``cotangent``, for each w of ``wrt``; zeros where ``output`` does not depend on w.

    Without ``cotangent``, ``output`` must be a scalar and the result is its gradient.
    """
    if not output.type.is_float:
        raise TypeError(f"only floats have a gradient, got {output.type}")
    if cotangent is None:
        if output.shape:
            raise ValueError(f"the gradient of {output.type} needs a cotangent: only a scalar has a gradient by itself")
        cotangent = constant(1, output.dtype)
    elif cotangent.type != output.type:
        raise ValueError(f"the cotangent of {output.type} cannot be {cotangent.type}")
    found = pull({output: cotangent}, wrt)
    return [found[w] if w in found else zeros_like(w) for w in wrt]
