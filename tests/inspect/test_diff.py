"""What a diff tells of two graphs: what was added, removed, changed, fused, and of which module it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph import ops
from lora_graph.inspect.diffing import DiffReport
from lora_graph.inspect.inspected import Inspected
from lora_graph.ir import OPS, Value, apply
from lora_graph.ops.fused import Fused
from tests.inspect.networks import NETWORKS, adapted
from tests.op_cases import CASES

RNG = np.random.default_rng(5)
STATE = {"W": RNG.normal(size=(4, 4)).astype(np.float32), "V": RNG.normal(size=(4, 4)).astype(np.float32)}
STATE["b"] = RNG.normal(size=4).astype(np.float32)

Build = Callable[[Value], Value | dict[str, Value]]


def p(name: str) -> Value:
    return ops.parameter(name, "float32", STATE[name].shape)


def model(build: Build, *shape: Any, **state: Any) -> Inspected:
    """The graph of a function of x, float32 ``[batch, 4]`` unless ``shape`` says otherwise."""
    x = ops.input("x", "float32", shape or ("batch", 4))
    built = build(x)
    outputs = built if isinstance(built, dict) else {"y": built}
    return Inspected.of(lg.Graph((x,), outputs), state={**STATE, **state})


def kinds(values: tuple[Value, ...]) -> list[str]:
    return sorted(value.op.name for value in values)


def dense(x: Value) -> Value:
    return ((x @ p("W") + p("b")).tanh() @ p("V")).tanh()


def assert_only(report: DiffReport, *fields: str) -> None:
    """Only these fields tell of differences."""
    names = ("added", "removed", "changed", "fused", "weights", "added_outputs", "removed_outputs")
    assert [name for name in names if getattr(report, name)] == list(fields), str(report)
    assert report.equal == (not fields)


def test_a_graph_equals_itself() -> None:
    report = lg.diff(model(dense), model(dense))
    assert_only(report)
    assert report.modules == report.renamed == ()
    assert all(before is after for before, after in report.matches.items())
    assert report.summary == "equal"


@pytest.mark.parametrize(
    ("build", "added", "removed"),
    [
        (lambda x: ((x @ p("W") + p("b")).tanh().abs() @ p("V")).tanh(), ["Abs"], []),
        (lambda x: dense(x).exp(), ["Exp"], []),
        (lambda x: dense(x.exp()), ["Exp"], []),
        (lambda x: ((x @ p("W") + x + p("b")).tanh() @ p("V")).tanh(), ["Add"], []),
        (
            lambda x: ((x @ p("W") + (x @ p("V") @ p("V")) + p("b")).tanh() @ p("V")).tanh(),
            ["Add", *["MatMul"] * 2],
            [],
        ),
        (lambda x: ((x @ p("W") + p("b")) @ p("V")).tanh(), [], ["Tanh"]),
        (lambda x: ((x @ p("W")).tanh() @ p("V")).tanh(), [], ["Add", "Parameter"]),
        (lambda x: x + dense(x) * 2.0, ["Add", "Mul"], []),
    ],
)
def test_what_was_added_and_removed(build: Build, added: list[str], removed: list[str]) -> None:
    report = lg.diff(model(dense), model(build))
    assert (kinds(report.added), kinds(report.removed)) == (added, removed)
    assert_only(report, *(["added"] if added else []), *(["removed"] if removed else []))
    back = lg.diff(model(build), model(dense))
    assert (kinds(back.added), kinds(back.removed)) == (removed, added)


@pytest.mark.parametrize(
    ("before", "after", "op", "what"),
    [
        (lambda x: ops.softmax(x, axis=0), lambda x: ops.softmax(x, axis=1), "Softmax", {"axis": ("0", "1")}),
        (lambda x: x.sum(axis=0), lambda x: x.sum(axis=1), "ReduceSum", {"axes": ("(0)", "(1)")}),
        (lambda x: (x * 2.0).exp(), lambda x: (x * 3.0).exp(), "Mul", {"operand 1": ("2.0", "3.0")}),
        (lambda x: (x * 2.0).exp(), lambda x: (2.5 * x).exp(), "Mul", {"operand 1": ("2.0", "2.5")}),
        (lambda x: x.exp().tanh(), lambda x: x.abs().tanh(), "Exp", {"op": ("Exp", "Abs")}),
        (
            lambda x: ops.gelu(x @ p("W")) @ p("V"),
            lambda x: ops.gelu_tanh(x @ p("W")) @ p("V"),
            "Gelu",
            {"approximate": ("none", "tanh")},
        ),
        (
            lambda x: ops.leaky_relu(x, 0.1).exp(),
            lambda x: ops.leaky_relu(x, 0.2).exp(),
            "LeakyRelu",
            {"alpha": ("0.1", "0.2")},
        ),
    ],
)
def test_what_changed_of_an_op(before: Build, after: Build, op: str, what: dict[str, Any]) -> None:
    report = lg.diff(model(before), model(after))
    assert_only(report, "changed")
    (change,) = report.changed
    assert change.before.op.name == op
    assert change.what == what
    assert report.matches[change.before] is change.after


def test_operands_that_were_exchanged() -> None:
    report = lg.diff(model(lambda x: x.exp() - x.tanh()), model(lambda x: x.tanh() - x.exp()))
    assert_only(report, "changed")
    (change,) = report.changed
    assert change.before.op.name == "Sub"
    assert change.what.keys() == {"operand 0", "operand 1"}
    assert lg.diff(model(lambda x: x.exp() + x.tanh()), model(lambda x: x.tanh() + x.exp())).equal


def test_weights_that_changed_places() -> None:
    report = lg.diff(
        model(lambda x: (x @ p("W")).tanh() @ p("V")),
        model(lambda x: (x @ p("V")).tanh() @ p("W")),
    )
    assert_only(report, "weights")
    assert [(report.names[0][w.before], report.names[1][w.after]) for w in report.weights] == [("W", "V"), ("V", "W")]
    for weight, sign in zip(report.weights, (1, -1), strict=True):
        assert weight.norm == pytest.approx(np.linalg.norm(sign * (STATE["V"] - STATE["W"]).astype(np.float64)))


def test_an_output_that_is_another_value() -> None:
    def build(swap: bool) -> Build:
        def outputs(x: Value) -> dict[str, Value]:
            first, second = (x.exp(), x.tanh())[:: -1 if swap else 1]
            return {"y": first, "z": second}

        return outputs

    report = lg.diff(model(build(False)), model(build(True)))
    assert_only(report, "changed")
    assert [list(change.what) for change in report.changed] == [["output y"], ["output z"]]


def test_outputs_and_inputs_that_only_one_has() -> None:
    report = lg.diff(model(dense), model(lambda x: {"y": dense(x), "z": (x @ p("W") + p("b")).tanh()}))
    assert report.added_outputs == ("z",)
    assert_only(report, "added_outputs")
    x, mask = ops.input("x", "float32", (4,)), ops.input("mask", "float32", (4,))
    one, two = lg.Graph((x,), {"y": x.exp()}), lg.Graph((x, mask), {"y": x.exp() * mask})
    report = lg.diff(one, two)
    assert_only(report, "added")
    assert kinds(report.added) == ["Input", "Mul"]
    assert_only(lg.diff(one, lg.Graph((x, mask), {"y": x.exp()})), "added")


def test_inputs_go_by_name_and_then_by_what_becomes_of_them() -> None:
    def graph(first: str, second: str, *order: str) -> lg.Graph:
        a, b = (ops.input(name, "float32", ("n", 4)) for name in (first, second))
        leaves = {leaf.op.attributes()["label"]: leaf for leaf in (a, b)}
        return lg.Graph(tuple(leaves[name] for name in order), {"y": a.exp() - b})

    assert lg.diff(graph("a", "b", "a", "b"), graph("a", "b", "b", "a")).equal
    assert not lg.diff(graph("a", "b", "a", "b"), graph("b", "a", "b", "a")).equal
    report = lg.diff(graph("a", "b", "a", "b"), graph("p", "q", "q", "p"))
    assert report.equal
    assert [(r.kind, r.before, r.after) for r in report.renamed] == [("input", "a", "p"), ("input", "b", "q")]


def test_named_dimensions_have_no_say() -> None:
    def build(x: Value) -> Value:
        return x.reshape(-1, 4).exp().reshape(*x.shape)

    report = lg.diff(model(build, "batch", "time", 4), model(build, "n", "t", 4))
    assert report.equal
    assert {(r.kind, r.before, r.after) for r in report.renamed} == {
        ("dimension", "batch", "n"),
        ("dimension", "time", "t"),
    }
    swapped = lg.diff(model(build, "batch", "time", 4), model(build, "time", "batch", 4))
    assert swapped.equal
    fixed = lg.diff(model(build, "batch", "time", 4), model(build, 3, "time", 4))
    assert_only(fixed, "changed")
    (change,) = fixed.changed
    assert change.what == {"type": ("float32[batch, time, 4]", "float32[3, time, 4]")}
    square = lg.diff(model(build, "n", "n", 4), model(build, "n", "m", 4))
    assert not square.equal


FUSED = [case for case in CASES if isinstance(case.op, Fused) and case.result is None and case.op.name != "Attention"]


@pytest.mark.parametrize("case", FUSED, ids=str)
def test_every_fused_op_is_recognized_as_what_it_is_a_name_for(case: Any) -> None:
    """Many ops in the place of one that is their name, between ops that stay."""
    leaves = case.leaves()
    graphs = [lg.Graph(tuple(leaves), {"y": value.abs().sqrt()}) for value in (case.spelled(), case.value())]
    if graphs[0] == graphs[1]:
        pytest.skip("is spelled as itself")
    report = lg.diff(*graphs)
    assert_only(report, "fused")
    (fusion,) = report.fused
    assert [value.op for value in fusion.after] == [case.op]
    assert set(fusion.before) == {v for v in graphs[0].values if v.operands} - set(report.matches)
    back = lg.diff(*graphs[::-1])
    assert_only(back, "fused")
    assert [value.op for value in back.fused[0].before] == [case.op]


def gelu_of_pytorch(x: Value) -> Value:
    return x * (ops.erf(x / math.sqrt(2.0)) + 1.0) * 0.5


def normalization_of_pytorch(x: Value, scale: Value, bias: Value) -> Value:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / ((centred**2.0).mean(axis=-1, keepdims=True) + 1e-5).sqrt() * scale + bias


def test_other_spellings_are_recognized() -> None:
    def before(x: Value) -> Value:
        h = normalization_of_pytorch(x, p("b"), p("b") + 0.0)
        return gelu_of_pytorch(h @ p("W")) @ p("V")

    def after(x: Value) -> Value:
        return ops.gelu(ops.layer_normalization(x, p("b"), p("b")) @ p("W")) @ p("V")

    report = lg.diff(model(before), model(after))
    assert_only(report, "fused")
    assert [kinds(fusion.after) for fusion in report.fused] == [["LayerNormalization"], ["Gelu"]]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda x: gelu_of_pytorch(x).exp(), lambda x: ops.gelu_tanh(x).exp()),
        (lambda x: (x * 0.5 + x.tanh()).exp(), lambda x: (x.tanh() * 1.5).exp()),
        (lambda x: ((x + 1.0) ** 2.0).exp(), lambda x: (x * x + x * 2.0).exp()),
    ],
)
def test_what_only_looks_alike_is_not_fused(before: Build, after: Build) -> None:
    report = lg.diff(model(before), model(after))
    assert not report.fused
    assert not report.equal


def test_ops_in_the_place_of_others_that_compute_the_same_in_another_way() -> None:
    report = lg.diff(model(lambda x: ops.sigmoid(x @ p("W"))), model(lambda x: 1.0 / (1.0 + (-(x @ p("W"))).exp())))
    assert_only(report, "fused")
    assert [(len(fusion.before), len(fusion.after)) for fusion in report.fused] == [(1, 4)]


def test_weights_that_were_computed_ahead() -> None:
    turned = model(lambda x: (x @ p("W").T + p("b")).tanh())
    ahead = model(lambda x: (x @ p("W") + p("b")).tanh(), W=np.ascontiguousarray(STATE["W"].T))
    report = lg.diff(turned, ahead)
    assert_only(report, "fused")
    assert [(kinds(f.before), kinds(f.after)) for f in report.fused] == [(["Parameter", "Transpose"], ["Parameter"])]
    back = lg.diff(ahead, turned)
    assert [(kinds(f.before), kinds(f.after)) for f in back.fused] == [(["Parameter"], ["Parameter", "Transpose"])]
    assert not lg.diff(turned, model(lambda x: (x @ p("W") + p("b")).tanh())).fused


def test_graphs_of_passes_are_compared_without_arrays() -> None:
    layer = NETWORKS["mlp"](np.random.default_rng(0))
    optimized, _, pipeline = lg.optimize(layer, "deploy")
    assert lg.diff(layer.to_graph(), layer.to_graph()).equal
    report = lg.diff(layer.to_graph(), optimized)
    assert {kind for fusion in report.fused for kind in kinds(fusion.after)} == {"Gemm"}
    assert not report.weights
    for record in pipeline.passes:
        assert lg.diff(record.before, record.after).equal == (record.before == record.after)


def test_presets_come_before_the_comparison() -> None:
    base = NETWORKS["mlp"](np.random.default_rng(0))
    tuned = adapted(base, "lora", ["0.weight", "2.weight"], 2)
    merged = lg.export_onnx(tuned, form="merged")
    assert not lg.diff(tuned, merged).equal
    assert lg.diff(tuned, merged, preset="deploy", rtol=1e-6).equal
    with pytest.raises(ValueError, match="preset must be one of"):
        lg.diff(tuned, merged, preset="none")
    with pytest.raises(ValueError, match="rtol must be at least 0"):
        lg.diff(tuned, merged, rtol=-1)
    with pytest.raises(TypeError, match="a model is"):
        lg.diff(tuned, 3)  # type: ignore[arg-type]


def test_an_op_that_is_only_carried_along() -> None:
    assert "Opaque" in OPS
    x = ops.input("x", "float32", (4,))
    one, two = (
        apply(OPS["Opaque"]("Foo", node, (x.type,), 17, "my.domain", 1, token), x)
        for node, token in ((b"a", "1"), (b"a", "2"))
    )
    assert lg.diff(lg.Graph((x,), {"y": one}), lg.Graph((x,), {"y": two})).equal
    other = apply(OPS["Opaque"]("Foo", b"other", (x.type,), 17, "my.domain", 1, "1"), x)
    report = lg.diff(lg.Graph((x,), {"y": one}), lg.Graph((x,), {"y": other}))
    assert_only(report, "changed")
    assert report.changed[0].what == {"node": ("1 bytes", "5 bytes")}


def test_a_report_as_text_and_as_data() -> None:
    report = lg.diff(model(dense), model(lambda x: dense(x) * 2.0, V=STATE["V"] + np.float32(1)))
    lines = str(report).splitlines()
    assert lines[0] == "graph -> graph: 1 added, 1 weight changed"
    assert lines[1].startswith("  weight V: float32[4, 4]: norm 4, relative ")
    assert lines[1].endswith("largest 1, rank 1 of 4")
    assert lines[2].startswith("  added ")
    assert lines[2].endswith(": Mul float32[batch, 4]")
    data = report.to_dict()
    assert data["equal"] is False
    assert data["matched"] == len(report.matches)
    assert [entry["op"] for entry in data["added"]] == ["Mul"]
    assert data["weights"][0]["rank"] == 1
    assert data["modules"] == [vars(module) for module in report.modules]
    assert repr(report) == "<DiffReport: 1 added, 1 weight changed>"
