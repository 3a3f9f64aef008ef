"""Every op as a function of Values: ``lg.ops.tanh(x)``, ``lg.ops.softmax(x, axis=-1)``.

One class an op, in the file of its family, with its type inference, NumPy evaluation, derivative and ONNX spelling.
"""

from lora_graph.ir.leaves import absent, constant, input, parameter, project, size_of  # noqa: A004
from lora_graph.ir.value import apply
from lora_graph.ops.accumulate import add_matmul
from lora_graph.ops.activation import (
    ACTIVATIONS,
    elu,
    erf,
    gelu,
    gelu_tanh,
    identity,
    leaky_relu,
    relu,
    sigmoid,
    silu,
    softplus,
    swish,
    tanh,
)
from lora_graph.ops.after import after
from lora_graph.ops.arithmetic import maximum, minimum
from lora_graph.ops.attention import attention
from lora_graph.ops.convolution import conv, conv_transpose, conv_weight_gradient
from lora_graph.ops.cumulative import cumsum
from lora_graph.ops.einsum import einsum
from lora_graph.ops.functions import (
    abs,  # noqa: A004
    add,
    ceil,
    cos,
    div,
    equal,
    exp,
    floor,
    greater,
    greater_or_equal,
    is_nan,
    less,
    less_or_equal,
    log,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    mod,
    mul,
    neg,
    pow,  # noqa: A004
    reciprocal,
    reduce_l2,
    reduce_max,
    reduce_mean,
    reduce_min,
    reduce_prod,
    reduce_sum,
    reduce_sum_square,
    reduce_variance,
    sin,
    sqrt,
    sub,
)
from lora_graph.ops.gather import gather, gather_elements, gather_nd, scatter_elements, scatter_nd
from lora_graph.ops.linalg import eye_like, gemm, matmul, trilu
from lora_graph.ops.loss import SoftmaxCrossEntropyLoss, negative_log_likelihood_loss, softmax_cross_entropy_loss
from lora_graph.ops.normalization import batch_normalization, layer_normalization, rms_normalization
from lora_graph.ops.piecewise import hard_sigmoid, hard_swish, prelu, selu
from lora_graph.ops.pooling import (
    average_pool,
    global_average_pool,
    global_max_pool,
    max_pool,
    max_pool_indices,
)
from lora_graph.ops.prefix import slice_to
from lora_graph.ops.recurrent import gru, lstm, rnn
from lora_graph.ops.reduce import argmax, log_softmax, softmax
from lora_graph.ops.rotary import rotary_embedding
from lora_graph.ops.safe_softmax import safe_softmax
from lora_graph.ops.scan import scan
from lora_graph.ops.select import cast, clip, where
from lora_graph.ops.shape import expand, flatten, reshape, squeeze, swap_last, transpose, unsqueeze
from lora_graph.ops.slice import concat, pad
from lora_graph.ops.slice import slice_ as slice  # noqa: A004
from lora_graph.ops.stop_gradient import stop_gradient
from lora_graph.ops.unary import sign

__all__ = [
    "ACTIVATIONS",
    "SoftmaxCrossEntropyLoss",
    "abs",
    "absent",
    "add",
    "add_matmul",
    "after",
    "apply",
    "argmax",
    "attention",
    "average_pool",
    "batch_normalization",
    "cast",
    "ceil",
    "clip",
    "concat",
    "constant",
    "conv",
    "conv_transpose",
    "conv_weight_gradient",
    "cos",
    "cumsum",
    "div",
    "einsum",
    "elu",
    "equal",
    "erf",
    "exp",
    "expand",
    "eye_like",
    "flatten",
    "floor",
    "gather",
    "gather_elements",
    "gather_nd",
    "gelu",
    "gelu_tanh",
    "gemm",
    "global_average_pool",
    "global_max_pool",
    "greater",
    "greater_or_equal",
    "gru",
    "hard_sigmoid",
    "hard_swish",
    "identity",
    "input",
    "is_nan",
    "layer_normalization",
    "leaky_relu",
    "less",
    "less_or_equal",
    "log",
    "log_softmax",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "lstm",
    "matmul",
    "max_pool",
    "max_pool_indices",
    "maximum",
    "minimum",
    "mod",
    "mul",
    "neg",
    "negative_log_likelihood_loss",
    "pad",
    "parameter",
    "pow",
    "prelu",
    "project",
    "reciprocal",
    "reduce_l2",
    "reduce_max",
    "reduce_mean",
    "reduce_min",
    "reduce_prod",
    "reduce_sum",
    "reduce_sum_square",
    "reduce_variance",
    "relu",
    "reshape",
    "rms_normalization",
    "rnn",
    "rotary_embedding",
    "safe_softmax",
    "scan",
    "scatter_elements",
    "scatter_nd",
    "selu",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "size_of",
    "slice",
    "slice_to",
    "softmax",
    "softmax_cross_entropy_loss",
    "softplus",
    "sqrt",
    "squeeze",
    "stop_gradient",
    "sub",
    "swap_last",
    "swish",
    "tanh",
    "transpose",
    "trilu",
    "unsqueeze",
    "where",
]


def __dir__() -> list[str]:
    return __all__
