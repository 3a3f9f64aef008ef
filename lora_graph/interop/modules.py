"""The weight of a model that a module of a file stands for, found by whatever its exporter left of the module's name.

Five ways lead there: the parameter's name, the scope of the node that multiplies by it (PyTorch's two exporters write
it in two forms), the name of the bias beside it, and its value where the weights before exporting are given. Together
they have to lead to exactly one parameter of a fitting kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from lora_graph.adapters.site import labelled_uses
from lora_graph.adapters.targets import Target, targets
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import Array, show
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.ops.arithmetic import Add
from lora_graph.ops.convolution import Conv

KINDS = ("linear", "convolution", "embedding")


@dataclass(frozen=True)
class Weight:
    """A weight of the model, and all that tells which module it belongs to."""

    target: Target
    scopes: tuple[str, ...]
    """The modules of the nodes that multiply by it."""
    rules: tuple[str, ...]
    """What the exporter did to these nodes."""
    bias: str
    """The parameter that is added to its product, "" where there is none or it is beside other weights, too."""
    array: Array

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def layout(self) -> str:
        """How the array lies."""
        match self.target.kind:
            case "linear":
                return "out, in" if self.target.site.is_transposed else "in, out"
            case "convolution":
                return "out, in/g, *kernel"
        return "rows, features"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as the module has it: ``[out, in]`` for a product, whichever way the array lies."""
        return self.in_layout(self.array).shape

    def in_layout(self, array: Array) -> Array:
        """The module's array as the parameter lies, or the other way round."""
        is_flipped = self.target.kind == "linear" and not self.target.site.is_transposed
        return array.T if is_flipped and array.ndim == 2 else array


@dataclass(frozen=True)
class Found:
    """A weight that a module may be, and the ways that lead there."""

    weight: Weight
    ways: tuple[str, ...]
    is_exact: bool
    """Whether some way has the whole name of the module, rather than a longer one that ends in it."""


class Modules:
    """The weights of ``model`` by module; ``base_weights`` are arrays by parameter, as they were before exporting."""

    def __init__(self, model: Layer, base_weights: Mapping[str, Array]) -> None:
        self.weights = list(weights_of(model))
        self.base_weights = base_weights

    def find(self, module: str, kinds: Collection[str], fits: Callable[[Weight], bool], what: str) -> Found:
        """The one weight of the module. ValueError, saying what there is instead, for none or several.

        ``what`` describes which weights ``fits`` accepts.
        """
        named = self.hits(module, kinds)
        hits = _best([found for found in named if fits(found.weight)])
        if len(hits) == 1:
            return hits[0]
        if hits:
            several = ", ".join(found.weight.name for found in hits)
            raise ValueError(f"the module may be any of {several}; base_weights can tell them apart")
        if named:
            shapes = ", ".join(f"{found.weight.name} {show(found.weight.shape)}" for found in named)
            raise ValueError(f"the module is {shapes}, which does not fit {what}")
        nearest = get_close_matches(module, sorted(self.paths()), n=3, cutoff=0.3)
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        raise ValueError(f"the model has no {' or '.join(kinds)} of that name{hint}")

    def hits(self, module: str, kinds: Collection[str]) -> list[Found]:
        """The weights of these kinds that the module may be; whole names count before those that only end in it."""
        candidates = [weight for weight in self.weights if weight.target.kind in kinds]
        return _best([found for weight in candidates if (found := self._found(module, weight)).ways])

    def given(self, module: str) -> Array | None:
        """The weight of the module before exporting, where it is known."""
        return self.base_weights.get(parameter_of(self.base_weights, f"{module}.weight"))

    def paths(self) -> set[str]:
        """Every module that some way leads to."""
        return {path for weight in self.weights for path in _paths(weight) if path} | {
            name.removesuffix(".weight") for name in self.base_weights if name.endswith(".weight")
        }

    def _found(self, module: str, weight: Weight) -> Found:
        ways: dict[str, bool] = {}
        for way, paths in _named_paths(weight).items():
            leading = [path for path in paths if path == module or path.endswith(f".{module}")]
            if leading:
                ways[way] = module in leading
        given = self.given(module)
        if given is not None and any(np.array_equal(array, weight.array) for array in (given, given.T)):
            ways["value"] = True
        return Found(weight, tuple(ways), any(ways.values()))


def _best(found: list[Found]) -> list[Found]:
    return [item for item in found if item.is_exact] or found


def _named_paths(weight: Weight) -> dict[str, tuple[str, ...]]:
    name = weight.name.removesuffix(".weight") if weight.name.endswith(".weight") else ""
    bias = weight.bias.removesuffix(".bias") if weight.bias.endswith(".bias") else ""
    return {"name": (name,), "scope": weight.scopes, "bias": (bias,)}


def _paths(weight: Weight) -> Iterator[str]:
    for paths in _named_paths(weight).values():
        yield from paths


def weights_of(model: Layer) -> Iterator[Weight]:
    """Every weight of the model that an adapter can stand at."""
    graph = model.to_graph()
    scopes: dict[str, list[str]] = {}
    rules: dict[str, list[str]] = {}
    biases: dict[str, str] = {}
    added = _added(graph)
    arrays: dict[str, Array] = {}
    state = model.state
    for value, use, label in labelled_uses(graph.values, has_pairs=True):
        note = graph.notes.get(value)
        scopes.setdefault(label, []).extend([note.scope] if note else [])
        rules.setdefault(label, []).extend(note.rules if note else [])
        beside = _label(value.operands[2]) if isinstance(value.op, Conv) and len(value.operands) > 2 else ""
        biases.setdefault(label, beside or added.get(value, ""))
        arrays[label] = state[_label(use.weight)]
    beside_several = {label for label, number in Counter(biases.values()).items() if number > 1}
    for target in targets(model):
        name, bias = target.name, biases[target.name]
        own = "" if bias in beside_several else bias
        yield Weight(target, tuple(scopes[name]), tuple(rules[name]), own, arrays[name])


def _added(graph: Graph) -> dict[Value, str]:
    """For each Value the vector among the parameters that is added to it."""
    found: dict[Value, str] = {}
    for value in graph.values:
        if isinstance(value.op, Add):
            for one, other in (value.operands, value.operands[::-1]):
                if (label := _label(other)) and other.rank == 1:
                    found.setdefault(one, label)
    return found


def _label(value: Value) -> str:
    return value.op.label if isinstance(value.op, Parameter) else ""


def parameter_of(labels: Iterable[str], name: str) -> str:
    """The one of ``labels`` that is ``name``, or else the only one that ends in it behind a dot; "" for none."""
    known = list(labels)
    if name in known:
        return name
    ending = [label for label in known if label.endswith(f".{name}")]
    return ending[0] if len(ending) == 1 else ""
