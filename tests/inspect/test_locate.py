"""Finding the first value that diverges, also where looking makes the difference go away."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.inspect.differences import Tolerance
from lora_graph.inspect.engines import Given, Interpreter, Program, State
from lora_graph.inspect.locate import first_divergence, precision, precisions
from lora_graph.ir import Graph, Value
from lora_graph.ir.graph import Note

X = ops.input("x", "float32", ("batch", 3))


def chain(length: int) -> Program:
    """y = x + 1 + 1 …, every sum with a name."""
    value, notes = X, {}
    for number in range(length):
        value = value + 1.0
        notes[value] = Note(f"sum{number}", scope=f"block.{number}")
    return Program(Graph((X,), {"y": value}, notes), {})


class Wrong(Interpreter):
    """Right up to the value number ``at``, and only where few values are asked for if it is ``shy``."""

    def __init__(self, program: Program, at: int, *, shy: bool) -> None:
        super().__init__(program)
        self.at, self.shy, self.asked = at, shy, 0

    def values(self, given: Given, values: Mapping[str, Value]) -> State:
        self.asked += 1
        found = super().values(given, values)
        order = [name for name in self.nameable() if name != "y"]
        late = {"y", *order[self.at :]} if not self.shy or len(values) == 1 else set()
        return {name: array + (name in late) for name, array in found.items()}


@pytest.mark.parametrize("at", [0, 1, 13, 29])
@pytest.mark.parametrize("shy", [False, True])
def test_the_first_wrong_value_is_found(at: int, shy: bool) -> None:
    engine = Wrong(chain(30), at, shy=shy)
    found = first_divergence(engine, Given({"x": np.ones((2, 3), np.float32)}), Tolerance(), ["y"])
    assert found is not None
    name = "y" if at == 29 else f"sum{at}"
    assert (found.value, found.op, found.type, found.alone) == (name, "Add", "float32[batch, 3]", shy)
    assert found.difference.absolute == 1
    assert engine.asked == 1 if not shy else 2 < engine.asked < 10
    assert str(found).startswith(f"{name} (Add in block.{at}, float32[batch, 3]) by 1")
    assert ("optimization" in str(found)) == shy


def test_nothing_is_found_where_all_agrees() -> None:
    assert first_divergence(Interpreter(chain(5)), Given({"x": np.ones((2, 3))}), Tolerance(), ["y"]) is None


def test_values_of_other_outputs_do_not_count() -> None:
    wrong = X * 2.0
    program = Program(Graph((X,), {"y": X + 1.0, "z": wrong}), {})

    class Other(Interpreter):
        def values(self, given: Given, values: Mapping[str, Value]) -> State:
            return {name: array + (name == "z") for name, array in super().values(given, values).items()}

    given = Given({"x": np.ones((2, 3))})
    assert first_divergence(Other(program), given, Tolerance(), ["y"]) is None
    found = first_divergence(Other(program), given, Tolerance(), ["y", "z"])
    assert found is not None
    assert found.value == "z"


def test_the_precision_is_that_of_the_narrowest_computation() -> None:
    stored = ops.parameter("w", "float16", (3,)).astype("float32")
    half = (X.astype("float16") * 2).astype("float32")
    graph = Graph((X,), {"a": X * stored, "b": half + 1.0, "c": ops.tanh(half).argmax(1)})
    narrowest = precisions(graph)
    names = [precision(value, narrowest).name for value in graph.outputs.values()]
    assert names == ["float32", "float16", "int64"]
