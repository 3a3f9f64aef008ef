"""Adapters that other libraries saved, as the matrices of our families, with the weight changes they recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import lora_graph as lg
from lora_graph.ir.types import Array
from lora_graph.layers.weights import read_safetensors

ROOT = Path(__file__).parents[3] / "shared" / "fixtures"
PEFT, LYCORIS = "base_model.model.", "lycoris_"
PAIR = (("lora_A", "lora_down"), ("lora_B", "lora_up"))
CASES = ("mlp_lora", "mlp_rslora_patterns", "cnn_lora", "mlp_dora", "cnn_dora", "lokr_*", "lycoris_*")
"""Those whose modules are linear layers with rows of outputs and convolutions, in float32."""


@dataclass(frozen=True)
class Module:
    """One adapted module: its tensors by the library's short names, its scale, and what it made of its weight."""

    case: str
    name: str
    tensors: dict[str, Array]
    scale: float
    before: Array
    after: Array
    delta: Array

    def __str__(self) -> str:
        return f"{self.case}-{self.name}"

    def layer(self) -> lg.Layer:
        """A layer of ours with the weight of the module, whose rows are outputs, in float64."""
        out, inner, *kernel = self.before.shape
        layer: lg.Layer
        if kernel:
            layer = lg.ConvolutionalLayer(inner, out, tuple(kernel), dtype="float64", rng=0)
        else:
            layer = lg.FullyConnectedLayer(inner, out, dtype="float64", rng=0)
        layer.set_parameter("weight", self.before)
        return layer

    @property
    def family(self) -> type[lg.Adapter]:
        if self.tensors.keys() & {"lora_magnitude_vector", "dora_scale"}:
            return lg.DoRAAdapter
        return lg.LoKrAdapter if any(name.startswith("lokr") for name in self.tensors) else lg.StandardLoRAAdapter

    @cached_property
    def matrices(self) -> dict[str, Array]:
        """The parameters of our branch."""
        return self.ours(self.tensors)

    def ours(self, t: dict[str, Array]) -> dict[str, Array]:
        """Tensors, or their gradients, as our parameters lie: matrices of a pair transposed, kernels as they are."""
        kernel = self.before.shape[2:]
        if self.family is lg.LoKrAdapter:
            return _factor("A", t, "lokr_w1", ()) | _factor("B", t, "lokr_w2", kernel)
        a, b = (t[first] if first in t else t[second] for first, second in PAIR)
        found = {"A": a, "B": b} if kernel else {"A": a.T, "B": b.T}
        for name, theirs in (("mid", "lora_mid"), ("magnitude", "lora_magnitude_vector"), ("magnitude", "dora_scale")):
            if theirs in t:
                found[name] = t[theirs].ravel() if name == "magnitude" else t[theirs]
        return found

    @property
    def rank(self) -> int:
        """That of the pair; 1 of a Kronecker product, so that alpha is the scale."""
        return 1 if self.family is lg.LoKrAdapter else self.matrices["A"].shape[0 if self.before.shape[2:] else 1]

    def adapter(self) -> lg.Adapter:
        """An adapter of ours with the recorded matrices."""
        return self.family.from_matrices(self.layer(), {"weight": self.matrices}, self.rank, self.scale * self.rank)


def _factor(ours: str, tensors: dict[str, Array], name: str, kernel: tuple[int, ...]) -> dict[str, Array]:
    if name in tensors:
        return {ours: tensors[name]}
    left, right = tensors[f"{name}_a"], tensors[f"{name}_b"]
    if ours == "B" and "lokr_t2" in tensors:
        return {"B_left": left.T, "B_core": tensors["lokr_t2"], "B_right": right}
    return {f"{ours}_left": left, f"{ours}_right": right.reshape(len(right), -1, *kernel)}


def grouped(found: Iterable[Module]) -> dict[str, list[Module]]:
    """The modules of each case."""
    cases: dict[str, list[Module]] = {}
    for module in found:
        cases.setdefault(module.case, []).append(module)
    return cases


def modules() -> Iterator[Module]:
    """Every module of these cases for which the library told the change of the weight."""
    for folder in sorted(path.parent for case in CASES for path in ROOT.glob(f"{case}/weights.npz")):
        manifest = json.loads((folder / "manifest.json").read_text())
        file = folder / "adapter.safetensors"
        prefix = LYCORIS if file.is_file() else PEFT
        tensors = read_safetensors(file if file.is_file() else folder / "adapter" / "adapter_model.safetensors")
        with np.load(folder / "weights.npz") as weights:
            for key in (key for key in weights.files if key.startswith("delta/")):
                name = key.removeprefix("delta/")
                start = f"{prefix}{name}."
                own = {k.removeprefix(start).removesuffix(".weight"): a for k, a in tensors.items() if start in k}
                before, after = (weights[f"{state}/{name}.weight"] for state in ("base", "merged"))
                yield Module(folder.name, name, own, _scale(own, manifest, name), before, after, weights[key])


def _scale(own: dict[str, Array], manifest: dict[str, Any], name: str) -> float:
    """s: recorded by PEFT; of a LyCORIS file alpha / rank, and 1 where both Kronecker factors are whole."""
    if "alpha" not in own:
        found: float = manifest["per_layer"][name]["scaling"]
        return found
    if {"lokr_w1", "lokr_w2"} <= own.keys():
        return 1.0
    low = next(own[key] for key in ("lora_down", "lokr_w2_b", "lokr_w1_b") if key in own)
    return float(own["alpha"]) / len(low)
