"""What a form of deployment makes of a layer: a graph and its arrays, ready to be written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array
from lora_graph.layers.imported import ADAPTERS, FORM

FINGERPRINT, SLOTS = "lora_graph.fingerprint", "lora_graph.slots"
"""The metadata in which a model names its base, and what adapter files give it (a list of names as JSON)."""


@dataclass(frozen=True)
class Deployment:
    """``graph`` with the arrays of ``state``; those that ``slots`` name can be given anew when the model runs."""

    graph: Graph
    state: Mapping[str, Array]
    slots: tuple[str, ...] = ()
    overridable: tuple[str, ...] = ()
    """Further parameters that can be given at run time, but in no adapter file."""
    described: list[dict[str, Any]] = field(default_factory=list)
    """The adapters that are in the model, as their records in its metadata."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further metadata."""

    def metadata(self, form: str, fingerprint: str) -> dict[str, str]:
        found = {FORM: form, ADAPTERS: json.dumps(self.described), **self.extra}
        if self.slots:
            found |= {FINGERPRINT: fingerprint, SLOTS: json.dumps(self.slots)}
        return found
