"""Recurrent layers: LSTM and GRU over ``[batch, time, features]``, with the weights and gates of ONNX's ops."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context
from lora_graph.ops.recurrence import Recurrent
from lora_graph.ops.recurrent import GRU, LSTM, gru, lstm
from lora_graph.ops.shape import squeeze, unsqueeze, with_one_batch_axis
from lora_graph.ops.slice import concat


class RecurrentLayer(Layer):
    """The outputs of a cell for every step, ``[batch, time, hidden]``, or for the last one alone, ``[batch, hidden]``.

    ``weight_ih`` is ``[k·hidden, input]``, ``weight_hh`` ``[k·hidden, hidden]``, ``bias_ih`` and ``bias_hh``
    ``[k·hidden]`` for the k gates of ``op``, all U(-1/√hidden, 1/√hidden) at first. The first state is 0.
    """

    op: ClassVar[type[Recurrent]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        return_sequences: bool = True,
        *,
        dtype: npt.DTypeLike = np.float32,
        rng: checks.Seed = None,
        layer_name: str | None = None,
    ):
        inner = checks.integer("input_size", input_size, 1)
        hidden = checks.integer("hidden_size", hidden_size, 1)
        self.return_sequences = checks.flag("return_sequences", return_sequences)
        output = ("time", hidden) if return_sequences else (hidden,)
        super().__init__(input_shape=("time", inner), output_shape=output, dtype=dtype, rng=rng, layer_name=layer_name)
        rows, limit = self.op.gate_count * hidden, 1 / math.sqrt(hidden)
        shapes = {"weight_ih": (rows, inner), "weight_hh": (rows, hidden), "bias_ih": (rows,), "bias_hh": (rows,)}
        for name, shape in shapes.items():
            self.add_parameter(name, self.rng.uniform(-limit, limit, shape))

    def walk(self, x: Value, w: Value, r: Value, b: Value) -> tuple[Value, ...]:
        """Y and the last states of the op, for ``x`` with time first."""
        raise NotImplementedError(f"{type(self).__name__} must implement walk(x, w, r, b)")

    def build(self, ctx: Context, x: Value) -> Value:
        w, r = (unsqueeze(ctx.param(name), 0) for name in ("weight_ih", "weight_hh"))
        b = unsqueeze(concat([ctx.param("bias_ih"), ctx.param("bias_hh")], 0), 0)

        def walked(x: Value) -> Value:
            every, last, *_ = self.walk(x.swapaxes(0, 1), w, r, b)
            return squeeze(every, 1).swapaxes(0, 1) if self.return_sequences else squeeze(last, 0)

        return with_one_batch_axis(x, 2, walked)

    def bypass_input(self, x: Value) -> Value:
        return x if self.return_sequences else x[..., -1, :]

    def get_diagnostics(self) -> dict[str, str]:
        return {**super().get_diagnostics(), "return_sequences": str(self.return_sequences)}


class LSTMLayer(RecurrentLayer):
    """i, o, f = σ(x W_ihᵀ + b_ih + h W_hhᵀ + b_hh), c' = f ⊙ c + i ⊙ tanh(…), h' = o ⊙ tanh(c').

    The gates stand in ONNX's order i, o, f, c (Hochreiter & Schmidhuber, 1997).
    """

    op = LSTM

    def walk(self, x: Value, w: Value, r: Value, b: Value) -> tuple[Value, ...]:
        return lstm(x, w, r, b)


class GRULayer(RecurrentLayer):
    """z, r = σ(x W_ihᵀ + b_ih + h W_hhᵀ + b_hh), n = tanh(…), h' = (1 - z) ⊙ n + z ⊙ h  (Cho et al., 2014).

    The gates stand in ONNX's order z, r, h. The reset gate r scales h before it is multiplied by the weight, as in the
    paper; with ``linear_before_reset`` it scales the product, as PyTorch and cuDNN have it.
    """

    op = GRU

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        return_sequences: bool = True,
        *,
        linear_before_reset: bool = False,
        **settings: Any,
    ):
        self.linear_before_reset = checks.flag("linear_before_reset", linear_before_reset)
        super().__init__(input_size, hidden_size, return_sequences, **settings)

    def walk(self, x: Value, w: Value, r: Value, b: Value) -> tuple[Value, ...]:
        return gru(x, w, r, b, linear_before_reset=int(self.linear_before_reset))
