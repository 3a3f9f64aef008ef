"""Where an adapter attaches: beside a whole layer, or at each linear weight inside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields

from lora_graph.adapters.convolution import Geometry
from lora_graph.ir import dims
from lora_graph.ir.dims import Shape
from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import show, tensor
from lora_graph.ir.value import Value, apply, topological
from lora_graph.layers.interface import INPUT, each
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context, Given
from lora_graph.ops.arithmetic import Add
from lora_graph.ops.convolution import Conv
from lora_graph.ops.gather import Gather
from lora_graph.ops.linalg import MatMul
from lora_graph.ops.recurrent import GRU, LSTM, RNN
from lora_graph.ops.shape import Reshape, Transpose, Unsqueeze


@dataclass(frozen=True)
class Site:
    """One place for a branch: how many features it maps to how many and, inside a layer, the weight it stands at.

    With a ``geometry`` the branch stands beside a convolution and maps images to images. Where ``changes_weight``, the
    weight itself becomes W + ΔW; elsewhere what the branch gives is added.
    """

    in_features: int
    out_features: int
    geometry: Geometry | None = None
    kernel: tuple[int, ...] = ()
    """The window of a convolution's weight; ``in_features`` then counts all that lies in one window."""
    changes_weight: bool = False
    is_transposed: bool = False
    """Whether the rows of the weight are outputs."""
    is_lookup: bool = False
    """Whether the input is the numbers of rows, as that of an embedding is."""
    owner: Layer | None = None
    weight: str = ""
    label: str = ""
    """What the place is called in the whole layer: as the parameter, and where that is used in other ways as well,
    with the way behind the name."""
    rank: int = 0
    """The rank of the branch here, and its alpha: those of the adapter unless it was told otherwise."""
    alpha: float = 0.0

    def is_at(self, use: Use) -> bool:
        """Whether ``use`` is one of the weight in the way of this place."""
        other = use.site(has_pairs=True)
        ours, theirs = [(s.in_features, s.out_features, s.kernel, s.way) for s in (self, other)]
        return ours == theirs and self.geometry in (None, other.geometry)

    @property
    def way(self) -> str:
        """How the weight is used."""
        if self.is_lookup:
            return "lookup"
        return "convolution" if self.kernel else "transposed" if self.is_transposed else "linear"

    def matrix(self, weight: Value) -> Value:
        """The weight, or what has its shape, as a matrix ``[in_features, out_features]``."""
        if self.is_transposed:
            return weight.reshape((self.out_features, self.in_features)).T
        return weight.reshape((self.in_features, self.out_features))

    def laid_out(self, matrix: Value, shape: Shape) -> Value:
        """A matrix ``[in_features, out_features]`` in the ``shape`` of the weight."""
        return (_transposed(matrix) if self.is_transposed else matrix).reshape(shape)

    def by_feature(self, row: Value) -> Value:
        """One number for each output feature, in a shape that broadcasts to what comes out beside the weight."""
        return row if self.geometry is None else row.reshape((self.out_features, *(1,) * len(self.kernel)))

    @property
    def window(self) -> int:
        """How many of ``in_features`` belong to one channel."""
        return math.prod(self.kernel)

    def is_beside(self, other: Site) -> bool:
        """Whether a branch that fits there fits here."""
        ours, theirs = [(site.in_features, site.out_features, site.geometry) for site in (self, other)]
        return not self.changes_weight and ours == theirs


Delta = Callable[[Value], Value]
"""What a branch adds for the input of its weight, or to the weight itself where its site changes that."""


@dataclass(frozen=True)
class Change:
    """h W becomes (h W) ⊙ g + ``delta(h)``, with the factors g of ``scale``; where the site changes its weight, W
    becomes W + ``delta(W)``."""

    site: Site
    delta: Delta
    scale: Value | None = None
    """One factor for each output feature; None leaves h W as it is."""


@dataclass(frozen=True)
class Use:
    """Operand ``position`` of an op that is linear in it, up to its shape the parameter ``weight``."""

    op: Conv | MatMul | Gather | LSTM | GRU | RNN
    position: int
    weight: Value
    is_transposed: bool

    @property
    def source(self) -> int:
        """Which operand meets the weight."""
        return 1 if isinstance(self.op, Gather) else 0

    def site(self, has_pairs: bool) -> Site:
        """The place of a branch here; ``has_pairs`` says whether it is a low-rank pair, which fits beside any op."""
        shape = dims.sizes(self.weight.shape, {})
        match self.op:
            case MatMul():
                inner, outer = shape[::-1] if self.is_transposed else shape
                return Site(inner, outer, is_transposed=self.is_transposed)
            case Gather():
                return Site(shape[0], shape[1], is_lookup=True, changes_weight=not has_pairs)
            case Conv():
                geometry = Geometry(self.op, shape)
                beside = geometry if has_pairs else None
                return Site(geometry.window, shape[0], beside, geometry.kernel, not has_pairs, True)
        return Site(shape[-1], math.prod(shape[:-1]), changes_weight=True, is_transposed=True)


def uses(value: Value) -> Iterator[Use]:
    """The parameters that ``value`` is linear in: a product's, convolution's or lookup's, or those of a recurrence."""
    match value.op:
        case MatMul() if value.operands[1].rank == 2:
            factor = value.operands[1]
            is_transposed = isinstance(factor.op, Transpose)
            found = [Use(value.op, 1, factor.operands[0] if is_transposed else factor, is_transposed)]
        case Conv():
            found = [Use(value.op, 1, value.operands[1], True)]
        case Gather(axis=0) if value.operands[0].rank == 2:
            found = [Use(value.op, 0, value.operands[0], False)]
        case LSTM() | GRU() | RNN():
            found = [Use(value.op, position, _unwrapped(value.operands[position]), True) for position in (1, 2)]
        case _:
            found = []
    yield from (use for use in found if isinstance(use.weight.op, Parameter) and use.weight.type.is_static)


def _unwrapped(weight: Value) -> Value:
    """The parameter behind axes that were only added."""
    while isinstance(weight.op, Unsqueeze | Reshape):
        weight = weight.operands[0]
    return weight


def output_site(base: Layer, has_pairs: bool) -> Site:
    """Beside ``base`` as a whole: a convolution of its input, or else its last axis, those before being the same."""
    if len(base.input_shapes) != 1 or len(base.output_shapes) != 1:
        raise ValueError(f"site='output' needs a layer with one input and one output, got {base!r}; use site='weight'")
    x: Value = apply(Input(INPUT, tensor(base.input_dtype, ("batch", *base.input_shape))))
    match base.bypass_input(x).shape[1:], base.output_shape:
        case _ if (geometry := _only_convolution(base)) is not None:
            if has_pairs:
                return Site(geometry.window, geometry.out_channels, geometry, geometry.kernel)
            raise ValueError(f"site='output' beside {base.layer_name} needs a branch that is a convolution")
        case (*before, int(inner)), (*after, int(outer)) if before == after:
            return Site(inner, outer)
    raise ValueError(
        f"site='output' needs a layer that maps features to features or is one convolution, "
        f"but {base.layer_name} maps {show(base.input_shape)} to {show(base.output_shape)}"
    )


def _only_convolution(base: Layer) -> Geometry | None:
    """The geometry of a layer that convolves its input once, and then keeps the size of the image."""
    graph = base.to_graph()
    found = [value for value in graph.values if isinstance(value.op, Conv)]
    if len(found) != 1 or found[0].operands[0] not in graph.inputs or found[0].shape != _output(graph).shape:
        return None
    return next((use.site(True).geometry for use in uses(found[0])), None)


def weight_uses(base: Layer, has_pairs: bool) -> list[Site]:
    """Every use of a parameter of ``base`` as a linear weight, in order; those inside adapters do not count."""
    return [site for site, _ in scoped_uses(base, has_pairs)]


def weight_sites(base: Layer, has_pairs: bool, labels: Collection[str] | None = None) -> list[Site]:
    """Every linear weight of ``base`` once, or once for each way that it is used in, in order of use; or only those
    called ``labels``: ValueError for a label that there is none of."""
    found = {site.label: site for site in weight_uses(base, has_pairs)}
    unknown = sorted(set(labels or ()) - found.keys())
    if unknown:
        raise ValueError(f"{base.layer_name} multiplies by no {', '.join(unknown)}, only by {', '.join(found)}")
    return [site for label, site in found.items() if labels is None or label in labels]


def scoped_uses(base: Layer, has_pairs: bool) -> Iterator[tuple[Site, str]]:
    """As :func:`weight_uses`, with the module that the graph notes for each use."""
    places = base.places()
    inside = {layer for owner in places for branch in owner.branches.values() for layer in branch.places()}
    owners = {p.label(name): (layer, name) for layer, p in places.items() if layer not in inside for name in layer.own}
    graph = base.to_graph()
    for value, use, label in labelled_uses(graph.values, has_pairs):
        assert isinstance(use.weight.op, Parameter)
        if use.weight.op.label in owners:
            owner, name = owners[use.weight.op.label]
            note = graph.notes.get(value)
            scope = "" if note is None else note.scope
            yield with_fields(use.site(has_pairs), owner=owner, weight=name, label=label), scope


def labelled_uses(values: Iterable[Value], has_pairs: bool) -> Iterator[tuple[Value, Use, str]]:
    """The uses of weights in ``values``, with what the place of each is called."""
    known: dict[str, dict[Site, str]] = {}
    for value in values:
        for use in uses(value):
            assert isinstance(use.weight.op, Parameter)
            name, site = use.weight.op.label, use.site(has_pairs)
            ways = known.setdefault(name, {})
            if site not in ways:
                alike = sum(other.way == site.way for other in ways)
                ways[site] = f"{name}.{site.way}{alike + 1 if alike else ''}" if ways else name
            yield value, use, ways[site]


def is_affine(graph: Graph) -> bool:
    """Whether the only output is x W + b, a convolution included, so that a bypass can go into the weight."""
    if len(graph.outputs) != 1:
        return False
    y = _output(graph)
    if isinstance(y.op, Add):
        y = next((operand for operand in y.operands if isinstance(operand.op, MatMul | Conv)), y)
    return isinstance(y.op, MatMul | Conv) and any(uses(y)) and y.operands[0] in graph.inputs


def _output(graph: Graph) -> Value:
    (y,) = graph.outputs.values()
    return y


def inject(ctx: Context, x: Given, y: Given, changes: Mapping[Value, Sequence[Change]]) -> Given:
    """``y`` as computed from ``x``, with the weights in ``changes`` changed as these say.

    What ``x`` itself was computed from stays as it is, whichever weights are used there. Either may be several
    Values by name.
    """
    given, wanted = (list(v.values()) if isinstance(v, Mapping) else [v] for v in (x, y))
    new: dict[Value, Value] = {leaf: leaf for leaf in given}
    for value in topological(wanted, stop=new.__contains__):
        operands = [new[operand] for operand in value.operands]
        beside: list[Change] = []
        source = 0
        for use in uses(value):
            for change in (change for change in changes.get(use.weight, ()) if change.site.is_at(use)):
                if change.site.changes_weight:
                    operands[use.position] = _changed(operands[use.position], use.weight, change)
                else:
                    beside.append(change)
                    source = use.source
        built = _scaled(value, operands, beside)
        ctx.carry(value, built)
        for change in beside:
            built = built + change.delta(operands[source])
        ctx.carry(value, built)
        new[value] = built
    return each(y, new.__getitem__)


def _scaled(value: Value, operands: list[Value], beside: list[Change]) -> Value:
    """What ``value`` is on ``operands``, its product multiplied by 1 + Σ (g - 1) over the scales; a bias is not."""
    factors = [change.site.by_feature(change.scale) for change in beside if change.scale is not None]
    if not factors:
        return value if tuple(operands) == value.operands else apply(value.op, *operands)
    product: Value = apply(value.op, *operands[:2])
    factor = factors[0] if len(factors) == 1 else sum(factors[1:], factors[0]) - (len(factors) - 1.0)
    scaled = product * factor
    return scaled + beside[0].site.by_feature(operands[2]) if operands[2:] else scaled


def _transposed(matrix: Value) -> Value:
    """The transpose, of a product as bᵀ aᵀ, which lies in memory row by row."""
    if isinstance(matrix.op, MatMul) and matrix.operands[0].rank == matrix.operands[1].rank == 2:
        a, b = matrix.operands
        return b.T @ a.T
    return matrix.T


def _changed(operand: Value, weight: Value, change: Change) -> Value:
    """``operand`` with W + ΔW for the parameter W in it."""
    added = change.site.laid_out(change.delta(weight), weight.shape)
    return replace([operand], {weight: weight + added})[0]
