"""What every adapter shares: its base, its branches, merging, and how little a new family takes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.adapters import FAMILIES
from lora_graph.onnx import Session, lower
from lora_graph.rewrite import optimize_graph
from tests.adapters.cases import KINDS, TwoWeights
from tests.layers.cases import Gain
from tests.reference import close


def dense(inner: int = 6, outer: int = 5, activation: str = "identity", seed: int = 0) -> lg.DenseLayer:
    return lg.DenseLayer(inner, outer, activation, dtype="float64", rng=seed)


def filled(adapter: lg.Adapter, seed: int = 0) -> lg.Adapter:
    """The adapter with random matrices."""
    rng = np.random.default_rng(seed)
    for name in adapter.get_parameter_names():
        if not name.startswith("base."):
            adapter.set_parameter(name, rng.normal(0, 0.5, adapter.get_parameter_shape(name)))
    return adapter


def stepped(layer: lg.Layer, x: np.ndarray) -> None:
    y = layer.forward(x)
    layer.backward(np.ones_like(y))
    layer.update_parameters(0.01)


# -- construction -----------------------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[..., lg.Adapter]] = {
    "lora": lg.StandardLoRAAdapter,
    "dora": lg.DoRAAdapter,
    "dylora": lambda base, rank, *a, **k: lg.DyLoRAAdapter(base, rank, [1], *a, **k),
    "lokr": lg.LoKrAdapter,
    "lora_drop": lambda base, rank, *a, **k: lg.LoRADropAdapter(base, rank, 0.5, *a, **k),
}

BAD: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((None, 2), {}, TypeError, "base_layer must be a Layer, got None"),
    (("dense", 2), {}, TypeError, "base_layer must be a Layer, got 'dense'"),
    ((dense(), 0), {}, ValueError, "rank must be at least 1, got 0"),
    ((dense(), -1), {}, ValueError, "rank must be at least 1, got -1"),
    ((dense(), 2.0), {}, TypeError, "rank must be an int, got 2.0"),
    ((dense(), True), {}, TypeError, "rank must be an int, got True"),
    ((dense(), 2, 0), {}, ValueError, "alpha must not be 0"),
    ((dense(), 2, np.nan), {}, ValueError, "alpha must be finite, got nan"),
    ((dense(), 2, np.inf), {}, ValueError, "alpha must be finite, got inf"),
    ((dense(), 2, "4"), {}, TypeError, "alpha must be a number"),
    ((dense(), 2, 4, 1), {}, TypeError, "freeze_base_layer must be a bool, got 1"),
    ((dense(), 2), {"site": "input"}, ValueError, "site must be one of output, weight, got 'input'"),
    ((dense(), 2), {"site": None}, TypeError, "site must be one of output, weight"),
    ((dense(), 2), {"rng": "seed"}, TypeError, "rng must be None, an int or a numpy.random.Generator"),
    ((Gain(5), 2), {"site": "weight"}, ValueError, "site='weight': Gain multiplies by no weight"),
]


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize(("given", "named", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_arguments_that_cannot_be(
    family: str, given: tuple[Any, ...], named: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        MAKERS[family](*given, **named)


@pytest.mark.parametrize("family", ["lora", "dora", "dylora", "lora_drop"])
def test_a_rank_is_less_than_both_widths(family: str) -> None:
    with pytest.raises(ValueError, match=r"rank must be at least 1 and less than 5 .*\[6, 5\], got 5"):
        MAKERS[family](dense(), 5)


def test_every_family_has_a_maker() -> None:
    assert set(MAKERS) == set(FAMILIES)


class Zeros(lg.Layer):
    def __init__(self, inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> None:
        super().__init__(input_shape=inner, output_shape=outer)

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return lg.ops.expand(lg.ops.constant(0, x.dtype), (x.shape[0], *self.output_shape))


@pytest.mark.parametrize(
    ("inner", "outer"), [((4, 5), (20,)), ((), (3,)), ((3,), ()), (("n",), (3,)), ((4, 5), (5, 5))], ids=str
)
def test_a_bypass_needs_features_at_both_ends(inner: tuple[int, ...], outer: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="site='output' needs a layer that maps features to features"):
        lg.StandardLoRAAdapter(Zeros(inner, outer), 1)


def test_properties() -> None:
    base = dense()
    adapter = lg.StandardLoRAAdapter(base, 2, 6)
    assert adapter.base_layer is base
    assert isinstance(adapter.lora_layer, lg.LoRALayer)
    assert adapter.lora_layer.scaling == 3
    assert (adapter.rank, adapter.alpha, adapter.scaling, adapter.is_base_layer_frozen) == (2, 6, 3, True)
    assert adapter.parameter_count == 2 * (6 + 5)
    assert adapter.dtype == np.float64
    assert adapter.get_parameter_names() == ["base.weight", "base.bias", "lora.A", "lora.B"]
    found = adapter.get_diagnostics()
    assert {"family": "lora", "rank": "2", "alpha": "6", "scaling": "3", "site": "output"}.items() <= found.items()
    assert (found["trainable_parameters"], found["total_parameters"], found["base_frozen"]) == ("22", "57", "True")
    assert set(map(type, found.values())) == {str}


@pytest.mark.filterwarnings("ignore:.*Kronecker")
def test_one_seed_one_adapter() -> None:
    for kind in KINDS:
        one, two = (kind.make(dense(), 2, -1, rng=3) for _ in range(2))
        assert one.get_parameters().tobytes() == two.get_parameters().tobytes()
        x = np.ones((2, 6))
        filled(one)
        filled(two)
        assert one.forward(x).tobytes() == two.forward(x).tobytes()


# -- beside its base --------------------------------------------------------------------------------------------------


def test_base_parameters_come_first_where_they_train() -> None:
    adapter = lg.StandardLoRAAdapter(dense(), 2, freeze_base_layer=False, rng=0)
    assert not adapter.is_base_layer_frozen
    p = adapter.state
    np.testing.assert_array_equal(adapter.get_parameters(), np.concatenate([p[name].ravel() for name in p]))
    assert next(iter(p)) == "base.weight"
    before = adapter.get_parameter("base.weight")
    stepped(adapter, np.ones((2, 6)))
    assert (adapter.get_parameter("base.weight") != before).all()


def test_a_frozen_base_is_left_out_of_the_backward_graph() -> None:
    from lora_graph.layers.runner import backward_graph

    adapter = lg.StandardLoRAAdapter(dense(), 2, rng=0)
    adapter.forward(np.ones((2, 6)))
    last = adapter._runner._last
    assert last is not None
    found = backward_graph(last.graph, ("x",), ("y",))
    assert list(found.outputs) == ["gradient of input x", "lora.A", "lora.B"]


def test_two_adapters_share_a_base_that_neither_touches() -> None:
    base = dense()
    one, two = lg.StandardLoRAAdapter(base, 1, rng=0), lg.StandardLoRAAdapter(base, 2, freeze_base_layer=False, rng=1)
    one.eval().freeze()
    assert base.is_training
    assert two.is_training
    assert base.parameter_count == 35
    assert one.parameter_count == 0
    assert two.parameter_count == 35 + 22
    stepped(two, np.ones((2, 6)))
    np.testing.assert_array_equal(one.get_parameter("base.weight"), base.get_parameter("weight"))
    one.unfreeze().train()
    assert list(one.trainable_parameters()) == ["lora.A", "lora.B"]
    base.freeze()
    assert list(two.trainable_parameters()) == ["lora.A", "lora.B"]


class Mode(lg.Layer):
    """x, negated in training."""

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return -x if ctx.training else x


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_base_evaluates_and_a_free_one_follows(frozen: bool) -> None:
    base = Mode(input_shape=(3,), output_shape=(3,))
    adapter = lg.StandardLoRAAdapter(base, 1, -1, frozen)
    x = np.ones(3, np.float32)
    np.testing.assert_array_equal(adapter.forward(x), x if frozen else -x)
    np.testing.assert_array_equal(lg.Sequential([adapter]).forward(x), x if frozen else -x)
    np.testing.assert_array_equal(adapter.eval().forward(x), x)
    np.testing.assert_array_equal(base.forward(x), -x)


def test_a_sequential_sets_the_mode_of_its_adapters() -> None:
    adapter = lg.LoRADropAdapter(dense(), 2, 0.5, seed=0)
    lg.Sequential([adapter]).eval()
    assert not adapter.is_training
    assert adapter.base_layer.is_training


# -- inside its base --------------------------------------------------------------------------------------------------


def test_a_custom_layer_with_two_weights_gets_two_branches() -> None:
    base = TwoWeights(6, 5, "tanh", "float64", np.random.default_rng(0))
    adapter = lg.StandardLoRAAdapter(base, 2, site="weight", rng=0)
    assert isinstance(adapter.lora_layer, tuple)
    assert [(pair.input_shape, pair.output_shape) for pair in adapter.lora_layer] == [((6,), (7,)), ((7,), (5,))]
    names = [f"lora_{weight}.{matrix}" for weight in ("up", "down") for matrix in "AB"]
    assert list(adapter.trainable_parameters()) == names


def test_a_delta_reaches_only_its_own_base(rng: np.random.Generator) -> None:
    """The same weight may be used before the adapter, and the adapter twice."""
    base, x = dense(6, 6, "tanh"), rng.normal(size=(3, 6))
    adapter = filled(lg.StandardLoRAAdapter(base, 2, site="weight", rng=0))
    p = adapter.state

    def adapted(h: np.ndarray) -> np.ndarray:
        return np.tanh(h @ (p["base.weight"] + p["lora.A"] @ p["lora.B"]) + p["base.bias"])

    close(lg.Sequential([base, adapter]).forward(x), adapted(base.forward(x)), 1e-12)
    twice = lg.Sequential([adapter, adapter])
    close(twice.forward(x), adapted(adapted(x)), 1e-12)
    optimized = optimize_graph(twice.to_graph(), "deploy")
    close(Session(lower(optimized.graph, optimized.state(twice.state))).run(x), adapted(adapted(x)), 1e-12)


def test_one_base_deployed_with_two_adapters(rng: np.random.Generator) -> None:
    """Merging unties the weight that both stand beside."""
    base, x = dense(6, 6), rng.normal(size=(3, 6))
    one, two = (filled(lg.StandardLoRAAdapter(base, 2, site="weight"), seed) for seed in (1, 2))
    model = lg.Sequential([one, two])
    optimized = optimize_graph(model.to_graph(), "deploy")
    expected = two.merge_to_original_layer().forward(one.merge_to_original_layer().forward(x))
    close(Session(lower(optimized.graph, optimized.state(model.state))).run(x), expected, 1e-12)
    assert not any("lora" in name for name in optimized.graph.parameters)


class Tied(lg.Layer):
    """y = (x W) Wᵀ."""

    def __init__(self) -> None:
        super().__init__(input_shape=(4,), output_shape=(4,))
        self.add_parameter("weight", np.eye(4))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return x @ ctx.param("weight") @ ctx.param("weight").T


def test_a_weight_used_both_ways_has_a_pair_for_each() -> None:
    inside = lg.StandardLoRAAdapter(Tied(), 1, site="weight", rng=0)
    pairs = ["lora_weight", "lora_transposed"]
    assert list(inside.branches) == pairs
    for name in pairs:
        inside.set_parameter(f"{name}.B", np.ones((1, 4)))
    first, second = (inside.get_parameter(f"{name}.A") @ np.ones((1, 4)) for name in pairs)
    close(inside.forward(np.eye(4)), (np.eye(4) + first) @ (np.eye(4) + second), 1e-6)
    with pytest.raises(lg.MergeError, match="Tied, which uses weight in several ways"):
        inside.merge_to_original_layer()
    with pytest.warns(UserWarning, match="Tied is not x W"):
        adapter = lg.StandardLoRAAdapter(Tied(), 1)
    for inexact in (False, True):
        with pytest.raises(lg.MergeError, match="Tied has no linear weight"):
            adapter.merge_to_original_layer(allow_inexact=inexact)


def test_weights_whose_names_would_meet() -> None:
    class Clash(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape=(3,), output_shape=(3,))
            self.add_parameter("ih", np.eye(3))
            self.add_parameter("weight_ih", np.eye(3))

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return x @ ctx.param("ih") @ ctx.param("weight_ih")

    with pytest.raises(ValueError, match="ih, weight_ih lead to the same name twice"):
        lg.StandardLoRAAdapter(Clash(), 1, site="weight")


@pytest.mark.filterwarnings("ignore:.*Kronecker")
def test_adapters_on_adapters_stand_beside_the_same_weight(rng: np.random.Generator) -> None:
    inner = filled(lg.StandardLoRAAdapter(dense(6, 5, "tanh"), 3, site="weight", rng=0), 1)
    outer = filled(lg.LoKrAdapter(inner, 3, site="weight", rng=0), 2)
    assert list(outer.trainable_parameters()) == ["lokr.A", "lokr.B"]
    p, x = outer.state, rng.normal(size=(3, 6))
    change = p["base.lora.A"] @ p["base.lora.B"] + np.kron(p["lokr.A"], p["lokr.B"]).T
    close(outer.forward(x), np.tanh(x @ (p["base.base.weight"] + change) + p["base.base.bias"]), 1e-12)
    merged = outer.merge_to_original_layer()
    assert isinstance(merged, lg.StandardLoRAAdapter)
    close(merged.forward(x), outer.forward(x), 1e-12)
    for name in ("lora.A", "lora.B", "base.bias"):
        np.testing.assert_array_equal(merged.get_parameter(name), inner.get_parameter(name))


# -- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*Kronecker")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_merging_shares_nothing_and_changes_nothing(kind: Any, rng: np.random.Generator) -> None:
    adapter = filled(kind.make(dense(), 2, 3, rng=0))
    x = rng.normal(size=(4, 6))
    adapter.forward(x)
    before = {name: array.tobytes() for name, array in adapter.state.items()}
    mode = adapter.is_training
    merged = adapter.merge_to_original_layer()
    assert not any(np.shares_memory(a, b) for a in merged.state.values() for b in adapter.state.values())
    for name in merged.get_parameter_names():
        merged.state[name][...] = 7
    assert {name: array.tobytes() for name, array in adapter.state.items()} == before
    assert adapter.is_training is mode
    adapter.backward(np.ones((4, 5)))


def test_around_a_layer_without_a_linear_weight() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter = filled(lg.StandardLoRAAdapter(Gain(5, "float64"), 2, rng=0))
    x = np.ones((2, 5))
    close(adapter.forward(x), x * np.linspace(0.5, 2, 5) + x @ adapter.state["lora.A"] @ adapter.state["lora.B"], 1e-12)
    for inexact in (False, True):
        with pytest.raises(lg.MergeError, match="Gain has no linear weight"):
            adapter.merge_to_original_layer(allow_inexact=inexact)
    with pytest.raises(TypeError, match="allow_inexact must be a bool"):
        adapter.merge_to_original_layer(allow_inexact=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [lg.DenseLayer, lg.FullyConnectedLayer])
def test_merging_keeps_what_else_the_base_is(make: type[lg.DenseLayer]) -> None:
    base = make(6, 5, "relu", layer_name="head", rng=0).freeze()
    adapter = filled(lg.StandardLoRAAdapter(base, 2, site="weight", rng=0))
    merged = adapter.merge_to_original_layer()
    assert type(merged) is make
    assert merged.layer_name == "head"
    assert merged.get_parameter("weight").flags.c_contiguous
    assert merged.get_parameter_shape("weight") == base.get_parameter_shape("weight")
    assert merged.parameter_count == 0


def test_an_adapter_around_a_linear_sequential_of_one(rng: np.random.Generator) -> None:
    base, x = lg.Sequential([dense()]), rng.normal(size=(3, 6))
    adapter = filled(lg.StandardLoRAAdapter(base, 2, rng=0))
    merged = adapter.merge_to_original_layer()
    assert isinstance(merged, lg.Sequential)
    close(merged.forward(x), adapter.forward(x), 1e-12)


def test_deepcopy_of_an_adapter_is_apart(rng: np.random.Generator) -> None:
    adapter = filled(lg.StandardLoRAAdapter(dense(6, 5, "tanh"), 2, site="weight", rng=0))
    twin, x = copy.deepcopy(adapter), rng.normal(size=(3, 6))
    np.testing.assert_array_equal(twin.forward(x), adapter.forward(x))
    before = adapter.get_parameters()
    stepped(twin, x)
    np.testing.assert_array_equal(adapter.get_parameters(), before)
    close(twin.merge_to_original_layer().forward(x), twin.forward(x), 1e-12)


# -- a new family -----------------------------------------------------------------------------------------------------


@pytest.fixture
def vera() -> Iterator[type[lg.Adapter]]:
    """VeRA (Kopiczko et al., 2024): a frozen random pair, of which two vectors of scales train."""

    class Scaled(lg.Layer):
        def __init__(self, inner: int, rank: int, outer: int, dtype: Any, rng: np.random.Generator) -> None:
            super().__init__(input_shape=(inner,), output_shape=(outer,), dtype=dtype, rng=rng)
            self.add_parameter("A", rng.normal(size=(inner, rank)), trainable=False)
            self.add_parameter("B", rng.normal(size=(rank, outer)), trainable=False)
            self.add_parameter("d", np.full(rank, 0.1))
            self.add_parameter("b", np.zeros(outer))

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return x @ ctx.param("A") * ctx.param("d") @ ctx.param("B") * ctx.param("b")

    class VeRAAdapter(lg.Adapter):
        family = "vera"
        branch = "vera"

        def create_branch(self, name: str, site: lg.Site) -> lg.Layer:
            return Scaled(site.in_features, self.rank, site.out_features, self.dtype, self.rng)

        def delta(self, ctx: lg.Context, name: str, branch: lg.Layer, h: lg.Value) -> lg.Value:
            return ctx.call(branch, h) * self.scaling

    assert FAMILIES["vera"] is VeRAAdapter
    yield VeRAAdapter
    del FAMILIES["vera"]


@pytest.mark.parametrize("site", ["output", "weight"])
def test_a_new_family_trains_merges_and_runs(vera: type[lg.Adapter], site: str, rng: np.random.Generator) -> None:
    adapter = vera(dense(), 9, 18, site=site, rng=0)
    x, target = rng.normal(size=(20, 6)), rng.normal(size=(20, 5))
    assert adapter.parameter_count == 9 + 5
    first = ((adapter.forward(x) - target) ** 2).mean()
    for _ in range(50):
        adapter.backward((adapter.forward(x) - target) / 20)
        adapter.update_parameters(0.01)
    p = adapter.state
    weight = p["base.weight"] + 2 * (p["vera.A"] * p["vera.d"]) @ (p["vera.B"] * p["vera.b"])
    expected = x @ weight + p["base.bias"]
    assert ((expected - target) ** 2).mean() < first
    close(adapter.forward(x), expected, 1e-12)
    merged = adapter.merge_to_original_layer()
    close(merged.get_parameter("weight"), weight, 1e-12)
    for preset in ("export", "deploy"):
        optimized = optimize_graph(adapter.to_graph(), preset)
        close(Session(lower(optimized.graph, optimized.state(p))).run(x), expected, 1e-12)


def test_a_subclass_without_a_name_of_its_own_is_no_new_family() -> None:
    class Mine(lg.StandardLoRAAdapter):
        pass

    assert FAMILIES["lora"] is lg.StandardLoRAAdapter
    assert Mine(dense(), 2).family == "lora"


def test_an_adapter_must_say_what_it_adds() -> None:
    with pytest.raises(NotImplementedError, match="Adapter must implement create_branch"):
        lg.Adapter(dense(), 2)

    class Half(lg.Adapter):
        def create_branch(self, name: str, site: lg.Site) -> lg.Layer:
            return Gain(site.in_features)

    with pytest.raises(NotImplementedError, match="Half must implement delta"):
        Half(dense(), 2).forward(np.ones(6))
