"""ONNX's Attention with its cache, window and precision, as the attention op on the operands these stand for."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce

import numpy as np

from lora_graph.ir.dims import Dim
from lora_graph.ir.leaves import constant, size_of
from lora_graph.ir.op import NodeView
from lora_graph.ir.value import Value, apply
from lora_graph.onnx.tensors import dtype_of
from lora_graph.ops.attention import Attention, full_mask, sees
from lora_graph.ops.cumulative import arange
from lora_graph.ops.logic import And
from lora_graph.ops.select import where
from lora_graph.ops.slice import Pad, concat


def read_attention(node: NodeView) -> tuple[Value, ...]:
    """Y, the present keys and values, and what ``qk_matmul_output_mode`` asks for (opset 23 to 25)."""
    q, k, v, mask, past_key, past_value, lengths = [*node.operands, *[None] * 7][:7]
    if q is None or k is None or v is None or (past_key is None) != (past_value is None):
        raise ValueError("Attention takes Q, K and V, and past keys and values together or not at all")
    get = node.attributes.get
    causal, left, right = int(get("is_causal", 0)), get("left_window_size", -1), get("right_window_size", -1)
    op = Attention(causal, get("kv_num_heads", 0), get("q_num_heads", 0), get("scale"), get("softcap", 0.0))
    present = [op.per_head(k, False), op.per_head(v, False)]
    if past_key is not None and past_value is not None:
        present = [concat([past, new], 2) for past, new in zip((past_key, past_value), present, strict=True)]
    queries, keys = op.per_head(q, True).shape[2], present[0].shape[2]
    mask = None if mask is None else padded(mask, keys)
    apart = past_key is not None or lengths is not None or left >= 0 or right >= 0
    operands = [q, k, v]
    if apart:
        operands = [op.per_head(q, True), *present]
        offset = None if past_key is None else size_of(past_key.shape[2])
        if lengths is not None:
            offset = lengths.reshape(lengths.shape[0], 1, 1, 1) - size_of(queries)
        mask = limited(mask, queries, keys, offset, left, 0 if causal else right, lengths)
        op = replace(op, is_causal=0, kv_num_heads=0, q_num_heads=0)
    precision = get("softmax_precision")
    wide = q.dtype if precision is None else np.result_type(q.dtype, dtype_of(precision))
    if mask is not None:
        operands.append(full_mask(mask, queries, keys))
    operands = [x if x.dtype == np.bool_ else x.astype(wide) for x in operands]
    y: Value = apply(op, *operands).astype(q.dtype)
    if apart and q.rank == 3:
        y = y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], y.shape[1] * y.shape[3])
    stages = op.stages(operands[0], operands[1], operands[3] if mask is not None else None)
    return y, *present, stages[get("qk_matmul_output_mode", 0)].astype(q.dtype)


def padded(mask: Value, keys: Dim) -> Value:
    """``mask`` for all ``keys``: those beyond its last axis are not seen."""
    missing = keys - mask.shape[-1]
    if isinstance(missing, int) and missing <= 0:
        return mask
    hidden = constant(False if mask.dtype == np.bool_ else -math.inf, mask.dtype)
    return apply(Pad((*[0] * (2 * mask.rank - 1), missing)), mask, hidden)


def limited(
    mask: Value | None, queries: Dim, keys: Dim, offset: Value | None, left: int, right: int, lengths: Value | None
) -> Value | None:
    """``mask`` where a query at its place behind ``offset`` sees a key at all: in the window, and one that is there."""
    allowed = [sees(queries, keys, offset, left, right)] if left >= 0 or right >= 0 else []
    if lengths is not None:
        allowed.append(arange(keys, lengths.dtype) < lengths.reshape(lengths.shape[0], 1, 1, 1))
    if not allowed:
        return mask
    if mask is not None and mask.dtype == np.bool_:
        allowed.append(mask)
    seen: Value = reduce(lambda a, b: apply(And(), a, b), allowed)
    return seen if mask is None or mask.dtype == np.bool_ else where(seen, mask, -math.inf)
