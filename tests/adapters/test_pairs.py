"""The forms of low-rank pairs that other libraries' files have: a bias of B, all channels, any rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from tests.adapters.geometries import convolved
from tests.layers.cases import shifted
from tests.reference import close

BASES: dict[str, Callable[[], lg.Layer]] = {
    "dense": lambda: lg.DenseLayer(6, 5, "tanh", dtype="float64", rng=0),
    "rows": lambda: lg.FullyConnectedLayer(6, 5, dtype="float64", rng=0),
    "convolution": lambda: lg.ConvolutionalLayer(4, 6, 3, groups=2, activation="tanh", dtype="float64", rng=0),
}


@pytest.mark.parametrize("base", BASES)
def test_a_bias_of_b_goes_into_the_bias_of_the_base(base: str, rng: np.random.Generator) -> None:
    layer = shifted(BASES[base]())
    adapter = lg.StandardLoRAAdapter(layer, 2, 3.0, bias=True, site="weight", rng=0)
    x = rng.normal(size=(2, *(size if isinstance(size, int) else 5 for size in layer.input_shape)))
    np.testing.assert_array_equal(adapter.forward(x), layer.forward(x))
    shifted(adapter)
    merged, p = adapter.merge_to_original_layer(), adapter.state
    close(merged.forward(x), adapter.forward(x), 1e-12)
    close(merged.get_parameter("bias"), p["base.bias"] + 1.5 * p["lora.bias"], 1e-12)
    with_none = {**p, "lora.bias": np.zeros_like(p["lora.bias"])}
    adapter.load_weights(with_none)
    close(adapter.merge_to_original_layer().get_parameter("bias"), p["base.bias"], 1e-12)


def test_a_base_without_a_bias_cannot_take_one_in() -> None:
    adapter = lg.StandardLoRAAdapter(lg.load_onnx(lg.export_onnx(Plain())), 2, bias=True, site="weight")
    with pytest.raises(lg.MergeError):
        adapter.merge_to_original_layer()


class Plain(lg.Layer):
    """y = x W."""

    def __init__(self) -> None:
        super().__init__(input_shape=(6,), output_shape=(5,), rng=0)
        self.add_parameter("weight", self.rng.normal(size=(6, 5)))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return x @ ctx.param("weight")


def test_a_dense_pair_sees_all_channels_and_stays_beside_its_base(rng: np.random.Generator) -> None:
    base = shifted(lg.ConvolutionalLayer(4, 6, 3, padding=1, groups=2, dtype="float64", rng=0))
    adapter = shifted(lg.StandardLoRAAdapter(base, 4, 2.0, dense=True, wide=True, site="weight"))
    p = adapter.state
    assert {name: array.shape for name, array in p.items() if name.startswith("lora")} == {
        "lora.A": (4, 4, 3, 3),
        "lora.B": (6, 2, 1, 1),
    }
    x = rng.normal(size=(2, 4, 5, 6))
    inner = convolved(x, p["lora.A"], (1, 1), (1,) * 4, (1, 1), 1)
    change = 0.5 * convolved(inner, p["lora.B"], (1, 1), (0,) * 4, (1, 1), 2)
    close(adapter.forward(x), base.forward(x) + change, 1e-12)
    with pytest.raises(lg.MergeError, match=r"group 1, not a convolution by .* group 2"):
        adapter.merge_to_original_layer()
    with pytest.raises(ValueError, match="rank must be a multiple of the 2 groups that B has, got 3"):
        lg.StandardLoRAAdapter(base, 3, dense=True, wide=True, site="weight")
    with pytest.raises(ValueError, match="weight cannot be both tucker and dense"):
        lg.StandardLoRAAdapter(base, 2, dense=True, tucker=True, wide=True, site="weight")


def test_a_wide_pair_has_any_rank(rng: np.random.Generator) -> None:
    adapter = shifted(lg.StandardLoRAAdapter(lg.DenseLayer(6, 5, rng=0), 9, wide=True, site="weight"))
    x = rng.normal(size=(3, 6)).astype(np.float32)
    close(adapter.merge_to_original_layer().forward(x), adapter.forward(x), 1e-5)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        lg.StandardLoRAAdapter(lg.DenseLayer(6, 5), 0, wide=True)


def test_matrices_of_several_weights_with_ranks_of_their_own(rng: np.random.Generator) -> None:
    model = lg.Sequential([lg.DenseLayer(6, 7, "relu", rng=0), lg.DenseLayer(7, 4, rng=1)])
    matrices: dict[str, dict[str, Any]] = {
        "0.weight": {"A": rng.normal(size=(6, 9)), "B": rng.normal(size=(9, 7))},
        "1.weight": {"A": rng.normal(size=(7, 1)), "B": rng.normal(size=(1, 4)), "bias": rng.normal(size=4)},
    }
    ranks, alphas = {"0.weight": 9, "1.weight": 1}, {"0.weight": 6.0, "1.weight": -1}
    scaling = {"rank_scaling": "sqrt_rank"}
    adapter = lg.StandardLoRAAdapter.from_matrices(model, matrices, ranks, alphas, **scaling)
    merged = adapter.merge_to_original_layer()
    for name, s in (("0.weight", 2.0), ("1.weight", 1.0)):
        expected = model.get_parameter(name) + s * matrices[name]["A"] @ matrices[name]["B"]
        close(merged.get_parameter(name), expected.astype(np.float32), 1e-5)
    assert adapter.options == {"rank_scaling": "sqrt_rank", "wide": True, "bias": ["1.weight"]}
    again = lg.StandardLoRAAdapter(model, 1, site=adapter.sites, **adapter.options)
    assert [slot.shape for slot in again.state.values()] == [slot.shape for slot in adapter.state.values()]


@pytest.mark.parametrize(
    ("matrices", "error", "words"),
    [
        ({}, ValueError, "matrices must be those of at least one weight, got none"),
        ({"other": {}}, ValueError, "DenseLayer multiplies by no other, only by weight"),
        ({"weight": {"A": np.ones((6, 2))}}, lg.LoadError, "B"),
        ({"weight": {"A": np.ones((6, 2)), "B": np.ones((3, 5))}}, lg.LoadError, "B"),
        ({"weight": {"A": np.ones((6, 2)), "B": np.ones((2, 5)), "C": np.ones(3)}}, lg.LoadError, "C"),
    ],
)
def test_matrices_that_fit_nowhere(matrices: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        lg.StandardLoRAAdapter.from_matrices(lg.DenseLayer(6, 5), matrices, 2)


def test_matrices_for_a_weight_that_is_used_in_two_ways() -> None:
    class Tied(Plain):
        """y = x W Wᵀ."""

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return x @ ctx.param("weight") @ ctx.param("weight").T @ ctx.param("weight")

    a, b, w = np.ones((6, 2)), np.ones((2, 5)), Tied().get_parameter("weight")
    changed, x = w + a @ b, np.arange(6.0)
    for name, wanted in (("weight", x @ changed @ w.T @ changed), ("weight.transposed", x @ w @ changed.T @ w)):
        matrices = {"A": a, "B": b} if name == "weight" else {"A": b.T, "B": a.T}
        adapter = lg.StandardLoRAAdapter.from_matrices(Tied(), {name: matrices}, 2)
        np.testing.assert_allclose(adapter.eval().forward(x), wanted, rtol=1e-5)


def test_forms_are_only_where_they_can_be() -> None:
    model = lg.Sequential([lg.EmbeddingLayer(9, 6), lg.LSTMLayer(6, 5, False), lg.DenseLayer(5, 3)])
    adapter = lg.StandardLoRAAdapter(model, 2, bias=True, tucker=True, dense=True, site="weight")
    assert [name for name in adapter.state if name.endswith("lora_2_weight.bias")] == ["lora_2_weight.bias"]
    assert not any(name.endswith("mid") for name in adapter.state)
    for option in ("bias", "tucker", "dense"):
        with pytest.raises(ValueError, match=rf"{option}: 0\.weight cannot have it"):
            lg.StandardLoRAAdapter(model, 2, site="weight", **{option: ["0.weight"]})
    with pytest.raises(lg.MergeError, match="adds a bias"):
        lg.LoRALayer(6, 5, 2, bias=True).merge_weights()
