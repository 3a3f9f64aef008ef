"""What the keys of a PEFT file say: which module a tensor belongs to, and what of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_graph.errors import LoadError
from lora_graph.interop.forms import Names
from lora_graph.interop.kronecker import NAMES as LOKR
from lora_graph.interop.tensors import Tensors
from lora_graph.ir.types import Array

PREFIX = "base_model.model."


def _norms(out: int, inner: int, ones: tuple[int, ...]) -> dict[tuple[int, ...], str]:
    return {(out,): "output", (1, out, *ones): "output"} if ones else {(out,): "output"}


PAIR = Names("lora_A.weight", "lora_B.weight", "", "lora_B.bias", "lora_magnitude_vector", _norms)
EMBEDDING = Names("lora_embedding_A", "lora_embedding_B", magnitude="lora_magnitude_vector", norms=_norms)
_SPELLINGS = {"lora_magnitude_vector.weight": "lora_magnitude_vector"}
"""What older versions called a tensor."""


@dataclass
class Keys:
    """The tensors of a file, sorted."""

    adapters: dict[str, Tensors] = field(default_factory=dict)
    """Those of an adapter, by module."""
    base: dict[str, tuple[str, Array]] = field(default_factory=dict)
    """New values for parameters of the base, by the parameter's name, with the name of the tensor."""


def sort_keys(path: Path, tensors: Mapping[str, Array]) -> Keys:
    """LoadError naming the tensor for a key that is not PEFT's."""
    keys = Keys()
    for key, array in tensors.items():
        if not key.startswith(PREFIX):
            raise LoadError(f"{path}: {key} does not begin with {PREFIX!r}, as the tensors of PEFT do")
        name = key.removeprefix(PREFIX)
        module, parameter = _split(name)
        if parameter:
            keys.adapters.setdefault(module, Tensors(path, f"{PREFIX}{module}.")).add(parameter, array)
        elif ".original_module." not in name:  # what was replaced, kept by oversight
            _add_base(path, keys, key, name, array)
    return keys


def _split(name: str) -> tuple[str, str]:
    """The module and the parameter of an adapter's tensor; "" and "" for one of the base."""
    for parameter in (*PAIR.known, *EMBEDDING.known, *LOKR, *_SPELLINGS):
        if name.endswith(f".{parameter}"):
            return name.removesuffix(f".{parameter}"), _SPELLINGS.get(parameter, parameter)
    return "", ""


def _add_base(path: Path, keys: Keys, key: str, name: str, array: Array) -> None:
    label = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
    other, known = keys.base.get(label, (key, array))
    if known.shape != array.shape or known.tobytes() != array.tobytes():
        raise LoadError(f"{path}: {key} and {other} are the same parameter with different values")
    keys.base[label] = key, array
