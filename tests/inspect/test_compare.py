"""``lg.check``: models that agree with themselves, and wrong ones of which the first wrong value is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lora_graph as lg
from lora_graph.errors import LoadError
from lora_graph.inspect.cases import Case
from lora_graph.inspect.compare import compared
from lora_graph.inspect.differences import Tolerance
from lora_graph.inspect.engines import Given
from lora_graph.inspect.subject import Subject
from lora_graph.ir import Graph
from lora_graph.ops.activation import Tanh
from lora_graph.rewrite.pipeline import PRESETS, Pass, Pipeline, Step
from lora_graph.rewrite.record import PassRecord
from tests.onnx.forms.models import BASES, FAMILIES, adapted, dense
from tests.onnx.test_opaque import conditional, unknown_op

FORMS = ["parallel", "merged", "hot-swap", "web", "multi-adapter", "weighted"]


def network(rng: np.random.Generator) -> lg.Layer:
    return lg.Sequential([lg.DenseLayer(6, 8, "tanh", rng=rng), lg.DenseLayer(8, 5, "relu", rng=rng)])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", BASES)
def test_every_form_agrees(form: str, base: str, rng: np.random.Generator) -> None:
    build, _, shape = BASES[base]
    model = lg.export_onnx(adapted(build(rng), "lora", rng), form=form, input_shape=shape)
    report = lg.check(model)
    assert report.ok, report
    pairs = ["interpreter / reference", "runtime as is / reference", "runtime optimized / reference"]
    assert [c.pair for c in report.comparisons] == pairs + ["merged / runtime optimized"] * (form == "parallel")
    assert all(0 < c.relative < 1e-5 and c.ulp > 0 and c.absolute <= c.tolerance for c in report.comparisons[:3])


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_agree(family: str, rng: np.random.Generator) -> None:
    report = lg.check(adapted(dense(rng), family, rng), batch_sizes=(3,))
    assert report.ok, report
    assert report.cases == ("batch 3",)
    assert [c.found for c in report.comparisons][-1] == "merged"


def test_the_dynamic_rank_and_float16_agree(rng: np.random.Generator) -> None:
    assert lg.check(lg.export_onnx(adapted(dense(rng), "dylora", rng), form="dynamic-rank")).ok
    report = lg.check(lg.export_onnx(dense(rng), dtype="float16"))
    assert report.ok, report
    assert {c.dtype for c in report.comparisons} == {"float32"}
    assert 1e-5 < report.comparisons[0].relative < 1e-2  # the interpreter rounds, ONNX Runtime computes in float32
    assert not lg.check(lg.export_onnx(dense(rng), dtype="float16"), rtol=1e-6).ok


def test_float64_is_compared_as_such(rng: np.random.Generator) -> None:
    layer = lg.DenseLayer(6, 4, "tanh", dtype="float64", rng=rng)
    report = lg.check(layer)
    assert report.ok
    assert max(c.relative for c in report.comparisons) < 1e-14


def test_the_same_seed_gives_the_same_report(rng: np.random.Generator) -> None:
    layer = network(rng)
    assert lg.check(layer, seed=3) == lg.check(layer, seed=3)
    assert lg.check(layer, seed=3) != lg.check(layer, seed=4)


def test_a_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    right = Tanh.evaluate
    monkeypatch.setattr(Tanh, "evaluate", lambda self, x, out=None: right(self, x * x.dtype.type(1.001), out=out))
    report = lg.check(network(rng))
    assert not report.ok
    wrong = {c.found: c for c in report.comparisons if not c.within}
    assert set(wrong) == {"runtime as is", "runtime optimized"}  # the interpreter has the same kernel
    for comparison in wrong.values():
        assert "(Tanh" in comparison.cause
        assert "float32[batch, 8]" in comparison.cause
        assert comparison.absolute > comparison.tolerance


def test_a_wrong_kernel_of_the_interpreter_is_named(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    right = Tanh.evaluate

    def wrong(self: Tanh, x: Any, out: Any = None) -> Any:
        y = right(self, x, out=out)
        if x.dtype == np.float32:
            y[..., 0] += 0.01
        return y

    monkeypatch.setattr(Tanh, "evaluate", wrong)
    report = lg.check(network(rng))
    (found,) = [c for c in report.comparisons if not c.within]
    assert found.found == "interpreter"
    assert "(Tanh" in found.cause
    assert "by 0.01" in found.cause


def test_a_model_edited_after_its_export_is_found(rng: np.random.Generator) -> None:
    subject = Subject.of(network(rng))
    edited = onnx.ModelProto()
    edited.CopyFrom(subject.source)
    (node,) = [node for node in edited.graph.node if node.op_type == "Tanh"]
    node.op_type = "Sigmoid"
    case = Case("one", Given({"x": rng.normal(size=(2, 6)).astype(np.float32)}))
    report = compared(replace(subject, source=edited), [case], Tolerance())
    wrong = [c for c in report.comparisons if not c.within]
    assert [c.found for c in wrong] == ["runtime as is", "runtime optimized"]
    assert all(c.cause.startswith(f"the first value that diverges is {node.output[0]} (Tanh") for c in wrong)


def test_an_export_that_changes_what_is_computed(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(Tanh, "lower", lambda self, to, x: to.node("Sigmoid", [x]))
    wrong = [c for c in lg.check(network(rng)).comparisons if not c.within]
    assert [c.found for c in wrong] == ["runtime as is", "runtime optimized"]
    assert all(c.cause.startswith("exporting changes what is computed: y differs by") for c in wrong)


@pytest.mark.parametrize(("preset", "found"), [("inference", ["interpreter"]), ("export", ["as is", "optimized"])])
def test_a_wrong_pass_is_named(
    preset: str, found: list[str], monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    def twice(graph: Graph) -> Step:
        new = graph.with_outputs({name: value * 2.0 for name, value in graph.outputs.items()})
        return new, None, PassRecord("twice", graph, new)

    right = PRESETS[preset].passes
    monkeypatch.setitem(PRESETS, preset, Pipeline(preset, (*right[:2], Pass("twice", twice), *right[2:])))
    wrong = [c for c in lg.check(adapted(network(rng), "lora", rng)).comparisons if not c.within]
    assert [c.found.removeprefix("runtime ") for c in wrong if c.expected == "reference"] == found
    assert all(c.cause == f"the pass 'twice' of {preset!r} changes what is computed, in float64 as well" for c in wrong)


def test_a_wrong_merge_is_found(rng: np.random.Generator) -> None:
    subject = Subject.of(adapted(dense(rng), "lora", rng))
    assert isinstance(subject.layer, lg.AdaptedModel)
    other = adapted(dense(rng), "lora", rng)
    case = Case("one", Given({"x": rng.normal(size=(2, 12)).astype(np.float32)}))
    (wrong,) = [c for c in compared(replace(subject, layer=other), [case], Tolerance()).comparisons if not c.within]
    assert wrong.pair == "merged / runtime optimized"
    assert wrong.cause.startswith("merging changes what is computed: y differs by")


def test_adapters_that_cannot_be_merged_are_noted(rng: np.random.Generator) -> None:
    with pytest.warns(UserWarning, match="cannot be merged"):
        layer = lg.StandardLoRAAdapter(lg.DenseLayer(6, 4, "relu", rng=rng), 2, rng=rng)
    report = lg.check(layer.eval())
    assert report.ok
    assert [c.found for c in report.comparisons] == ["interpreter", "runtime as is", "runtime optimized"]
    assert "not compared with a merged model: " in report.notes[0]


def test_ops_that_only_onnx_runtime_has_are_noted(rng: np.random.Generator) -> None:
    report = lg.check(conditional())
    assert report.ok
    assert report.notes == ("If runs in ONNX Runtime everywhere, so what it gives is compared with itself",)
    assert "If in their own precision" in report.truth


def random_model(names: list[str]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Tanh", ["x"], ["y"]),
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["y", "noise"], ["z"]),
    ]
    info = helper.make_tensor_value_info
    x, outputs = info("x", TensorProto.FLOAT, ["n", 3]), [info(n, TensorProto.FLOAT, ["n", 3]) for n in names]
    graph = helper.make_graph(nodes, "noisy", [x], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_random_outputs_are_left_out() -> None:
    report = lg.check(random_model(["y", "z"]))
    assert {c.output for c in report.comparisons} == {"y"}
    assert report.notes == ("z is not compared: it depends on random numbers that an op draws by itself",)
    with pytest.raises(ValueError, match="nothing can be compared"):
        lg.check(random_model(["z"]))


def test_what_is_not_finite_is_noted() -> None:
    nodes = [helper.make_node("Div", ["x", "zero"], ["y"])]
    info = helper.make_tensor_value_info
    x, y = (info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(np.zeros(3, np.float32), "zero")])
    report = lg.check(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert report.ok
    assert report.notes[0] == "y holds values that are not finite (batch 1)"


def test_given_inputs(rng: np.random.Generator) -> None:
    layer = network(rng)
    report = lg.check(layer, inputs={"x": rng.normal(size=(4, 6))})
    assert report.ok
    assert report.cases == ("given inputs",)
    with pytest.raises(ValueError, match="'x'"):
        lg.check(layer, inputs={"z": np.zeros((4, 6))})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": ()}, "batch_sizes must name at least one size"),
        ({"batch_sizes": (0,)}, "batch_sizes must be at least 1"),
        ({"sizes": {"batch": 2**50}}, "do not fit into memory: batch = "),
        ({"sizes": {"time": 3}}, "no dimension called 'time'; they have batch"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"atol": -1}, "atol must be at least 0"),
        ({"rtol": float("nan")}, "rtol must be finite"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=message):
        lg.check(network(rng), **options)


def test_a_model_whose_sizes_are_only_known_when_it_runs() -> None:
    with pytest.raises(ValueError, match="is not known before it runs"):
        lg.check(unknown_op())


def test_bad_models() -> None:
    with pytest.raises(LoadError, match="not an ONNX model"):
        lg.check(b"no model")
    with pytest.raises(TypeError, match="a model is"):
        lg.check(3)  # type: ignore[arg-type]


def test_a_report_as_text_and_as_data(rng: np.random.Generator) -> None:
    report = lg.check(network(rng), rtol=1e-12)
    assert not report.ok
    text = str(report).splitlines()
    assert text[0] == "Sequential: NOT within tolerance"
    assert text[1].startswith("y: interpreter / reference: absolute ")
    assert "; the first value that diverges is " in text[1]
    data = report.to_dict()
    assert data["ok"] is False
    assert data["comparisons"][0]["found"] == "interpreter"
