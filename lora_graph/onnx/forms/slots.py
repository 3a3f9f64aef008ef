"""What an adapter is made of once a model is to be written without it: slots, and the arrays that go into them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lora_graph.adapters.adapted import DEFAULT, AdaptedModel, sharing_copy
from lora_graph.adapters.adapter import Adapter
from lora_graph.adapters.files import BASE, fingerprint
from lora_graph.adapters.pair import LowRankPair
from lora_graph.adapters.site import Site
from lora_graph.ir import dims
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.layers.interface import Axes
from lora_graph.layers.layer import Layer
from lora_graph.onnx.forms.neutral import without
from lora_graph.rewrite.fold import exchanged
from lora_graph.rewrite.pipeline import optimize_graph

InputShape = Axes | Mapping[str, Axes] | None


@dataclass(frozen=True)
class Slot:
    """The place of one branch: ``name`` in the file that is written, ``path`` in the layer that it is written from."""

    name: str
    path: str
    branch: Layer
    adapter: Adapter
    site: Site

    @property
    def parameters(self) -> dict[str, str]:
        """The name in the file of each parameter, by its own name in the branch."""
        return {own: f"{self.name}.{own}" for own in self.branch.get_parameter_names()}

    def shapes(self, rank: Dim) -> dict[str, Shape]:
        """The shape of each parameter at another rank; those of a branch without a rank are what they are."""
        if isinstance(self.branch, LowRankPair):
            return self.branch.shapes(rank)
        return {own: self.branch.get_parameter_shape(own) for own in self.parameters}

    @property
    def smallest_rank(self) -> int:
        """The rank of a pair that does nothing: none, but a convolution without channels is NaN in ONNX Runtime."""
        return 0 if self.site.geometry is None else 1


@dataclass(frozen=True)
class Prepared:
    """A layer's graph with its scales in the weights, where slots hold what ``slots`` say under their names there."""

    graph: Graph
    state: dict[str, Array]
    slots: tuple[Slot, ...]

    def leaf(self, slot: Slot, own: str) -> Value:
        return self.graph.parameters[slot.parameters[own]]

    def arrays(self) -> dict[str, Array]:
        """What the slots hold, by name."""
        return {name: self.state[name] for slot in self.slots for name in slot.parameters.values()}


def adapters(layer: Layer) -> dict[str, Layer]:
    """For each adapter that takes part, ``layer`` with that one alone.

    Only an AdaptedModel has several, by name. The adapters inside another layer are one, called ``default``.
    """
    if not isinstance(layer, AdaptedModel):
        return {DEFAULT: layer}
    return {name: layer.sharing({name: layer.adapters[name]}) for name in layer.active_adapters}


def template(layer: Layer) -> Layer:
    """``layer`` with each of its slots once, whichever of its adapters has it."""
    if not isinstance(layer, AdaptedModel) or len(layer.active_adapters) == 1:
        return layer
    seen: set[str] = set()
    kept: dict[str, Adapter] = {}
    for name, alone in adapters(layer).items():
        new = [slot for slot in find_slots(alone) if slot.name not in seen]
        seen.update(slot.name for slot in new)
        if new:
            kept[name] = layer.adapters[name].at([slot.path.rpartition(".")[2] for slot in new])
    return layer.sharing(kept)


def find_slots(layer: Layer) -> tuple[Slot, ...]:
    """The slots of ``layer`` in order; ValueError if it has none."""
    found = tuple(_slots(layer))
    if not found:
        raise ValueError(
            f"{layer.layer_name} has no adapter that takes part, so there is nothing to exchange: lg.adapt puts one on"
        )
    return found


def _slots(layer: Layer) -> Iterator[Slot]:
    places = layer.places()
    models = [part for part in places if isinstance(part, AdaptedModel)]
    if any(model.is_merged for model in models):
        raise RuntimeError("the adapters are merged into the weights: call unmerge() first")
    idle = {adapter for m in models for name, adapter in m.adapters.items() if name not in m.active_adapters}
    for part in places:
        if isinstance(part, Adapter) and part not in idle:
            for (_, branch), site in zip(part.branches.items(), part.sites, strict=True):
                path = places[branch].path
                name = f"{site.label}.{part.branch}" if isinstance(layer, AdaptedModel) else path
                yield Slot(name, path, branch, part, site)


def prepare(layer: Layer, input_shape: InputShape = None) -> Prepared:
    """The graph of ``layer`` with every scale in a weight, and the names that a file of any of its adapters has.

    ValueError for a branch that is not in the graph as a product of its own parameters.
    """
    slots = find_slots(layer)
    optimized = optimize_graph(layer.to_graph(input_shape), "prepare")
    names = {f"{slot.path}.{own}": name for slot in slots for own, name in slot.parameters.items()}
    graph = _in_file(layer, optimized.graph, names)
    arrays = optimized.state(layer.state).values()  # in the order of the parameters
    state = dict(zip(graph.parameters, arrays, strict=True))
    for slot in slots:
        _check(slot, graph)
    return Prepared(graph, state, slots)


def cleared(layer: Layer) -> Layer:
    """A copy of ``layer``, sharing its arrays, whose adapters do nothing."""
    twin = sharing_copy(layer)
    for part in twin.places():
        if isinstance(part, Adapter):
            part.clear()
    return twin


def bare(layer: Layer, input_shape: InputShape = None) -> Graph:
    """The graph of ``layer`` without its adapters, prepared and with names alike."""
    twin = cleared(layer)
    return _in_file(twin, optimize_graph(twin.to_graph(input_shape), "prepare").graph, {})


def require_base(layer: Layer, prepared: Prepared, input_shape: InputShape) -> None:
    """ValueError if zeros in all slots would not leave the base."""
    leaves = [prepared.leaf(slot, own) for slot in prepared.slots for own in slot.parameters]
    if without(prepared.graph, leaves).outputs != bare(layer, input_shape).outputs:
        kinds = ", ".join(dict.fromkeys(slot.adapter.layer_name for slot in prepared.slots))
        raise ValueError(
            f"this form starts from the base alone, which {kinds} does not leave as it is where all its parameters "
            "are zero; export form='parallel' or 'merged'"
        )


def symbolic(prepared: Prepared, kinds: Mapping[str, Value]) -> Graph:
    """The graph with other Values where the parameters of slots are, by name."""
    return exchanged(prepared.graph, {prepared.graph.parameters[name]: value for name, value in kinds.items()})


def base_fingerprint(layer: Layer) -> str:
    """A digest of all parameters of ``layer`` that belong to no adapter."""
    if isinstance(layer, AdaptedModel):
        return fingerprint(layer.base.state)
    own = {f"{slot.path}.{name}" for slot in _slots(layer) for name in slot.parameters}
    return fingerprint({label: array for label, array in layer.state.items() if label not in own})


def _in_file(layer: Layer, graph: Graph, names: Mapping[str, str]) -> Graph:
    """``graph`` with other names for parameters; those of an adapted model's base are what they are there."""
    if isinstance(layer, AdaptedModel):
        names = {label: label.removeprefix(BASE) for label in graph.parameters} | dict(names)
    return exchanged(graph, {leaf: _renamed(leaf, names) for leaf in graph.parameters.values()})


def _renamed(leaf: Value, names: Mapping[str, str]) -> Value:
    assert isinstance(leaf.op, Parameter)
    label = names.get(leaf.op.label, leaf.op.label)
    return apply(Parameter(label, leaf.type, leaf.op.trainable))


def _check(slot: Slot, graph: Graph) -> None:
    """ValueError unless the parameters of ``slot`` are in ``graph`` in the shapes that they have at some rank."""
    symbol, binding = dims.dim("rank"), {}  # type: tuple[Dim, dict[str, int]]
    wanted = slot.shapes(symbol)
    found = {own: graph.parameters.get(name) for own, name in slot.parameters.items()}
    for own, leaf in found.items():
        if leaf is None:
            raise ValueError(f"{slot.path}.{own} is not a weight of its own in the graph, so it cannot be exchanged")
        dims.fits(wanted[own], dims.sizes(leaf.shape, {}), binding)
    for own, leaf in found.items():
        if leaf is not None and leaf.shape != dims.sizes(wanted[own], binding):
            kind = TensorType(leaf.dtype, wanted[own])
            raise ValueError(f"{slot.path}.{own} is {leaf.type} in the graph, not {kind}, so it cannot be exchanged")
