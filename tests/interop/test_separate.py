"""An exporter keeps equal arrays once: what is told of one module is not done to the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from tests.interop.models import Arrays, alike, lora_config, pair, product, run_alike, save_peft, weights
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
