"""Which adapters a layer holds, as records that a model file keeps."""

from __future__ import annotations

from typing import Any

from lora_graph.adapters.adapted import AdaptedModel
from lora_graph.adapters.adapter import Adapter
from lora_graph.ir.value import Value, topological
from lora_graph.layers.imported import ImportedLayer
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Place
from lora_graph.rewrite.pipeline import Optimized


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


def scaled_into(adapters: list[dict[str, Any]], optimized: Optimized) -> list[dict[str, Any]]:
    """The records of ``adapters`` with the parameters that hold their scale, too, in the optimized graph.

    Once s is folded into a matrix, it is folded for good.
    """
    scaled = {name for prelude, _ in optimized.preludes for name, y in prelude.outputs.items() if _is_arithmetic(y)}
    return [
        {**adapter, "scale_folded_into": sorted({*adapter["scale_folded_into"], *scaled} & {*adapter["parameters"]})}
        for adapter in adapters
    ]


def without_parameters(adapters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of ``adapters`` in a model where no parameter is theirs alone."""
    return [{**adapter, "parameters": [], "scale_folded_into": []} for adapter in adapters]


def _is_arithmetic(y: Value) -> bool:
    """Whether ``y`` has other numbers than the parameters it is made of; a slice of one has the same."""
    return any(value.op.elementwise for value in topological([y]))


def _moved(adapter: dict[str, Any], place: Place) -> dict[str, Any]:
    """The adapter of a model that was read, under the path that the model has now."""
    names = {key: [place.label(name) for name in adapter[key]] for key in ("parameters", "scale_folded_into")}
    path = place.label(adapter["path"]) if adapter["path"] else place.path
    return {**adapter, "path": path, **names}
