"""Small models as PyTorch's exporters write them, and the same computed by NumPy from weights as PyTorch has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

import lora_graph as lg

Arrays = dict[str, np.ndarray]
SHAPES = {
    "fc1.weight": (8, 6), "fc1.bias": (8,), "blocks.0.fc2.weight": (8, 8), "blocks.0.fc2.bias": (8,),
    "norm.weight": (8,), "norm.bias": (8,), "mix.weight": (8, 5), "mix.bias": (5,),
}  # fmt: skip
"""``mix`` is a Conv1D of transformers, whose weight is ``[in, out]``."""
IMAGE_SHAPES = {"stem.weight": (6, 4, 3, 3), "stem.bias": (6,), "grouped.weight": (8, 3, 3, 3), "fc.weight": (5, 8)}
TIED_SHAPES = {"emb.weight": (9, 8), "head.weight": (9, 8)}


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


# -- layers of features -----------------------------------------------------------------------------------------------


def mlp(w: Arrays) -> lg.Layer:
    """Each layer in another spelling: named, scoped by dynamo's metadata, told apart by its bias alone."""
    scoped = helper.make_node("MatMul", ["h1", "val_3"], ["m2"], name="node_MatMul_4")
    scopes = str(["", "blocks", "blocks.0", "blocks.0.fc2", "linear"])
    scoped.metadata_props.append(onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=scopes))
    nodes = [
        helper.make_node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["g1"], transB=1),
        helper.make_node("Relu", ["g1"], ["h1"]),
        scoped,
        helper.make_node("Add", ["blocks.0.fc2.bias", "m2"], ["h2"]),
        helper.make_node("LayerNormalization", ["h2", "norm.weight", "norm.bias"], ["n"], axis=-1),
        helper.make_node("Gemm", ["n", "mix.weight", "mix.bias"], ["y"]),
    ]
    stored = {name: w[name] for name in w if name != "blocks.0.fc2.weight"}
    return model(nodes, {**stored, "val_3": w["blocks.0.fc2.weight"].T}, ("batch", 6), ("batch", 5))


def run_mlp(w: Arrays, x: np.ndarray) -> np.ndarray:
    w = {name: array.astype(np.float64) for name, array in w.items()}
    h = np.maximum(x @ w["fc1.weight"].T + w["fc1.bias"], 0)
    h = h @ w["blocks.0.fc2.weight"].T + w["blocks.0.fc2.bias"]
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
    y: np.ndarray = (h * w["norm.weight"] + w["norm.bias"]) @ w["mix.weight"] + w["mix.bias"]
    return y


# -- layers of images -------------------------------------------------------------------------------------------------


def cnn(w: Arrays) -> lg.Layer:
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight", "stem.bias"], ["c1"], "/stem/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["h1"]),
        helper.make_node("Conv", ["h1", "grouped.weight"], ["c2"], "/grouped/Conv", group=2, strides=[2, 2]),
        helper.make_node("ReduceMean", ["c2", "axes"], ["p"], keepdims=0),
        helper.make_node("Gemm", ["p", "fc.weight"], ["y"], "/fc/Gemm", transB=1),
    ]
    return model(nodes, {**w, "axes": np.array([2, 3])}, ("batch", 4, 7, 7), ("batch", 5))


def run_cnn(w: Arrays, x: np.ndarray, grouped: Any = None) -> np.ndarray:
    """``grouped`` may compute the second convolution in another way."""
    w = {name: array.astype(np.float64) for name, array in w.items()}
    h = np.maximum(convolved(x, w["stem.weight"], pad=1) + w["stem.bias"][:, None, None], 0)
    second = in_groups(h, w["grouped.weight"], 2) if grouped is None else grouped(h, w["grouped.weight"])
    y: np.ndarray = second[:, :, ::2, ::2].mean((2, 3)) @ w["fc.weight"].T
    return y


def convolved(x: np.ndarray, w: np.ndarray, pad: int = 0) -> np.ndarray:
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, w.shape[2:], (2, 3))
    y: np.ndarray = np.einsum("bihwkl,oikl->bohw", windows, w.astype(np.float64))
    return y


def in_groups(x: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    parts = zip(np.split(x, groups, 1), np.split(w, groups), strict=True)
    return np.concatenate([convolved(part, kernel) for part, kernel in parts], 1)


# -- an embedding and its head ----------------------------------------------------------------------------------------


def tied(w: Arrays, *, one_name: bool, table: str = "emb.weight") -> lg.Layer:
    """Rows of a table, and products with the same table transposed, as one initializer or as two."""
    head = "/head/Transpose_output_0" if one_name else "onnx::MatMul_7"
    nodes = [helper.make_node("Gather", [table, "x"], ["e"], "/emb/Gather")]
    nodes += [helper.make_node("Transpose", [table], [head], "/head/Transpose", perm=[1, 0])] * one_name
    nodes += [helper.make_node("Tanh", ["e"], ["h"]), helper.make_node("MatMul", ["h", head], ["y"], "/head/MatMul")]
    stored = {table: w["emb.weight"]} | ({} if one_name else {head: w["emb.weight"].T})
    return model(nodes, stored, ("batch", 3), ("batch", 3, 9), TensorProto.INT64)


def run_tied(w: Arrays, x: np.ndarray) -> np.ndarray:
    y: np.ndarray = np.tanh(w["emb.weight"].astype(np.float64)[x]) @ w["head.weight"].astype(np.float64).T
    return y


# -- files ------------------------------------------------------------------------------------------------------------


def model(nodes: list[onnx.NodeProto], stored: Arrays, x: Any, y: Any, kind: int = TensorProto.FLOAT) -> lg.Layer:
    tensors = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in stored.items()]
    inputs = [helper.make_tensor_value_info("x", kind, x)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)]
    graph = helper.make_graph(nodes, "main", inputs, outputs, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return lg.load_onnx(made)


def lora_config(**options: Any) -> dict[str, Any]:
    """What PEFT 0.21 writes, shortened to what is not null."""
    fixed = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "init_lora_weights": True}
    rest = {"use_rslora": False, "use_dora": False, "fan_in_fan_out": False, "target_modules": ["fc1"]}
    return {**fixed, **rest, "rank_pattern": {}, "alpha_pattern": {}, "megatron_core": "megatron.core", **options}


def save_peft(folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Path:
    """A folder as PEFT writes it; names of tensors are without their prefix."""
    import json

    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    named = {f"base_model.model.{name}": np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder


def pair(module: str, rank: int, out: int, *inner: int, seed: int = 1) -> Arrays:
    """The two matrices of LoRA beside a product, or with a kernel beside a convolution, as PEFT has them."""
    rng = np.random.default_rng(seed)
    ones = (1,) * (len(inner) - 1)
    shapes = {"lora_A": (rank, *inner), "lora_B": (out, rank, *ones)}
    return {f"{module}.{name}.weight": rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def product(tensors: Arrays, module: str) -> np.ndarray:
    """up @ down of :func:`pair`, as the module's weight lies."""
    a, b = (tensors[f"{module}.{name}.weight"].astype(np.float64) for name in ("lora_A", "lora_B"))
    return (b.reshape(len(b), -1) @ a.reshape(len(a), -1)).reshape(len(b), *a.shape[1:])


# -- what the TorchScript exporter holds to be the same ---------------------------------------------------------------

ALIKE = ("first", "second")


def alike(w: Arrays) -> lg.Layer:
    """Two blocks norm → product + bias with equal numbers, each array of which is in the file once."""
    nodes, source = [], "x"
    for name in ALIKE:
        n, m, y = (f"{name}_{part}" for part in "nmy")
        nodes += [
            helper.make_node("LayerNormalization", [source, "first.norm.weight", "first.norm.bias"], [n],
                             f"/{name}/norm/LayerNormalization", axis=-1),
            helper.make_node("MatMul", [n, "onnx::MatMul_9"], [m], f"/{name}/fc/MatMul"),
            helper.make_node("Add", ["first.norm.bias", m], [y], f"/{name}/fc/Add"),
        ]  # fmt: skip
        source = y
    nodes.append(helper.make_node("Identity", [source], ["y"]))
    stored = {
        "first.norm.weight": w["norm.weight"],
        "first.norm.bias": w["norm.bias"],
        "onnx::MatMul_9": w["fc.weight"].T,
    }
    return model(nodes, stored, ("batch", 4), ("batch", 4))


def run_alike(blocks: list[Arrays], x: np.ndarray) -> np.ndarray:
    """Of each block its own arrays; the bias of the product starts as that of the norm."""
    h = x.astype(np.float64)
    for w in blocks:
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
        h = (h * w["norm.weight"] + w["norm.bias"]) @ w["fc.weight"].astype(np.float64).T + w["fc.bias"]
    return h
