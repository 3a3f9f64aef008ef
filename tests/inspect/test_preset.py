"""What the passes of a preset do, as it is told."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.inspect.preset import Refusal, passes_of
from lora_graph.ir import Graph
from lora_graph.ir.graph import Note
from lora_graph.rewrite.pipeline import PRESETS
from tests.onnx.forms.models import adapted, dense


def test_every_pass_is_listed_with_its_rules(rng: np.random.Generator) -> None:
    graph = adapted(dense(rng), "lora", rng).to_graph()
    steps, report = passes_of(graph, "deploy")
    assert [step.name for step in steps] == [step.name for step in PRESETS["deploy"].passes]
    assert steps[0].before == 14
    assert steps[-1].after == sum(report.after.values())
    assert all(earlier.after == later.before for earlier, later in itertools.pairwise(steps))
    (merge,) = [step for step in steps if step.name == "merge"]
    assert sum(count for name, count in merge.fired.items() if "merge" in name) == 2
    assert all(step.seconds >= 0 for step in steps)
    assert merge.to_dict()["fired"] == merge.fired


def test_refusals_are_counted_and_placed() -> None:
    x = ops.input("x", "float32", ("batch", 4))
    w = ops.parameter("w", "float32", (4, 4))
    first = x @ w + ops.relu(x)
    second = first @ w + ops.relu(first)
    graph = Graph((x,), {"y": second}, {first: Note(scope="a"), second: Note(scope="b")})
    steps, _ = passes_of(graph, "merge")
    reason = "Relu on the way is not linear in float32[batch, 4]"
    assert [step.refused for step in steps if step.refused] == [(Refusal("merge_bypass", reason, 2, ("a", "b")),)]


def test_an_unknown_preset_is_refused() -> None:
    x = ops.input("x", "float32", (4,))
    with pytest.raises(ValueError, match="preset must be one of"):
        passes_of(Graph((x,), {"y": x}), "fast")
