"""A transformer from ONNX to ONNX: written with onnxscript, trained, adapted to another task, merged, run.

    python examples/transformer.py

Each sequence is eight tokens, each a key with a value, and a query: the key whose value is the answer. That takes
attention, since the answer stands wherever the key does. The changed task asks for the key that follows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxscript import FLOAT, INT64, script
from onnxscript import opset21 as op

import lora_graph as lg

KEYS, VALUES = 8, 8
BATCH = "batch"


@script(default_opset=op)
def attention(x: FLOAT, query: FLOAT, key: FLOAT, value: FLOAT, out: FLOAT) -> FLOAT:
    """Attention of every position to every other, in four heads of eight features."""
    q = op.Transpose(op.Reshape(op.MatMul(x, query), op.Constant(value_ints=[0, 0, 4, 8])), perm=[0, 2, 1, 3])
    k = op.Transpose(op.Reshape(op.MatMul(x, key), op.Constant(value_ints=[0, 0, 4, 8])), perm=[0, 2, 3, 1])
    v = op.Transpose(op.Reshape(op.MatMul(x, value), op.Constant(value_ints=[0, 0, 4, 8])), perm=[0, 2, 1, 3])
    weights = op.Softmax(op.MatMul(q, k) * 0.35355339, axis=-1)
    mixed = op.Reshape(op.Transpose(op.MatMul(weights, v), perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, 32]))
    return op.MatMul(mixed, out)


@script(default_opset=op)
def block(
    x: FLOAT,
    query: FLOAT,
    key: FLOAT,
    value: FLOAT,
    out: FLOAT,
    up: FLOAT,
    up_bias: FLOAT,
    down: FLOAT,
    scale_1: FLOAT,
    scale_2: FLOAT,
) -> FLOAT:
    """One layer of the encoder, normalized before each part."""
    seen = x + attention(op.LayerNormalization(x, scale_1, axis=-1), query, key, value, out)
    inside = op.Gelu(op.MatMul(op.LayerNormalization(seen, scale_2, axis=-1), up) + up_bias)
    return seen + op.MatMul(inside, down)


@script(default_opset=op)
def encoder(
    ids: INT64[BATCH, 9],
    tokens: FLOAT[72, 32],
    positions: FLOAT[9, 32],
    query_0: FLOAT[32, 32],
    key_0: FLOAT[32, 32],
    value_0: FLOAT[32, 32],
    out_0: FLOAT[32, 32],
    up_0: FLOAT[32, 64],
    up_bias_0: FLOAT[64],
    down_0: FLOAT[64, 32],
    scale_1_0: FLOAT[32],
    scale_2_0: FLOAT[32],
    query_1: FLOAT[32, 32],
    key_1: FLOAT[32, 32],
    value_1: FLOAT[32, 32],
    out_1: FLOAT[32, 32],
    up_1: FLOAT[32, 64],
    up_bias_1: FLOAT[64],
    down_1: FLOAT[64, 32],
    scale_1_1: FLOAT[32],
    scale_2_1: FLOAT[32],
    head: FLOAT[32, 8],
) -> FLOAT[BATCH, 8]:
    """Logits of the value that the query, the last token, asks for."""
    x = op.Gather(tokens, ids) + positions
    x = block(x, query_0, key_0, value_0, out_0, up_0, up_bias_0, down_0, scale_1_0, scale_2_0)
    x = block(x, query_1, key_1, value_1, out_1, up_1, up_bias_1, down_1, scale_1_1, scale_2_1)
    last = op.Gather(x, op.Constant(value_int=8), axis=1)
    logits = op.MatMul(last, head)
    return logits


def untrained(rng: np.random.Generator) -> onnx.ModelProto:
    """The encoder as a model whose weights are initializers."""
    model = encoder.to_model_proto()
    for item in list(model.graph.input)[1:]:
        shape = [size.dim_value for size in item.type.tensor_type.shape.dim]
        drawn = rng.normal(0, shape[0] ** -0.5, shape)
        array = np.ones(shape) if item.name.startswith("scale") else np.zeros(shape) if "bias" in item.name else drawn
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), item.name))
        model.graph.input.remove(item)
    return model


def samples(count: int, rng: np.random.Generator, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences, and the value of the key that is ``shift`` behind the one that is asked for."""
    keys = rng.permuted(np.tile(np.arange(KEYS), (count, 1)), axis=1)
    values = rng.integers(0, VALUES, (count, KEYS))
    asked = rng.integers(0, KEYS, count)
    ids = np.concatenate([keys * VALUES + values, KEYS * VALUES + asked[:, None]], axis=1)
    where = (keys == (asked[:, None] + shift) % KEYS).argmax(axis=1)
    return ids, values[np.arange(count), where]


def accuracy(logits: np.ndarray, answers: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == answers).mean())


def main() -> None:
    rng = np.random.default_rng(0)
    unseen, follows = samples(1000, rng, 0), samples(1000, rng, 1)
    with tempfile.TemporaryDirectory() as folder:
        base, tuned = Path(folder, "base.onnx"), Path(folder, "tuned.onnx")
        model = lg.load_onnx(untrained(rng))
        history = lg.fit(model, samples(6000, rng, 0), loss="cross_entropy", optimizer=lg.Adam(3e-3), epochs=6)
        print(f"the whole model, trained: {history}, accuracy {accuracy(model.eval()(unseen[0]), unseen[1]):.1%}")
        lg.export_onnx(model, base)

        adapted = lg.adapt(lg.load_onnx(base), targets=["query_*", "key_*", "up_*"], rank=8, rng=1)
        before = accuracy(adapted.eval()(follows[0]), follows[1])
        adapted.print_trainable_parameters()
        data, optimizer = samples(6000, rng, 1), lg.Adam(lg.CosineSchedule(1e-2, steps=6 * 188))
        history = lg.fit(adapted.train(), data, loss="cross_entropy", optimizer=optimizer, epochs=6)
        print(f"the changed task: {history}, accuracy {before:.1%} before")
        lg.export_onnx(adapted, tuned, form="merged")
        logits = lg.Session(tuned).run(follows[0])
        difference = np.abs(logits - adapted.eval()(follows[0])).max()
        print(f"in ONNX Runtime: accuracy {accuracy(logits, follows[1]):.1%}, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
