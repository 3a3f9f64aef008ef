"""``adapter_config.json`` of PEFT: what of it matters once there are tensors, and what is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_graph.errors import LoadError

CONFIG = "adapter_config.json"

_READ = {
    "LORA": {
        "r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "init_lora_weights", "rank_pattern",
        "alpha_pattern", "peft_type", "modules_to_save", "bias",
    },
    "LOKR": {"r", "alpha", "rank_pattern", "alpha_pattern", "peft_type", "modules_to_save"},
}  # fmt: skip
_HARMLESS = {
    # where the adapter came from
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type",
    # which modules it was made for, which the names of the tensors tell better
    "target_modules", "exclude_modules", "layers_pattern", "layers_to_transform", "lora_bias", "ensure_weight_tying",
    "decompose_both", "decompose_factor", "use_effective_conv2d", "megatron_core", "megatron_config",
    # how it was started, or held back, in training
    "init_weights", "lora_dropout", "rank_dropout", "module_dropout", "rank_dropout_scale", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "runtime_config", "qalora_group_size",
}  # fmt: skip
_RESIDUAL = ("pissa", "olora")
"""Initializations that take something out of the base which depends on nothing but the base."""
_PLAIN = ("gaussian", "eva", "orthogonal")
"""Initializations that leave the base as it is, beside true and false."""


REPEATED_GROUP = re.compile(r"\)[*+{]")
"""What makes the time that a regular expression takes grow exponentially, and no name of a module needs."""


@dataclass(frozen=True)
class PeftConfig:
    """How PEFT scales what the tensors hold: α/r, or α/√r with ``use_rslora``, each by module where patterns say so."""

    kind: str
    """``LORA`` or ``LOKR``."""
    rank: int
    alpha: float
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    residual: str = ""
    """``pissa`` or ``olora`` where that was taken out of the base's weights."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    modules_to_save: tuple[str, ...] = ()
    """The modules that were copied and trained as a whole."""

    @classmethod
    def read(cls, folder: Path) -> PeftConfig:
        """LoadError naming file and option for what cannot be read, or cannot be honoured."""
        path = folder / CONFIG
        record = _record(path)
        kind = record.get("peft_type")
        if kind not in _READ:
            raise LoadError(f"{path}: peft_type must be one of {', '.join(_READ)}, got {kind!r}")
        for name, value in record.items():
            if name not in _READ[kind] | _HARMLESS and value:
                raise LoadError(f"{path}: {name} = {_short(value)} cannot be honoured")
        option = _Options(path, record)
        return cls(
            kind,
            option.integer("r"),
            option.number("lora_alpha" if kind == "LORA" else "alpha"),
            option.flag("use_rslora"),
            option.flag("use_dora"),
            option.flag("fan_in_fan_out"),
            _residual(path, record.get("init_lora_weights", True)),
            option.pattern("rank_pattern", option.integer),
            option.pattern("alpha_pattern", option.number),
            option.names("modules_to_save"),
        )

    def rank_of(self, module: str) -> int:
        """What the patterns say of a module."""
        return int(_first(self.rank_pattern, module, self.rank))

    def scale_of(self, module: str, rank: int) -> float:
        """s for a module whose tensors have this rank."""
        alpha = float(_first(self.alpha_pattern, module, self.alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _first(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern, in the order of the file, that the module's name ends in."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: not JSON") from error
    if not isinstance(record, dict):
        raise LoadError(f"{path}: not a record of options")
    return record


def _residual(path: Path, initialization: Any) -> str:
    if isinstance(initialization, bool) or initialization in _PLAIN or initialization is None:
        return ""
    if initialization in _RESIDUAL:
        return str(initialization)
    raise LoadError(
        f"{path}: init_lora_weights = {_short(initialization)} cannot be honoured: it may have changed the base in "
        f"a way that cannot be found out again; {', '.join((*_RESIDUAL, *_PLAIN))}, true and false can"
    )


@dataclass(frozen=True)
class _Options:
    """The options of a file, checked as they are asked for."""

    path: Path
    record: Mapping[str, Any]

    def integer(self, name: str, value: Any = None) -> int:
        given = self.record.get(name) if value is None else value
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise LoadError(f"{self.path}: {name} must be an int of at least 1, got {_short(given)}")
        return given

    def number(self, name: str, value: Any = None) -> float:
        given = self.record.get(name) if value is None else value
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
            raise LoadError(f"{self.path}: {name} must be a positive number, got {_short(given)}")
        return float(given)

    def flag(self, name: str) -> bool:
        given = self.record.get(name) or False
        if not isinstance(given, bool):
            raise LoadError(f"{self.path}: {name} must be true or false, got {_short(given)}")
        return given

    def names(self, name: str) -> tuple[str, ...]:
        given = self.record.get(name) or []
        if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
            raise LoadError(f"{self.path}: {name} must be a list of names, got {_short(given)}")
        return tuple(given)

    def pattern(self, name: str, check: Any) -> dict[str, Any]:
        given = self.record.get(name) or {}
        if not isinstance(given, dict):
            raise LoadError(f"{self.path}: {name} must map patterns to numbers, got {_short(given)}")
        for key in given:
            try:
                re.compile(key)
            except re.error as error:
                raise LoadError(f"{self.path}: {name}: {key!r} is no regular expression: {error}") from error
            if REPEATED_GROUP.search(key):
                raise LoadError(
                    f"{self.path}: {name}: {key!r} repeats a group, which can take for ever to match; "
                    "write out the names of the modules"
                )
        return {key: check(f"{name} of {key!r}", value) for key, value in given.items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
