"""The adapters that a session has loaded: checked once against its model, kept alive, and activated for single runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import onnxruntime

from lora_graph.errors import LoadError
from lora_graph.ir import dims
from lora_graph.ir.types import TensorType
from lora_graph.onnx.adapter_file import inspect_adapter, model_version
from lora_graph.onnx.forms.deployment import FINGERPRINT, SLOTS

Chosen = str | Sequence[str] | None


@dataclass(frozen=True)
class Loaded:
    """An adapter as ONNX Runtime holds it, which is only as long as this object is there, and what it sets."""

    native: Any
    types: Mapping[str, TensorType]


class Swap:
    """Adapters by name, for a model with the overridable initializers ``slots``. Several threads may use it at once.

    ONNX Runtime itself passes over a missing array, an adapter for another model, a second adapter with the same names
    and a fed value that an adapter overrides; here each of these is an error.
    """

    def __init__(self, overridable: Mapping[str, TensorType], metadata: Mapping[str, str]) -> None:
        self._slots = {name: overridable[name] for name in _listed(metadata, overridable) if name in overridable}
        self._version = model_version(metadata[FINGERPRINT]) if FINGERPRINT in metadata else None
        self._loaded: dict[str, Loaded] = {}
        self._lock = Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """What is loaded, in order."""
        with self._lock:
            return tuple(self._loaded)

    def load(self, path: str | os.PathLike[str], name: str | None, partial: bool) -> str:
        """Load the file and return the name of the adapter: ``name``, or what the file is called."""
        called = Path(path).stem if name is None else name
        if not isinstance(called, str) or not called:
            raise TypeError(f"name must be a non-empty string, got {name!r}")
        if called in self.names:
            raise ValueError(f"an adapter called {called!r} is loaded already: unload_adapter({called!r}) first")
        if not self._slots:
            raise ValueError("the model takes no adapters: export it with form='hot-swap'")
        types = self._checked(path, partial)
        native = onnxruntime.LoraAdapter()
        native.Load(os.fspath(path))
        with self._lock:
            if called in self._loaded:
                raise ValueError(f"an adapter called {called!r} is loaded already")
            self._loaded[called] = Loaded(native, types)
        return called

    def unload(self, name: str) -> None:
        """Forget an adapter; runs that have begun with it end with it."""
        with self._lock:
            if name not in self._loaded:
                raise ValueError(_unknown(name, self._loaded))
            del self._loaded[name]

    def choose(self, chosen: Chosen, fed: Mapping[str, Any]) -> list[Loaded]:
        """The adapters for a run that is fed ``fed``; ValueError where two set the same, or one is unknown."""
        names = [chosen] if isinstance(chosen, str) else list(chosen or ())
        with self._lock:
            unknown = [name for name in names if name not in self._loaded]
            if unknown:
                raise ValueError(_unknown(unknown[0], self._loaded))
            found = [self._loaded[name] for name in names]
        owner: dict[str, str] = dict.fromkeys(fed, "a value that is fed")
        for name, loaded in zip(names, found, strict=True):
            for label in loaded.types:
                if label in owner:
                    raise ValueError(f"adapter {name!r} and {owner[label]} both set {label!r}: only one of them can")
                owner[label] = f"adapter {name!r}"
        return found

    def _checked(self, path: str | os.PathLike[str], partial: bool) -> dict[str, TensorType]:
        """The types of the arrays in the file; LoadError unless they are what the model's slots take."""
        (types, version), where = inspect_adapter(path), os.fspath(path)
        if self._version is not None and version != self._version:
            raise LoadError(f"{where}: the adapter was made for another base (or the base has changed since)")
        unknown = sorted(types.keys() - self._slots.keys())
        if unknown:
            raise LoadError(f"{where}: the model has no slot {unknown[0]!r}; it has {', '.join(self._slots)}")
        missing = [name for name in self._slots if name not in types]
        if missing and not partial:
            raise LoadError(f"{where}: {missing[0]!r} is missing, which would stay at its default (see partial=True)")
        binding: dict[str, int] = {}
        fit = {n: dims.fits(self._slots[n].shape, dims.sizes(kind.shape, {}), binding) for n, kind in types.items()}
        for name, kind in types.items():
            wanted = self._slots[name].substitute(binding)
            if not fit[name] or wanted != kind:
                raise LoadError(f"{where}: {name} is {kind}, the model takes {wanted}")
        for name in missing:
            if any(size in binding for dimension in self._slots[name].shape for size in dims.names(dimension)):
                raise LoadError(f"{where}: {name!r} is missing, but what it is multiplied with is there")
        return types


def _listed(metadata: Mapping[str, str], overridable: Iterable[str]) -> list[str]:
    """What the model says its slots are; all of ``overridable`` where it says nothing."""
    if SLOTS not in metadata:
        return list(overridable)
    try:
        listed = json.loads(metadata[SLOTS])
    except (ValueError, RecursionError) as error:
        raise LoadError(f"the model's metadata {SLOTS} is not JSON") from error
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise LoadError(f"the model's metadata {SLOTS} must be a list of names, got {metadata[SLOTS]!r}")
    return listed


def _unknown(name: str, loaded: Mapping[str, Loaded]) -> str:
    return f"no adapter called {name!r} is loaded; there are {', '.join(map(repr, loaded)) or 'none'}"
