"""What identifies a training run: settings that have to be the same for another run to go on from its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from lora_graph.ir.dims import names
from lora_graph.ir.types import Array, type_of
from lora_graph.layers.trace import Trace, trace
from lora_graph.train.step import TrainingStep

PROBES = 16
"""How many samples of a draw tell it from another one."""


def settings_of(training: TrainingStep, **chosen: Any) -> dict[str, Any]:
    """The settings of a run by name, as plain data: ``chosen``, those of the step, and fingerprints of the model."""
    traced = trace(training.model)
    varying = {*training.model.trainable_parameters(), *traced.updates}
    frozen = {name: array for name, array in training.base.items() if name not in varying}
    return {
        **chosen,
        "loss": plain(training.loss),
        "output": training.output,
        "optimizer": plain(training.optimizer),
        "clip_norm": training.clipping.norm,
        "clip_value": training.clipping.value,
        "model": fingerprint(_description(traced)),
        "frozen parameters": fingerprint(_content(frozen)),
    }


def plain(value: Any) -> Any:
    """Numbers, text, and dataclasses of them as JSON has them. What is no data (a function) is only called custom."""
    if is_dataclass(value):
        return {"type": type(value).__name__, **{f.name: plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, str | int | float) else "custom"


def fingerprint(parts: Iterable[bytes]) -> str:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _description(traced: Trace) -> Iterable[bytes]:
    """The graph as text. Samplers are no part of it, so each is known by what it gives for a fixed generator."""
    yield str(traced.graph).encode()
    yield str(traced.graph.with_outputs({**traced.updates, **traced.active})).encode()
    for draw in traced.draws:
        binding = dict.fromkeys((name for d in draw.type.shape for name in names(d)), PROBES)
        rng = np.random.default_rng(0)
        for _ in range(PROBES):
            yield draw.sample(rng, binding).tobytes()


def _content(arrays: dict[str, Array]) -> Iterable[bytes]:
    for name in sorted(arrays):
        yield f"{name}: {type_of(arrays[name])}".encode()
        yield arrays[name].tobytes()
