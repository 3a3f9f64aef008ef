"""Adapters that other libraries saved, with the outputs and gradients they computed, put on our models by hand.

The mapping of modules to weights is the recorded one, so that what is tested is what the model computes.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import lora_graph as lg
from lora_graph.ir.types import Array

ROOT = Path(__file__).parents[3] / "shared" / "fixtures"
PREFIX = "base_model.model."
TUCKER = "ijkl,ip,jr->prkl"
DTYPES = {"F32": np.dtype("<f4"), "BF16": np.dtype("<u2")}


@dataclass(frozen=True)
class Recorded:
    """One base model and what was recorded for an adapter on it."""

    folder: Path
    model: Path

    def __str__(self) -> str:
        return str(self.model.relative_to(ROOT).with_suffix(""))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        return found

    @cached_property
    def tensors(self) -> dict[str, Array]:
        """The adapter's tensors by their name in the file, less its prefix; bfloat16 widened to float32."""
        content = (self.folder / self.manifest["adapter_dir"] / "adapter_model.safetensors").read_bytes()
        size = int.from_bytes(content[:8], "little")
        header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
        found = {}
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                array = np.frombuffer(data[start:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
                if entry["dtype"] == "BF16":
                    array = (array.astype(np.uint32) << 16).view(np.float32)
                found[name.removeprefix(PREFIX)] = array
        return found

    def own(self, module: str) -> dict[str, Array]:
        """The tensors of one adapted module: ``lora_A``, ``lokr_w1`` …"""
        return {
            name.removeprefix(f"{module}.").removesuffix(".weight"): array
            for name, array in self.tensors.items()
            if name.startswith((f"{module}.lora_", f"{module}.lokr_"))
        }

    @cached_property
    def modules(self) -> dict[str, float]:
        """The adapted modules, with the scale of each."""
        return {name: entry["scaling"] for name, entry in self.manifest["per_layer"].items()}

    @cached_property
    def trained(self) -> dict[str, tuple[str, bool]]:
        """The parameters of the base that trained as well, as the file calls them, and whether it transposes them."""
        names = [name for name in self.gradients if ".lora_" not in name and ".lokr_" not in name]
        return {name: self.initializer(name.replace(".base_layer.", ".")) for name in names}

    def initializer(self, parameter: str, *, is_lookup: bool = False) -> tuple[str, bool]:
        """What the file calls a parameter, and whether it holds the transpose. LookupError if it is not in the file."""
        exported = self.manifest["onnx"][str(self.model.relative_to(self.folder))]["param_map_by_value"]
        found = [
            entry
            for entry in exported[parameter]["found"]
            if is_lookup == any(user["op"] == "Gather" for user in entry["users"])
        ]
        if not found:
            raise LookupError(f"{self.model} has no {parameter} of its own")
        return found[0]["initializer"], found[0]["layout"] == "transposed"

    def target(self, module: str) -> str:
        return self.initializer(f"{module}.weight", is_lookup="lora_embedding_A" in self.own(module))[0]

    @cached_property
    def io(self) -> dict[str, Array]:
        with np.load(self.folder / "io.npz") as file:
            return {name: file[name] for name in file.files}

    @property
    def inputs(self) -> dict[str, Array]:
        return {name.removeprefix("input/"): array for name, array in self.io.items() if name.startswith("input/")}

    @cached_property
    def gradients(self) -> dict[str, Array]:
        """The recorded gradients by the name of the tensor."""
        with np.load(self.folder / "grads.npz") as file:
            return {name.removeprefix(f"grad/{PREFIX}"): file[name] for name in file.files if name != "target"}

    @cached_property
    def wanted(self) -> Array:
        """What the loss compared the output with."""
        with np.load(self.folder / "grads.npz") as file:
            target: Array = file["target"]
            return target


def recorded() -> Iterator[Recorded]:
    """Every case with gradients whose adapters stand at weights of the file, as they are there."""
    for folder in sorted(path.parent for path in ROOT.glob("*/grads.npz")):
        for model in sorted(folder.glob("**/base_*.onnx")):
            case = Recorded(folder, model)
            if all(_is_plain(case, module) for module in case.modules):
                yield case


def _is_plain(case: Recorded, module: str) -> bool:
    own = case.own(module)
    if "lora_magnitude_vector" in own or case.manifest["adapter_config"].get("init_lora_weights") == "pissa":
        return False  # a magnitude beside the pair; another base than the file's
    try:
        case.target(module)
    except LookupError:
        return False  # folded into a normalization
    return True


def adapted(case: Recorded) -> lg.AdaptedModel:
    """The base with an adapter for each recorded module, and with the parameters set that trained beside them."""
    labels = [glob.escape(label) for label, _ in case.trained.values()]
    model = lg.AdaptedModel(lg.load_onnx(case.model), unfreeze=labels)
    for name, (label, is_transposed) in case.trained.items():
        model.base.set_parameter(label, _turned(case.tensors[name], is_transposed))
    kernels = {target.name: target.site.kernel for target in model.targets()}
    options: dict[str, Any]
    for number, (module, scaling) in enumerate(case.modules.items()):
        tensors, label = case.own(module), case.target(module)
        if "lokr_w2_a" in tensors or "lokr_w2" in tensors:
            arrays = factors(tensors, kernels[label])
            options = {"rank": 1, "factors": tuple(array.shape[:2] for array in arrays)}
            model.add_adapter(f"a{number}", "lokr", targets=glob.escape(label), alpha=scaling, **options)
        else:
            arrays, rank = pair(tensors), len(next(array for name, array in tensors.items() if name.endswith("_A")))
            options = {"rank": rank, "wide": True, "dense": True}
            model.add_adapter(f"a{number}", "lora", targets=glob.escape(label), alpha=scaling * rank, **options)
        for parameter, array in zip(_parameters(model, number), arrays, strict=True):
            model.set_parameter(parameter, array)
    return model


def gradients_of_tensors(case: Recorded, model: lg.AdaptedModel, found: Mapping[str, Array]) -> dict[str, Array]:
    """The gradients of the model's parameters as those of the recorded tensors."""
    result = {name: _turned(found[f"base.{label}"], turned) for name, (label, turned) in case.trained.items()}
    for number, module in enumerate(case.modules):
        tensors = case.own(module)
        da, db = (found[name] for name in _parameters(model, number))
        is_pair = any(name.startswith("lora_") for name in tensors)
        for name, gradient in (pair_gradients if is_pair else factor_gradients)(tensors, da, db).items():
            key = f"{module}.{name}"
            result[f"{key}.weight" if f"{key}.weight" in case.tensors else key] = gradient
    return result


def pair(tensors: Mapping[str, Array]) -> tuple[Array, Array]:
    """A and B of a low-rank pair as we hold them: matrices are transposed, convolutions are not."""
    a, b = (array for _, array in sorted(tensors.items()))
    return (a, b) if a.ndim > 2 else (a.T, b.T)


def pair_gradients(tensors: Mapping[str, Array], da: Array, db: Array) -> dict[str, Array]:
    first, second = sorted(tensors)
    return {first: da if da.ndim > 2 else da.T, second: db if db.ndim > 2 else db.T}


def factors(tensors: Mapping[str, Array], kernel: tuple[int, ...]) -> tuple[Array, Array]:
    """A and B of a Kronecker product, multiplied out where the file has them in parts."""
    if "lokr_t2" in tensors:
        second = np.einsum(TUCKER, tensors["lokr_t2"], tensors["lokr_w2_a"], tensors["lokr_w2_b"])
    else:
        second = _whole(tensors, "lokr_w2")
    return _whole(tensors, "lokr_w1"), second.reshape(len(second), -1, *kernel)


def factor_gradients(tensors: Mapping[str, Array], da: Array, db: Array) -> dict[str, Array]:
    """By the chain rule from those of A and B."""
    if "lokr_t2" not in tensors:
        return {**_parts(tensors, "lokr_w1", da), **_parts(tensors, "lokr_w2", db.reshape(len(db), -1))}
    core, a, b = tensors["lokr_t2"], tensors["lokr_w2_a"], tensors["lokr_w2_b"]
    return {
        **_parts(tensors, "lokr_w1", da),
        "lokr_t2": np.einsum("prkl,ip,jr->ijkl", db, a, b),
        "lokr_w2_a": np.einsum("prkl,ijkl,jr->ip", db, core, b),
        "lokr_w2_b": np.einsum("prkl,ijkl,ip->jr", db, core, a),
    }


def _whole(tensors: Mapping[str, Array], name: str) -> Array:
    return tensors[name] if name in tensors else tensors[f"{name}_a"] @ tensors[f"{name}_b"]


def _parts(tensors: Mapping[str, Array], name: str, gradient: Array) -> dict[str, Array]:
    if name in tensors:
        return {name: gradient.reshape(tensors[name].shape)}
    a, b = tensors[f"{name}_a"], tensors[f"{name}_b"]
    return {f"{name}_a": gradient @ b.T, f"{name}_b": a.T @ gradient}


def _parameters(model: lg.AdaptedModel, number: int) -> list[str]:
    """A and B of an adapter at one weight."""
    (branch,) = model.adapters[f"a{number}"].branches
    return [f"a{number}.{branch}.{name}" for name in "AB"]


def _turned(array: Array, is_transposed: bool) -> Array:
    return array.T if is_transposed else array
