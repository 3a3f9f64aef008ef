"""A merged model against a parallel one names the adapted weights and no others, with the rank of each change."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg
from lora_graph import ops
from lora_graph.adapters.targets import targets
from lora_graph.inspect.diffing import DiffReport
from lora_graph.inspect.inspected import Inspected
from tests.inspect.networks import NETWORKS, adapted
from tests.onnx.forms.models import BASES, dense
from tests.onnx.forms.models import adapted as adapted_everywhere

FAMILIES: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora_drop": {"dropout_rate": 0.25},
    "dylora": {},
    "lokr": {},
    "dora": {},
}
WIDTHS = [(12, 16, 10), (8, 8, 8, 8), (3, 4, 4, 3), (8, 3, 8), (4, 3, 4, 3), (16, 3, 3, 16), (5, 3, 3, 3, 5)]
"""Sizes of layers: some are those of an adapter, some give square weights, some many of one shape."""

Build = Callable[[np.random.Generator], lg.Layer]


def stack(widths: tuple[int, ...], kind: str) -> Build:
    """Layers that hold a weight ``[in, out]`` (dense), or ``[out, in]`` (connected), or in turn."""

    def build(rng: np.random.Generator) -> lg.Layer:
        layers: list[lg.Layer] = []
        for number, (size, units) in enumerate(pairwise(widths)):
            if kind == "dense" or (kind == "mixed" and number % 2 == 0):
                layers.append(lg.DenseLayer(size, units, "relu", rng=rng))
            else:
                layers.append(lg.FullyConnectedLayer(size, units, rng=rng))
        return lg.Sequential(layers)

    return build


STACKS = {f"{kind} {widths}": stack(widths, kind) for kind in ("dense", "connected", "mixed") for widths in WIDTHS}
MODELS: dict[str, Build] = {**{name: base[0] for name, base in BASES.items()}, **NETWORKS, **STACKS}


def assert_names(report: DiffReport, ranks: dict[str, int | None]) -> None:
    """Exactly these weights moved, by changes of these ranks, and no parameter became one of another name."""
    before, after = report.names
    found = {before[weight.before].removeprefix("base."): weight.rank for weight in report.weights}
    assert found == ranks, str(report)
    leaves = report.left.parameters.values()
    for leaf in (leaf for leaf in leaves if leaf in report.matches):
        assert before[leaf].removeprefix("base.") == after[report.matches[leaf]].removeprefix("base.")


def ranks_of(base: lg.Layer, merged: lg.Layer, weights: list[str]) -> dict[str, int | None]:
    """The ranks of what the weights of ``merged`` add, a kernel as a matrix of its first axis and the others."""
    found: dict[str, int | None] = {}
    for name in weights:
        delta = (merged.state[name].astype(np.float64) - base.state[name]).squeeze()
        found[name] = int(np.linalg.matrix_rank(delta.reshape(len(delta), -1), tol=1e-5))
    return found


SOME = (slice(1), slice(1, None), slice(None))
"""Which weights are adapted: the first, the others, all. Each row takes one, in turn."""


@pytest.mark.parametrize(
    ("name", "family", "seed"),
    [(name, family, (i + j) % len(SOME)) for i, name in enumerate(MODELS) for j, family in enumerate(FAMILIES)],
)
def test_merged_against_parallel(name: str, family: str, seed: int) -> None:
    base = MODELS[name](np.random.default_rng(seed))
    weights = [target.name for target in targets(base)][SOME[seed]]
    rank = 2 - seed % 2
    options = {"active_ranks": sorted({1, rank})} if family == "dylora" else FAMILIES[family]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that have no divisors
        model = adapted(base, family, weights, rank, seed, **options)
    ranks = ranks_of(base, model.merge_to_base(), weights)
    merged, parallel = (lg.export_onnx(model, form=form) for form in ("merged", "parallel"))
    again = lg.export_onnx(lg.load_onnx(parallel), form="merged")
    for other in (merged, again):
        assert_names(lg.diff(other, parallel), ranks)
        assert_names(lg.diff(parallel, other), ranks)


@pytest.mark.parametrize("family", ["lora", "lokr"])
@pytest.mark.parametrize("name", STACKS)
def test_files_that_do_not_tell_their_adapters(name: str, family: str) -> None:
    base = STACKS[name](np.random.default_rng(0))
    every = [target.name for target in targets(base)]
    for weights in (every[1:], every):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = adapted(base, family, weights, 1)
        merged, parallel = (lg.export_onnx(model, form=form) for form in ("merged", "parallel"))
        silent = onnx.ModelProto()
        silent.CopyFrom(parallel)
        del silent.metadata_props[:]
        ranks = ranks_of(base, model.merge_to_base(), weights)
        assert_names(lg.diff(merged, silent), ranks)
        assert_names(lg.diff(silent, merged), ranks)
        assert lg.diff(parallel, silent).equal


@pytest.mark.parametrize("shape", [("batch", 12), ("batch", "time", 12)])
def test_a_weight_that_is_stored_transposed(shape: tuple[Any, ...], rng: np.random.Generator) -> None:
    """A parallel file that is read and merged holds ``[in, out]`` where it held ``[out, in]``."""
    model = adapted_everywhere(dense(rng), "lora", rng)
    parallel = lg.export_onnx(model, input_shape=shape)
    merged = lg.export_onnx(lg.load_onnx(parallel), form="merged")
    report = lg.diff(parallel, merged)
    assert [list(kind.shape) for kind in report.weights[1].types] == [[10, 16], [16, 10]]
    old, new = model.base.state["1.weight"], model.merge_to_base().state["1.weight"]
    (_, weight) = report.weights
    assert weight.turned
    assert weight.norm == pytest.approx(np.linalg.norm(new.astype(np.float64) - old), rel=1e-5)
    assert (weight.rank, weight.full_rank) == (2, 10)
    assert "float32[10, 16] -> float32[16, 10] (transposed): norm" in str(report)
    assert [entry["transposed"] for entry in report.to_dict()["weights"]] == [False, True]
    assert {value.op.name for value in report.added} == set()


def test_square_weights_that_are_stored_transposed(rng: np.random.Generator) -> None:
    """Only how they are used tells which way round they are."""
    weight = rng.normal(size=(6, 6)).astype(np.float32)
    delta = np.outer(rng.normal(size=6), rng.normal(size=6)).astype(np.float32)

    def model(array: Any, turned: bool) -> Any:
        x = ops.input("x", "float32", ("batch", "time", 6))
        leaf = ops.parameter("W", "float32", (6, 6))
        graph = lg.Graph((x,), {"y": (x @ (leaf.T if turned else leaf)).tanh()})
        return Inspected.of(graph, state={"W": array})

    straight, turned = model(weight, False), model(np.ascontiguousarray((weight + delta).T), True)
    for report in (lg.diff(straight, turned), lg.diff(turned, straight)):
        (change,) = report.weights
        assert (change.rank, change.turned) == (1, True)
        assert change.norm == pytest.approx(np.linalg.norm(delta), rel=1e-5)
    (change,) = lg.diff(straight, model(weight + delta, False)).weights
    assert (change.rank, change.turned) == (1, False)
