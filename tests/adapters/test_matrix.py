"""Every family × base × site × dtype: what is evaluated, optimized, exported and merged is one function, and its
gradients are differences. The truth is a float64 formula in NumPy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.adapters import FAMILIES
from lora_graph.interpret import evaluate
from lora_graph.layers.interface import lead_names
from lora_graph.onnx import Session, lower
from lora_graph.rewrite import PRESETS, optimize_graph
from tests.adapters.cases import BASES, KINDS, Base, Built, Kind, built, draws_of
from tests.layers.cases import ACTIVATIONS
from tests.reference import close, differences

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
LEADS = [(3,), (), (2, 3), (2, 1, 3), (1,), (0,)]
COMBINATIONS = [(kind, base, site) for kind in KINDS for base in BASES for site in kind.sites]
NO_FLOAT64_KERNEL = {"gelu"}

pytestmark = pytest.mark.filterwarnings("ignore:.*(cannot be merged|Kronecker)")


def test_every_family_has_cases() -> None:
    assert set(FAMILIES.values()) == {kind.cls for kind in KINDS}


def near(actual: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    """‖error‖∞ ≤ tol · ‖reference‖∞."""
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max(initial=0)
    assert error <= TOLERANCE[dtype] * np.abs(expected).max(initial=0), error


def drawn(kind: Kind, base: Base, site: str, dtype: str) -> Iterator[tuple[Built, tuple[int, ...]]]:
    """Adapters of random widths and activations, with the leading axes of an input for each."""
    seed = [KINDS.index(kind), BASES.index(base), len(site), len(dtype), int(dtype[-2:])]
    rng = np.random.default_rng(seed)
    for number, activation in enumerate(["identity", str(rng.choice(list(ACTIVATIONS)))]):
        lead = LEADS[(sum(seed) + 2 * number + number // 2) % len(LEADS)]
        yield built(kind, base, site, activation, dtype, rng), lead


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("kind", "base", "site"), COMBINATIONS, ids=lambda item: str(item))
def test_the_invariant(kind: Kind, base: Base, site: str, dtype: str) -> None:
    rng = np.random.default_rng(5)
    for case, lead in drawn(kind, base, site, dtype):
        adapter = case.adapter
        x = rng.normal(size=(*lead, *adapter.input_shape)).astype(dtype)
        expected = case.truth(case.exact, x.astype(np.float64))
        before = {name: array.copy() for name, array in adapter.state.items()}

        graph = adapter.to_graph((*lead_names(len(lead)), *adapter.input_shape))
        for preset in PRESETS:
            optimized = optimize_graph(graph, preset)
            state = optimized.state(adapter.state)
            near(evaluate(optimized.graph, {"x": x}, state)["y"], expected, dtype)
            if preset in ("export", "deploy"):
                check_in_onnx_runtime(case, optimized.graph, state, x, expected, dtype)
        near(adapter.eval().forward(x), expected, dtype)
        check_merged(case, x, expected, dtype)
        assert all(np.array_equal(before[name], array) for name, array in adapter.state.items())


def check_in_onnx_runtime(
    case: Built, graph: lg.Graph, state: dict[str, np.ndarray], x: np.ndarray, expected: np.ndarray, dtype: str
) -> None:
    if dtype == "float64" and case.activation in NO_FLOAT64_KERNEL:
        with pytest.raises(ValueError, match="float64"):
            lower(graph, state)
    elif x.size or case.kind.branch != "lokr":
        # ONNX Runtime 1.31 does not broadcast a matrix over an empty stack of matrices
        near(Session(lower(graph, state)).run(x), expected, dtype)


def check_merged(case: Built, x: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    adapter, original = case.adapter, case.adapter.base_layer
    if not case.merges:
        with pytest.raises(lg.MergeError):
            adapter.merge_to_original_layer()
        return
    merged = adapter.merge_to_original_layer()
    assert type(merged) is type(original)
    assert merged.get_parameter_names() == original.get_parameter_names()
    assert not any(np.shares_memory(a, b) for a in merged.state.values() for b in adapter.state.values())
    near(merged.forward(x), expected, dtype)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("kind", "base", "site"), COMBINATIONS, ids=lambda item: str(item))
def test_gradients_are_differences(kind: Kind, base: Base, site: str, training: bool) -> None:
    """With the draws of the forward held fixed; base parameters come first in the flat vector where they train."""
    rng = np.random.default_rng([9, KINDS.index(kind), BASES.index(base)])
    case = built(kind, base, site, "tanh", "float64", rng, freeze_base_layer=training)
    adapter = case.adapter
    adapter.set_training(training)
    x = rng.normal(size=(2, *adapter.input_shape))
    y = adapter.forward(x)
    draws = draws_of(adapter) if training else None
    close(y, case.truth(case.exact, x, draws), 1e-12)
    g = rng.normal(size=y.shape)
    of_input = adapter.backward(g)

    fixed, names = case.exact, list(adapter.trainable_parameters())
    assert any(name.startswith("base.") for name in names) is not training
    assert names == sorted(names, key=lambda name: not name.startswith("base."))
    operands = [*(fixed[name] for name in names), x]

    def loss(*arrays: np.ndarray) -> float:
        p = {**fixed, **dict(zip(names, arrays, strict=False))}
        return float((g * case.truth(p, arrays[-1], draws)).sum())

    expected = [differences(loss, operands, at) for at in range(len(operands))]
    close(of_input, expected[-1], 1e-6)
    close(adapter.get_parameter_gradients(), np.concatenate([e.ravel() for e in expected[:-1]]), 1e-6)


@pytest.mark.parametrize(("kind", "base", "site"), COMBINATIONS, ids=lambda item: str(item))
def test_a_frozen_base_does_not_move_and_the_adapter_learns(kind: Kind, base: Base, site: str) -> None:
    rng = np.random.default_rng(1)
    adapter = built(kind, base, site, "tanh", "float32", rng).adapter
    before = {name: array.copy() for name, array in adapter.base_layer.state.items()}
    x, target = rng.normal(size=(16, *adapter.input_shape)), rng.normal(size=(16, *adapter.output_shape))

    def error() -> float:
        mode = adapter.is_training
        y = adapter.eval().forward(x)
        adapter.set_training(mode)
        return float(((y - target) ** 2).mean())

    first = error()
    for _ in range(30):
        y = adapter.forward(x)
        adapter.backward((y - target) / len(x))
        adapter.update_parameters(0.002)
    assert error() < first
    for name, array in before.items():
        assert adapter.base_layer.state[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("site", ["output", "weight"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_adapter_starts_as_its_base(kind: Kind, site: str) -> None:
    if site in kind.sites:
        base = lg.DenseLayer(6, 5, rng=0)
        adapter = kind.make(base, 2, -1, site=site, rng=0)
        x = np.random.default_rng(0).normal(size=(3, 6))
        np.testing.assert_array_equal(adapter.forward(x), base.forward(x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_bypass_beside_a_nonlinearity_warns_once_and_merges_inexactly_on_demand(
    activation: str, rng: np.random.Generator
) -> None:
    base = lg.DenseLayer(6, 5, activation, dtype="float64", rng=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapter = lg.StandardLoRAAdapter(base, 2, rng=0)
        adapter.forward(np.ones(6))
        lg.StandardLoRAAdapter(base, 2, site="weight")
    if activation == "identity":
        assert not caught
        return
    (warning,) = caught
    assert "cannot be merged into it exactly" in str(warning.message)
    assert "with activation" in str(warning.message)
    assert "site='weight'" in str(warning.message)
    assert warning.filename == __file__
    adapter.set_parameter("lora.B", rng.normal(size=(2, 5)))
    with pytest.raises(lg.MergeError, match="site='weight'"):
        adapter.merge_to_original_layer()
    merged = adapter.merge_to_original_layer(allow_inexact=True)
    p = adapter.state
    np.testing.assert_allclose(merged.get_parameter("weight"), p["base.weight"] + p["lora.A"] @ p["lora.B"])
    assert isinstance(merged, lg.DenseLayer)
    assert merged.activation == activation
    assert adapter.site == "output"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "output" in kind.sites], ids=str)
def test_the_warning_points_at_the_caller(kind: Kind) -> None:
    with pytest.warns(UserWarning, match="cannot be merged") as caught:
        kind.make(lg.DenseLayer(6, 6, "relu", rng=0), 2, -1)
    assert {warning.filename for warning in caught} <= {__file__, kind.make.__code__.co_filename}
