"""Exporting layers: one form of deployment, one pipeline, the same lowering."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import onnx

from lora_graph import checks
from lora_graph.adapters.adapted import AdaptedModel
from lora_graph.adapters.adapter import Adapter
from lora_graph.errors import MergeError
from lora_graph.ir.value import Value, topological
from lora_graph.layers.imported import ADAPTERS, FORM, ImportedLayer
from lora_graph.layers.interface import Axes
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Place
from lora_graph.onnx.importer import read_model
from lora_graph.onnx.model import lower
from lora_graph.onnx.source import ModelSource
from lora_graph.onnx.store import export_model
from lora_graph.rewrite.pipeline import Optimized, optimize_graph

FORMS = {"parallel": "export", "merged": "deploy"}
"""The pipeline of each form: adapters beside their base, or folded into it."""


def export_onnx(
    layer: Layer,
    path: str | os.PathLike[str] | None = None,
    *,
    form: str = "parallel",
    opset: int = 21,
    input_shape: Axes | Mapping[str, Axes] | None = None,
) -> onnx.ModelProto:
    """The evaluation graph of ``layer`` as an ONNX model, written to ``path`` if that is given.

    It goes from ``x`` to ``y``, or between the names that a model which was read, or an adapter around it, has already.

    ``form="parallel"`` keeps adapters beside their base, with the scale s folded into their matrices (the metadata
    ``lora_graph.adapters`` says into which); ``form="merged"`` folds them into the base, and raises MergeError where
    that is not exact. The weights of an adapted model then have the names of its base. The batch dimension stays
    symbolic. The opset is 21 to 26. Weights over 1 GiB go to external data beside ``path``; without a path more than
    2 GB are a ValueError.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"layer must be a Layer, got {layer!r}")
    checks.choice("form", form, list(FORMS))
    checks.integer("opset", opset)
    adapters = describe_adapters(layer)
    if form == "merged" and isinstance(layer, AdaptedModel):
        layer = layer.merge_to_base()
    optimized = optimize_graph(layer.to_graph(input_shape), FORMS[form])
    if form == "merged":
        _require_merged(layer, optimized, adapters)
    state = optimized.state(layer.state)
    metadata = _metadata(form, optimized, adapters)
    if path is None:
        return lower(optimized.graph, state, opset=opset, metadata=metadata)
    export_model(optimized.graph, state, path, opset=opset, metadata=metadata)
    return onnx.load(os.fspath(path), load_external_data=False)


def load_onnx(source: ModelSource) -> ImportedLayer:
    """The ONNX model at a path, in bytes, in a ModelProto or of an onnxscript function, as a layer.

    LoadError for what cannot be trusted or read, naming the file and the node or tensor.
    """
    imported = read_model(source)
    return ImportedLayer(imported.graph, imported.state, imported.metadata)


def describe_adapters(layer: Layer) -> list[dict[str, Any]]:
    """Every adapter that takes part in ``layer``: path, family, rank, alpha, scaling, site, names of parameters.

    ``exported_rank`` is how many of the components are in the model: for DyLoRA the rank that it was deployed at.
    """
    found: list[dict[str, Any]] = []
    places = layer.places()
    models = [part for part in places if isinstance(part, AdaptedModel)]
    idle = {adapter for m in models for name, adapter in m.adapters.items() if name not in m.active_adapters}
    for part, place in places.items():
        if isinstance(part, ImportedLayer):
            found.extend(_moved(adapter, place) for adapter in part.adapters)
        elif isinstance(part, Adapter) and part not in idle:
            names = [places[b].label(name) for b in part.branches.values() for name in b.get_parameter_names()]
            found.append(
                {
                    "path": place.path,
                    "family": part.family,
                    "rank": part.rank,
                    "exported_rank": part.exported_rank,
                    "alpha": part.alpha,
                    "scaling": part.scaling,
                    "site": part.site,
                    "parameters": names,
                    "scale_folded_into": [],
                }
            )
    return found


def _metadata(form: str, optimized: Optimized, adapters: list[dict[str, Any]]) -> dict[str, str]:
    """What a reader of the file may want to know. Once s is folded into a matrix, it is folded for good."""
    scaled = {name for prelude, _ in optimized.preludes for name, y in prelude.outputs.items() if _is_arithmetic(y)}
    kept = [
        {**adapter, "scale_folded_into": sorted({*adapter["scale_folded_into"], *scaled} & {*adapter["parameters"]})}
        for adapter in adapters
    ]
    return {FORM: form, ADAPTERS: json.dumps(kept if form == "parallel" else _as_merged(adapters))}


def _is_arithmetic(y: Value) -> bool:
    """Whether ``y`` has other numbers than the parameters it is made of; a slice of one has the same."""
    return any(value.op.elementwise for value in topological([y]))


def _moved(adapter: dict[str, Any], place: Place) -> dict[str, Any]:
    """The adapter of a model that was read, under the path that the model has now."""
    names = {key: [place.label(name) for name in adapter[key]] for key in ("parameters", "scale_folded_into")}
    path = place.label(adapter["path"]) if adapter["path"] else place.path
    return {**adapter, "path": path, **names}


def _as_merged(adapters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**adapter, "parameters": [], "scale_folded_into": []} for adapter in adapters]


def _require_merged(layer: Layer, optimized: Optimized, adapters: list[dict[str, Any]]) -> None:
    left = [name for adapter in adapters for name in adapter["parameters"] if name in optimized.graph.parameters]
    if left:
        reasons = "; ".join(optimized.report.reasons)
        why = f" ({reasons})" if reasons else ""
        raise MergeError(
            f"{left[0]} of {layer.layer_name} cannot be merged exactly: its delta does not stand beside a linear weight"
            f"{why}; build the adapter with site='weight', or export form='parallel'"
        )
