"""What a model is checked on: random inputs at several sizes, in each of the ways that its form can be run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_graph.errors import LoadError
from lora_graph.inspect.draw import Drawing
from lora_graph.inspect.engines import Given, input_types
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array, TensorType
from lora_graph.layers.imported import FORM
from lora_graph.onnx.forms.deployment import SLOTS
from lora_graph.onnx.forms.dynamic_rank import INPUT as RANK
from lora_graph.onnx.forms.dynamic_rank import RANKS
from lora_graph.onnx.forms.multi_adapter import INPUT as NUMBER
from lora_graph.onnx.forms.multi_adapter import ORDER
from lora_graph.onnx.forms.stacks import TABLE

DRAWN_RANKS = (4, 1)
"""The ranks of the matrices that are drawn for a model which takes adapters at run time."""


@dataclass(frozen=True)
class Case:
    """A run of a model, and what is particular about it in words."""

    label: str
    given: Given


def cases(
    graph: Graph,
    metadata: Mapping[str, str],
    batch_sizes: Sequence[int],
    sizes: Mapping[str, int],
    rng: np.random.Generator,
    matrices: Mapping[str, Array] | None = None,
) -> Iterator[Case]:
    """Random inputs for ``graph`` (see :class:`Drawing`) at each batch size, for each way its form can be run:

    a dynamic rank takes all the ranks there are; several adapters are chosen in turn, none being one of them; weights
    are 1, and random; a model that takes adapters runs with none and with ``matrices``, or random ones of two ranks.
    """
    form = _Form(graph, metadata, matrices or {})
    drawing = Drawing(graph, sizes, rng, form.own_inputs)
    for batch in batch_sizes if drawing.has_batch else batch_sizes[:1]:
        label = f"batch {batch}" if drawing.has_batch else "fixed size"
        for what, choice in form.choices(drawing, batch, rng):
            inputs = drawing.inputs(batch)
            chosen = {name: array for name, array in choice.items() if name in form.own_inputs}
            overrides = {name: array for name, array in choice.items() if name not in form.own_inputs}
            yield Case(label + what, Given(inputs | chosen, overrides))


def slots_of(graph: Graph, metadata: Mapping[str, str]) -> dict[str, TensorType]:
    """What a model takes of an adapter at run time: the types of inputs, or of parameters that can be given anew."""
    types = {name: leaf.type for name, leaf in graph.parameters.items()} | input_types(graph)
    return {name: types[name] for name in _names(metadata, SLOTS) if name in types}


class _Form:
    """What can be chosen when a model of some form is run."""

    def __init__(self, graph: Graph, metadata: Mapping[str, str], matrices: Mapping[str, Array]) -> None:
        types = input_types(graph)
        self._name, self._matrices = metadata.get(FORM, ""), matrices
        self._slots = slots_of(graph, metadata)
        self._weights = {
            name: leaf.dtype for name, leaf in graph.parameters.items() if name.endswith(".weight") and not leaf.rank
        }
        self._ranks = _ranks(metadata)
        self._adapters = _count(matrices) or len(_names(metadata, ORDER))
        run_time = {"dynamic-rank": RANK, "multi-adapter": NUMBER}.get(self._name)
        self.own_inputs = {name for name in types if name in self._slots or name == run_time}

    def choices(
        self, drawing: Drawing, batch: int, rng: np.random.Generator
    ) -> Iterator[tuple[str, Mapping[str, Array]]]:
        """Each choice in words, and its arrays: inputs and parameters by name."""
        match self._name:
            case "dynamic-rank":
                if not self._ranks:
                    raise LoadError(f"the model is of the form dynamic-rank, but its metadata {RANKS} lists no rank")
                for rank in self._ranks:
                    yield f", rank {rank}", {RANK: np.asarray(rank, np.int64)}
            case "multi-adapter":
                turns = self._adapters - 1 - np.arange(batch) % (self._adapters + 1)
                yield ", adapters in turn", {NUMBER: turns.astype(np.int64), **self._matrices}
            case "weighted":
                yield "", {}
                drawn = {name: rng.normal(size=()).astype(dtype) for name, dtype in self._weights.items()}
                yield ", random weights", drawn
            case "hot-swap" | "web":
                if self._name == "hot-swap":
                    yield ", no adapter", {}
                if self._matrices:
                    yield ", the adapter", self._matrices
                    return
                for rank in DRAWN_RANKS:
                    drawn = {name: drawing.matrix(kind, rank) for name, kind in self._slots.items()}
                    yield f", random adapter of rank {rank}", drawn
            case _:
                yield "", {}


def _count(matrices: Mapping[str, Array]) -> int:
    """How many adapters are stacked in ``matrices``, one place of which is for none."""
    stacked = [matrices[TABLE]] if TABLE in matrices else list(matrices.values())
    return len(stacked[0]) - 1 if stacked else 0


def _names(metadata: Mapping[str, str], key: str) -> list[str]:
    """The list of names in the metadata; LoadError where there is something else."""
    found = _json(metadata, key, "[]")
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise LoadError(f"the metadata {key} must be a list of names, got {found!r}")
    return found


def _ranks(metadata: Mapping[str, str]) -> list[int]:
    """Every rank that some adapter of the model can have; LoadError where the metadata has something else."""
    found = _json(metadata, RANKS, "{}")
    listed = list(found.values()) if isinstance(found, dict) else [found]
    ranks = [rank for every in listed for rank in (every if isinstance(every, list) else [every])]
    if not isinstance(found, dict) or not all(type(rank) is int for rank in ranks):
        raise LoadError(f"the metadata {RANKS} must list ranks by adapter, got {found!r}")
    return sorted(set(ranks))


def _json(metadata: Mapping[str, str], key: str, default: str) -> Any:
    try:
        return json.loads(metadata.get(key, default))
    except (ValueError, RecursionError) as error:
        raise LoadError(f"the metadata {key} is not JSON") from error
