"""A merged model against its base shows which weights moved and by what rank, a parallel one where its adapters are."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.adapters.targets import targets
from tests.inspect.networks import NETWORKS, adapted
from tests.onnx.recorded import ROOT

FAMILIES: dict[str, dict[str, Any]] = {"lora": {}, "dylora": {"active_ranks": [1, 2]}, "lokr": {}, "dora": {}}
BERT = ROOT / "bert_lora" / "base_torchscript.onnx"


def largest_rank(family: str, shape: tuple[int, ...]) -> int:
    """What the rank of a change by an adapter of rank 2 can be at most, the weight as a matrix."""
    if family in ("lora", "dylora"):
        return 4 if shape == (6, 2, 3, 3) else 2  # a convolution of two groups
    return min(shape[0], int(np.prod(shape[1:])))


def moved(report: lg.inspect.DiffReport) -> dict[str, int]:  # type: ignore[name-defined]
    return {report.names[0][weight.before]: weight.rank for weight in report.weights}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_adapted_weights_and_no_others(name: str, family: str) -> None:
    base = NETWORKS[name](np.random.default_rng(0))
    every = [target.name for target in targets(base)]
    for weights in ([every[0]], every[1:], every):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that have no divisors
            model = adapted(base, family, weights, 2, **FAMILIES[family])
        merged, parallel = (lg.export_onnx(model, form=form) for form in ("merged", "parallel"))
        against_base = lg.diff(lg.export_onnx(base, form="merged"), merged)
        assert against_base.summary in (f"{len(weights)} weights changed", "1 weight changed"), str(against_base)
        ranks = moved(against_base)
        assert sorted(ranks) == sorted(weights)
        for weight, rank in ranks.items():
            assert 1 <= rank <= largest_rank(family, base.state[weight].shape)
        for report in (lg.diff(merged, parallel), lg.diff(parallel, merged)):
            assert {weight.removeprefix("base.") for weight in moved(report)} == set(weights)
            assert not (report.added and report.matches.keys() & set(report.removed))
        modules = {module.name for module in lg.diff(merged, parallel).modules if module.weights and module.added}
        if name != "transformer":  # whose layer is one module
            assert modules == {weight.rpartition(".")[0] for weight in weights}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_change_of_a_weight_is_what_the_adapter_adds(family: str) -> None:
    base = NETWORKS["mlp"](np.random.default_rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = adapted(base, family, ["0.weight"], 2, **FAMILIES[family])
    after = model.merge_to_base()
    (weight,) = lg.diff(base, after).weights
    old, new = (layer.get_parameter("0.weight").astype(np.float64) for layer in (base, after))
    assert weight.norm == pytest.approx(np.sqrt(((new - old) ** 2).sum()), rel=1e-12)
    assert weight.relative == pytest.approx(weight.norm / np.sqrt((old**2).sum()), rel=1e-12)
    assert weight.largest == np.abs(new - old).max()
    assert weight.rank == np.linalg.matrix_rank(new - old, tol=1e-5)
    assert weight.full_rank == 6


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_rank_of_a_low_rank_change_is_that_of_the_adapter(rank: int) -> None:
    base = lg.Sequential([lg.DenseLayer(300, 200, rng=1), lg.DenseLayer(200, 16, rng=2)])
    model = adapted(base, "lora", ["0.weight", "1.weight"], rank)
    report = lg.diff(base, model.merge_to_base())
    assert moved(report) == {"0.weight": rank, "1.weight": rank}


@pytest.mark.skipif(not BERT.exists(), reason="the recorded models are not here")
@pytest.mark.parametrize("family", FAMILIES)
def test_an_imported_transformer(family: str) -> None:
    base = lg.load_onnx(BERT)
    model = adapted(base, family, ["query", "value"], 2, **FAMILIES[family])
    weights = [name for name, leaf in base.to_graph().parameters.items() if is_adapted(base, leaf)]
    assert len(weights) == 4
    merged, parallel = (lg.export_onnx(model, form=form) for form in ("merged", "parallel"))
    against_base = lg.diff(BERT, merged, preset="export")
    assert against_base.summary == "4 weights changed"
    assert set(moved(against_base)) == set(weights)
    if family in ("lora", "dylora"):
        assert set(moved(against_base).values()) == {2}
    report = lg.diff(merged, parallel)
    assert set(moved(report)) == set(weights)
    layers = {f"bert.encoder.layer.{i}.attention.self.{name}" for i in (0, 1) for name in ("query", "value")}
    assert {module.name for module in report.modules} == layers


def is_adapted(base: lg.Layer, leaf: lg.Value) -> bool:
    graph = base.to_graph()
    scopes = [graph.notes[value].scope for value in graph.values if leaf in value.operands and value in graph.notes]
    return leaf.rank == 2 and any(scope.endswith(("self.query", "self.value")) for scope in scopes)
