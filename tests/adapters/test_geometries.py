"""Every family on convolutions, recurrences and custom layers of random geometry, at both sites: evaluation, the
optimized graph, ONNX Runtime and the merged layer are one function, and gradients are differences.

The table at the end of the test run counts the geometries that each combination ran with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.interpret import evaluate
from lora_graph.onnx import Session, lower
from lora_graph.rewrite import PRESETS, optimize_graph
from tests.adapters.cases import whole
from tests.adapters.geometries import SUBJECTS, WAYS, Subject, Way, directed, weight_change
from tests.reference import close, differences

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
GEOMETRIES = {"float32": 3, "float64": 2}
COMBINATIONS = [
    (subject, way, site)
    for subject in SUBJECTS
    for way in WAYS
    for site in way.sites
    if ("convolution" in subject or way.name != "tucker")
    and not (way.kind == "lokr" and site == "output" and "convolution" in subject)
]

pytestmark = pytest.mark.filterwarnings("ignore:.*(cannot be merged|Kronecker)")


@dataclass(frozen=True)
class Adapted:
    """An adapter with random parameters on a base of random geometry."""

    adapter: lg.Adapter
    subject: Subject
    way: Way
    site: str
    s: float

    @property
    def exact(self) -> dict[str, Any]:
        return {name: array.astype(np.float64) for name, array in self.adapter.state.items()}

    def truth(self, arrays: dict[str, Any], x: Any, draws: dict[str, Any] | None = None) -> Any:
        """The output for parameters by the adapter's names, with ``draws`` in training."""
        p = {name.removeprefix("base."): array for name, array in arrays.items() if name.startswith("base.")}
        if self.site == "output":
            y = self.subject.formula(p, x)
            drawn = self.drawn(draws, "")
            if drawn is not None and np.ndim(drawn) == y.ndim:  # one for each element
                return y + self.subject.beside(self.change(arrays, "", 1 / 0.6), x) * drawn
            return y + self.subject.beside(self.change(arrays, "", 1.0, drawn), x)
        for weight in self.subject.layouts:
            suffix = self.suffix(weight)
            p[weight] = p[weight] + self.change(arrays, suffix, 1.0, self.drawn(draws, suffix), weight)
        return self.subject.formula(p, x)

    def change(self, arrays: dict[str, Any], suffix: str, factor: float, drawn: Any = None, weight: str = "") -> Any:
        branch = ("lokr" if self.way.kind == "lokr" else "lora") + suffix
        a, b = whole(arrays, branch, "A"), whole(arrays, branch, "B")
        layout = self.subject.layouts[weight] if weight else self.subject.output_layout
        if weight:
            shape = arrays[f"base.{weight}"].shape
        elif layout == "rows":
            shape = (self.adapter.output_shape[-1], self.adapter.input_shape[-1])
        else:
            shape = arrays[f"base.{next(iter(self.subject.layouts))}"].shape
        if self.way.kind == "dora":
            return self.directed(arrays, branch, weight, layout)
        mid = arrays.get(f"{branch}.mid")
        return factor * weight_change(self.way, layout, a, b, self.s, drawn, shape, mid)

    def directed(self, arrays: dict[str, Any], branch: str, weight: str, layout: str) -> Any:
        def total(p: dict[str, Any]) -> Any:
            w = p[f"base.{weight}"]
            return w + weight_change(self.way, layout, p[f"{branch}.A"], p[f"{branch}.B"], self.s, None, w.shape)

        old = arrays[f"base.{weight}"]
        return directed(self.way, old, total(arrays), total(self.exact), arrays[f"{branch}.magnitude"])

    def suffix(self, weight: str) -> str:
        return f"_{weight.removeprefix('weight_')}" if len(self.subject.layouts) > 1 else ""

    def drawn(self, draws: dict[str, Any] | None, suffix: str) -> Any:
        return None if draws is None else draws.get("rank", draws.get(f"mask{suffix}"))

    @property
    def merges(self) -> bool:
        return self.site == "weight" or self.subject.is_affine


def adapted(subject: str, way: Way, site: str, dtype: str, number: int) -> tuple[Adapted, np.random.Generator]:
    seed = [number, list(SUBJECTS).index(subject), WAYS.index(way), len(site), int(dtype[-2:])]
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    activation = str(rng.choice(["identity", "identity", "tanh", "softmax", "sigmoid"]))
    base = SUBJECTS[subject](rng, activation, dtype)
    print(base.geometry)
    rank, alpha = int(rng.integers(1, 3)), float(rng.choice([-1.0, 0.5, 8.0]))
    adapter = way.make(base.layer, rank, alpha, site=site, rng=rng)
    for name in adapter.get_parameter_names():
        if not name.startswith("base."):
            adapter.set_parameter(name, rng.normal(0, 0.4, adapter.get_parameter_shape(name)))
    return Adapted(adapter, base, way, site, 1.0 if alpha < 0 else alpha / rank), rng


def near(actual: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    """‖error‖∞ ≤ tol · ‖reference‖∞."""
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max(initial=0)
    assert error <= TOLERANCE[dtype] * np.abs(expected).max(initial=0), error


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> list[str]:
    """What ran: the combination, once for each geometry. The table at the end of the run counts it."""
    ran: list[str] = []
    record_property("geometries", ran)
    return ran


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("subject", "way", "site"), COMBINATIONS, ids=str)
def test_the_invariant(subject: str, way: Way, site: str, dtype: str, counted: list[str]) -> None:
    for number in range(GEOMETRIES[dtype]):
        case, rng = adapted(subject, way, site, dtype, number)
        adapter = case.adapter
        x = rng.normal(size=(2, *case.subject.sample)).astype(dtype)
        expected = case.truth(case.exact, x.astype(np.float64))
        before = {name: array.copy() for name, array in adapter.state.items()}
        graph = adapter.to_graph()
        for preset in PRESETS:
            optimized = optimize_graph(graph, preset)
            state = optimized.state(adapter.state)
            near(evaluate(optimized.graph, {"x": x}, state)["y"], expected, dtype)
            if preset not in ("export", "deploy"):
                continue
            if dtype == "float64":
                with pytest.raises(ValueError, match=r"(Conv|LSTM|GRU).*float64"):
                    lower(optimized.graph, state)
            else:
                near(Session(lower(optimized.graph, state)).run(x), expected, dtype)
        near(adapter.eval().forward(x), expected, dtype)
        if number % 2:
            near(adapter.forward(x.reshape(1, *x.shape)), expected[None], dtype)
        else:
            near(adapter.forward(x[0]), expected[0], dtype)
        check_merged(case, x, expected, dtype)
        assert all(np.array_equal(before[name], array) for name, array in adapter.state.items())
        counted.append(f"{subject} × {way} × {site}")


def check_merged(case: Adapted, x: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    adapter, original = case.adapter, case.adapter.base_layer
    if not case.merges:
        with pytest.raises(lg.MergeError, match="site='weight'"):
            adapter.merge_to_original_layer()
        return
    merged = adapter.merge_to_original_layer()
    assert type(merged) is type(original)
    assert merged.get_parameter_names() == original.get_parameter_names()
    assert not any(np.shares_memory(a, b) for a in merged.state.values() for b in adapter.state.values())
    near(merged.forward(x), expected, dtype)
    if dtype == "float32":
        exported = lg.export_onnx(adapter, form="merged")
        assert len(exported.graph.initializer) <= len(original.state) + 4
        near(Session(exported).run(x), expected, dtype)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("subject", "way", "site"), COMBINATIONS, ids=str)
def test_gradients_are_differences(subject: str, way: Way, site: str, training: bool, counted: list[str]) -> None:
    """With the draws of the forward held fixed, and the base frozen in training."""
    for number in range(2):
        case, rng = adapted(subject, way, site, "float64", 10 + number)
        adapter = case.adapter
        adapter._freeze_base = training
        adapter.set_training(training)
        x = rng.normal(size=(2, *case.subject.sample))
        y = adapter.forward(x)
        draws = draws_of(adapter) if training else None
        close(y, case.truth(case.exact, x, draws), 1e-12)
        g = rng.normal(size=y.shape)
        of_input = adapter.backward(g)
        fixed, names = case.exact, list(adapter.trainable_parameters())
        assert any(name.startswith("base.") for name in names) is not training
        operands = [*(fixed[name] for name in names), x]

        def loss(
            *arrays: np.ndarray, case: Adapted = case, names: list[str] = names, g: Any = g, d: Any = draws
        ) -> Any:
            p = {**case.exact, **dict(zip(names, arrays, strict=False))}
            return (g * case.truth(p, arrays[-1], d)).sum()

        expected = [directional(loss, operands, at, rng) for at in range(len(operands))]
        found = [
            *(np.split(adapter.get_parameter_gradients(), np.cumsum([o.size for o in operands[:-1]])[:-1])),
            of_input,
        ]
        for (direction, slope), gradient in zip(expected, found, strict=True):
            close(np.vdot(direction, gradient), slope, 1e-6)
        counted.append(f"{subject} × {way} × {site}")


def directional(
    loss: Callable[..., Any], operands: list[np.ndarray], at: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random direction of operand ``at``, and the slope of ``loss`` along it by differences."""
    direction = rng.normal(size=operands[at].shape)

    def along(step: np.ndarray) -> Any:
        return loss(*operands[:at], operands[at] + step * direction, *operands[at + 1 :])

    return direction.ravel(), differences(along, [np.zeros(())], 0)


def draws_of(adapter: lg.Adapter) -> dict[str, Any]:
    """What the last forward drew."""
    last = adapter._runner._last
    assert last is not None
    found: dict[str, Any] = {name: array for name, array in last.inputs.items() if name.startswith("mask")}
    if isinstance(adapter, lg.DyLoRAAdapter):
        found["rank"] = adapter.last_sampled_rank
    return found
