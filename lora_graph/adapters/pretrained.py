"""Writing adapters as PEFT saves them: ``adapter_config.json`` and ``adapter_model.safetensors`` in a folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lora_graph.adapters.adapter import Adapter
from lora_graph.adapters.peft_forms import Written, kronecker_options, written
from lora_graph.adapters.targets import Target
from lora_graph.files import atomic_write
from lora_graph.ir.types import Array
from lora_graph.layers.weights import save_weights

CONFIG, TENSORS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."


class Naming:
    """What the modules of a model are called: ``known`` paths by weight, else names and scopes of ``targets``."""

    def __init__(self, targets: Sequence[Target], known: Mapping[str, str]) -> None:
        self._targets = {target.name: target for target in targets}
        self._known = known

    def module(self, label: str) -> str:
        """The path of the module whose weight is the parameter ``label``; ValueError where nothing tells it."""
        module, _ = self.split(label)
        if not module:
            raise ValueError(f"modules must name the module of {label}, which nothing in the model does")
        return module

    def split(self, label: str) -> tuple[str, str]:
        """The module, "" where nothing tells it, and the name that a parameter has in it."""
        module, _, name = label.rpartition(".")
        if label not in self._targets:
            return module, name
        named = module if name == "weight" else self._targets[label].module
        return self._known.get(label, named), "weight"

    def as_module(self, label: str, array: Array) -> Array:
        """The array as the module has it: a linear layer's weight was transposed where it lost its name."""
        return array.T if label in self._targets and self._is_flipped(label) and not self.is_conv1d(label) else array

    def is_conv1d(self, label: str) -> bool:
        """Whether the module holds its weight as ``[in, out]``: exporters keep its name then, and its layout."""
        return self._is_flipped(label) and label.endswith(".weight")

    def _is_flipped(self, label: str) -> bool:
        target = self._targets[label]
        return target.kind == "linear" and not target.site.is_transposed


def write_pretrained(
    folder: Path, adapter: Adapter, naming: Naming, base: Mapping[str, Array], trained: Sequence[str], base_name: str
) -> None:
    """Write ``adapter``, and those parameters of its ``base`` that are named in ``trained``, for PEFT to load.

    ValueError naming the weight for one whose module is not known, or for a form that PEFT does not have.
    """
    places = dict(zip(adapter.sites, adapter.branches.values(), strict=True))
    found = {naming.module(site.label): written(adapter, site, branch) for site, branch in places.items()}
    if len(found) < len(places):
        raise ValueError(f"modules must be as many as weights, got {sorted(found)} for {len(places)}")
    tensors = {f"{module}.{name}": array for module, item in found.items() for name, array in item.tensors.items()}
    whole = _whole_modules(naming, base, trained, found)
    for label in dict.fromkeys([*trained, *(label for labels in whole.values() for label in labels)]):
        module, name = naming.module(label), naming.split(label)[1]
        key = f"{module}.base_layer.{name}" if module in found else f"{module}.{name}"
        array = naming.as_module(label, base[label])
        # an exporter may name the table of an embedding after the head that is tied to it
        if label in trained and not np.array_equal(tensors.setdefault(key, array), array):
            raise ValueError(f"modules must tell {label} from another parameter: both are {key}")
        tensors.setdefault(key, array)
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": base_name or None,
        "inference_mode": True,
        "modules_to_save": sorted(whole) or None,
        "target_modules": sorted(found),
        "task_type": None,
        **_family_options(adapter, naming, found),
    }
    content = {PREFIX + key: np.ascontiguousarray(array) for key, array in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(content, folder / TENSORS, {"format": "pt"})
    with atomic_write(folder / CONFIG) as file:
        file.write((json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _whole_modules(
    naming: Naming, base: Mapping[str, Array], trained: Sequence[str], adapted: Mapping[str, Written]
) -> dict[str, list[str]]:
    """The modules that train without an adapter, with all of their parameters: PEFT keeps these together."""
    modules = {naming.module(label) for label in trained} - adapted.keys()
    parts = [(naming.split(label)[0], label) for label in base]
    return {module: [label for owner, label in parts if owner == module] for module in modules}


def _family_options(adapter: Adapter, naming: Naming, found: Mapping[str, Written]) -> dict[str, Any]:
    """The options of LoRA or LoKr: rank and alpha, by patterns where they differ, and what the form needs."""
    rank, alpha = (Counter(values).most_common(1)[0][0] for values in zip(*map(_scale, found.values()), strict=True))
    patterns: dict[str, Any] = {
        "r": rank,
        "rank_pattern": {_pattern(m): item.rank for m, item in found.items() if item.rank != rank},
        "alpha_pattern": {_pattern(m): _plain(item.alpha) for m, item in found.items() if item.alpha != alpha},
    }
    if adapter.family == "lokr":
        return {"peft_type": "LOKR", "alpha": _plain(alpha), **patterns, **kronecker_options(adapter)}
    labels = [site.label for site in adapter.sites if not site.is_lookup and not site.kernel]
    return {
        "peft_type": "LORA",
        "lora_alpha": _plain(alpha),
        **patterns,
        "bias": "none",
        "fan_in_fan_out": bool(labels) and all(map(naming.is_conv1d, labels)),
        "init_lora_weights": True,
        "lora_bias": any("lora_B.bias" in item.tensors for item in found.values()),
        "lora_dropout": 0.0,
        "use_dora": adapter.family == "dora",
        "use_rslora": False,
    }


def _scale(item: Written) -> tuple[int, float]:
    return item.rank, item.alpha


def _pattern(module: str) -> str:
    """A pattern for one module alone: PEFT's match the ends of names."""
    return "^" + re.escape(module)


def _plain(alpha: float) -> int | float:
    return int(alpha) if alpha == int(alpha) else alpha
