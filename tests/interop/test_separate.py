"""An exporter keeps equal arrays once: what is told of one module is not done to the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import lora_graph as lg
from tests.interop.models import Arrays, alike, lora_config, model, pair, product, run_alike, save_peft, weights
from tests.interop.test_peft import check

SHAPES = {"norm.weight": (4,), "norm.bias": (4,), "fc.weight": (4, 4)}


def block() -> Arrays:
    w = weights(SHAPES)
    return {**w, "fc.bias": w["norm.bias"]}


@pytest.mark.parametrize("chosen", [("first",), ("second",), ("first", "second")])
def test_a_shared_weight_is_adapted_where_it_is_asked(
    chosen: tuple[str, ...], rng: np.random.Generator, tmp_path: Path
) -> None:
    w, x, tensors = block(), rng.normal(size=(5, 4)).astype(np.float32), {}
    blocks = {"first": dict(w), "second": dict(w)}
    for seed, name in enumerate(chosen):
        tensors |= pair(f"{name}.fc", 2, 4, 4, seed=seed)
        blocks[name]["fc.weight"] = w["fc.weight"] + 3.0 * product(tensors, f"{name}.fc")
    adapted = lg.load_peft(alike(w), save_peft(tmp_path / "a", tensors, lora_config()))
    check(adapted, x, run_alike(list(blocks.values()), x))
    adapted.save_pretrained(tmp_path / "b")
    check(lg.load_peft(alike(w), tmp_path / "b"), x, run_alike(list(blocks.values()), x))


@pytest.mark.parametrize("module", ["first", "second"])
@pytest.mark.parametrize("parameter", ["norm.weight", "norm.bias", "fc.bias", "fc.weight"])
def test_a_shared_parameter_is_replaced_in_one_module(
    parameter: str, module: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    w, x, tensors = block(), rng.normal(size=(5, 4)).astype(np.float32), pair("second.fc", 2, 4, 4)
    new = rng.normal(size=w[parameter].shape).astype(np.float32)
    blocks = {"first": dict(w), "second": dict(w)}
    blocks[module][parameter] = new
    blocks["second"]["fc.weight"] = blocks["second"]["fc.weight"] + 3.0 * product(tensors, "second.fc")
    stored = {**tensors, f"{module}.{parameter}": new}
    adapted = lg.load_peft(alike(w), save_peft(tmp_path / "a", stored, lora_config(modules_to_save=[module])))
    check(adapted, x, run_alike(list(blocks.values()), x))


def left_out(w: Arrays, kind: str) -> lg.Layer:
    """A product or a convolution whose bias of zeros an optimizer removed."""
    op = {"Gemm": ("Gemm", {"transB": 1}), "Conv": ("Conv", {})}[kind]
    node = helper.make_node(op[0], ["x", "net.fc.weight"], ["y"], **op[1])
    for key, value in (
        ("pkg.onnxscript.rewriter.rule_name", f"RemoveOptionalBiasFrom{kind}"),
        ("pkg.torch.onnx.name_scopes", "['', 'net', 'net.fc', 'op']"),
    ):
        node.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    lead = ("batch", 6) if kind == "Gemm" else ("batch", 6, 3, 3)
    return model([node], {"net.fc.weight": w["weight"]}, lead, ("batch", 8) if kind == "Gemm" else ("batch", 8, 3, 3))


@pytest.mark.parametrize("kind", ["Gemm", "Conv"])
def test_a_bias_that_was_left_out_comes_back(kind: str, rng: np.random.Generator, tmp_path: Path) -> None:
    kernel = () if kind == "Gemm" else (1, 1)
    w, tensors = weights({"weight": (8, 6, *kernel)}), pair("fc", 2, 8, 6, *kernel)
    bias = rng.normal(size=8).astype(np.float32)
    x = rng.normal(size=(5, 6) if kind == "Gemm" else (5, 6, 3, 3)).astype(np.float32)
    folder = save_peft(tmp_path / "a", {**tensors, "fc.base_layer.bias": bias}, lora_config(bias="lora_only"))
    total = w["weight"].reshape(8, 6) + 3.0 * product(tensors, "fc").reshape(8, 6)
    expected = np.moveaxis(np.tensordot(x, total, ((1,), (1,))) + bias, -1, 1)
    adapted = lg.load_peft(left_out(w, kind), folder)
    check(adapted, x, expected)
    assert "base.net.fc.bias" in adapted.trainable_parameters()
