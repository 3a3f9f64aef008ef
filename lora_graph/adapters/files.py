"""Adapters in files of their own: their parameters, how they were made, and which base they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from lora_graph.errors import LoadError
from lora_graph.ir.types import Array
from lora_graph.layers.weights import WeightReport, read_metadata, read_safetensors, save_weights

CONFIG = "lora_graph.adapter"
"""The metadata of a safetensors file in which an adapter says what it is, as JSON."""
BASE = "base."
"""Stands before the parameters of the base that were trained with the adapter and are kept in its file."""


@dataclass(frozen=True)
class AdapterConfig:
    """How an adapter was made: its family, the rank and alpha at each weight, and the family's own options."""

    family: str
    rank: int
    alpha: float
    weights: Mapping[str, tuple[int, float]]
    """Rank and alpha by the name of the base's parameter."""
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What can be set after the adapter is made, such as the rank that is deployed."""
    fingerprint: str = ""
    """Of the base's parameters that are not in the file."""
    fixed: Sequence[str] = ()
    """Those of the base's parameters in the file that do not train."""

    def to_json(self) -> str:
        """The text of the metadata; TypeError for an option that JSON has no form for."""
        try:
            return json.dumps(asdict(self), default=_plain)
        except TypeError as error:
            raise TypeError(f"an adapter with the options {dict(self.options)!r} cannot be written: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> AdapterConfig:
        """ValueError for text that is not what :meth:`to_json` writes."""
        try:
            record = json.loads(text)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        names = {item.name for item in fields(cls)}
        if not isinstance(record, dict) or record.keys() != names:
            raise ValueError(f"expected a record of {', '.join(sorted(names))}")
        weights = record["weights"]
        if not isinstance(weights, dict) or not weights:
            raise ValueError(f"weights must name at least one parameter, got {weights!r}")
        for name, pair in weights.items():
            if not isinstance(pair, list) or [type(item) for item in pair] not in ([int, float], [int, int]):
                raise ValueError(f"{name} must have a rank and an alpha, got {pair!r}")
        kinds = {
            "family": str,
            "rank": int,
            "alpha": int | float,
            "options": dict,
            "settings": dict,
            "fingerprint": str,
            "fixed": list,
        }
        for name, kind in kinds.items():
            if not isinstance(record[name], kind):
                raise ValueError(f"{name} must be {kind}, got {record[name]!r}")
        return cls(**{**record, "weights": {name: (rank, float(alpha)) for name, (rank, alpha) in weights.items()}})


def write_adapter(path: str | Path, config: AdapterConfig, tensors: Mapping[str, Array]) -> None:
    """A safetensors file with ``config`` in its metadata, written atomically."""
    save_weights(tensors, path, {CONFIG: config.to_json()})


def read_adapter(path: str | Path) -> tuple[AdapterConfig, dict[str, Array]]:
    """What :func:`write_adapter` wrote; LoadError for any other file."""
    text = read_metadata(path).get(CONFIG)
    if text is None:
        raise LoadError(f"{path}: not an adapter of lora_graph: its metadata has no {CONFIG!r}")
    try:
        config = AdapterConfig.from_json(text)
    except ValueError as error:
        raise LoadError(f"{path}: its metadata {CONFIG!r} cannot be read: {error}") from error
    return config, read_safetensors(path)


def check_tensors(path: str | Path, tensors: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    """LoadError unless ``tensors`` have exactly the names, shapes and dtypes of ``wanted`` and are finite."""
    report = WeightReport.compare(tensors, wanted)
    if not report.ok:
        raise LoadError(f"{path}: its tensors do not fit the model: {report}")
    for name, array in tensors.items():
        if array.dtype != wanted[name].dtype:
            raise LoadError(f"{path}: {name} is {array.dtype}, the model has {wanted[name].dtype}")
        if not np.isfinite(array).all():
            raise LoadError(f"{path}: {name} holds values that are not finite")


def fingerprint(arrays: Mapping[str, Array], left_out: Iterable[str] = ()) -> str:
    """A digest of names, types and bytes; for those of ``left_out`` of names and types alone."""
    digest, without = blake2b(digest_size=16), set(left_out)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        if name not in without:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """NumPy numbers and ranges as JSON has them."""
    if isinstance(value, np.integer | np.floating):
        return value.item()
    if isinstance(value, range | np.ndarray):
        return [_plain(item) if isinstance(item, np.generic) else item for item in value]
    raise TypeError(f"{value!r} has no form in JSON")
