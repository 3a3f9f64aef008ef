"""Models that were only written in another way are equal, whatever their names and the order of their nodes."""

from __future__ import annotations

import glob
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import lora_graph as lg
from lora_graph import ops
from lora_graph.inspect.diffing import DiffReport
from lora_graph.inspect.inspected import Inspected
from tests.inspect.networks import NETWORKS, exported
from tests.inspect.scrambled import scrambled
from tests.onnx.recorded import ROOT

RECORDED = sorted(glob.glob(str(ROOT / "*" / "base_*.onnx")))


def assert_isomorphic(report: DiffReport) -> None:
    """Every Value of one graph is matched with one of the other, which has the same op and the matched operands."""
    left, right = report.left.values, report.right.values
    assert set(report.matches) == set(left)
    assert Counter(report.matches.values()) == Counter(right)
    for p, q in report.matches.items():
        assert p.op.name == q.op.name
        images = [report.matches[operand] for operand in p.operands]
        assert images == list(q.operands) or (p.op.commutative and images[::-1] == list(q.operands))
    for name, value in report.left.outputs.items():
        assert report.matches[value] is report.right.outputs[report.outputs[name]]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", NETWORKS)
def test_ten_rewrites_of_a_network_are_equal(name: str, seed: int) -> None:
    model = exported(name)
    report = lg.diff(model, scrambled(model, seed))
    assert report.equal, str(report)
    assert_isomorphic(report)
    kinds = Counter(renamed.kind for renamed in report.renamed)
    assert kinds["parameter"] == len(report.left.parameters)
    assert (kinds["input"], kinds["output"]) == (len(model.graph.input), len(model.graph.output))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: str(Path(path).relative_to(ROOT)))
def test_rewrites_of_models_of_pytorch_are_equal(path: str) -> None:
    model = onnx.load(path)
    report = lg.diff(model, scrambled(model, 0, swap=False))
    assert report.equal, str(report)
    assert_isomorphic(report)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_rewrite_with_one_other_weight_names_it(name: str) -> None:
    model = exported(name)
    parameters = lg.diff(model, model).left.parameters
    for index, tensor in enumerate(model.graph.initializer):
        if tensor.name not in parameters:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        other = onnx.ModelProto()
        other.CopyFrom(model)
        other.graph.initializer[index].CopyFrom(onnx.numpy_helper.from_array(array + np.float32(0.5), tensor.name))
        report = lg.diff(model, scrambled(other, index))
        assert [report.names[0][weight.before] for weight in report.weights] == [tensor.name], str(report)
        assert report.summary == "1 weight changed"
        assert report.weights[0].norm == pytest.approx(0.5 * array.size**0.5, rel=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_other_weights_has_all_of_them_changed(name: str) -> None:
    report = lg.diff(exported(name), scrambled(exported(name, 1), 0))
    assert report.summary == f"{len(report.weights)} weights changed"
    assert set(report.left.parameters.values()) >= {weight.before for weight in report.weights}
    assert {weight.after for weight in report.weights} == {report.matches[w.before] for w in report.weights}
    assert len(report.weights) >= 3


def test_equal_twins_are_told_apart_by_what_uses_them() -> None:
    """Two branches of equal arrays meet in a difference: only the order of its operands tells which is which."""

    def model(first: str, second: str) -> Inspected:
        x = ops.input("x", "float32", ("batch", 4))
        a, b = ((x @ ops.parameter(name, "float32", (4, 4))).tanh() for name in (first, second))
        graph = lg.Graph((x,), {"z": a * 2.0 + b, "a": (a + 1.0).exp(), "y": a - b})
        return Inspected.of(graph, state={name: np.zeros((4, 4), np.float32) for name in "pq"})

    report = lg.diff(model("p", "q"), model("q", "p"))
    assert report.equal
    assert_isomorphic(report)
    assert {(renamed.before, renamed.after) for renamed in report.renamed} == {("p", "q"), ("q", "p")}


def test_tied_weights_are_not_untied_ones() -> None:
    def model(*names: str) -> Inspected:
        y = x = ops.input("x", "float32", ("batch", 4))
        for name in names:
            y = (y @ ops.parameter(name, "float32", (4, 4))).tanh()
        array = np.eye(4, dtype=np.float32) + 0.5
        return Inspected.of(lg.Graph((x,), {"y": y}), state=dict.fromkeys(names, array))

    assert lg.diff(model("p", "q"), model("q", "r")).equal
    assert not lg.diff(model("p", "p"), model("p", "q")).equal
    assert not lg.diff(model("p", "q"), model("p", "p")).equal
