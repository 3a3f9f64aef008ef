"""The same expression is the same object, and only then."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import lora_graph.ops as ops
from lora_graph.ir import Graph, Input, Parameter, apply, constant, input, parameter, parse, tensor, verify  # noqa: A004
from lora_graph.ir.value import _table
from lora_graph.ops.activation import LeakyRelu


def test_equal_expressions_are_one_object() -> None:
    x = input("x", np.float32, ("batch", 3))
    assert input("x", np.float32, ("batch", 3)) is x
    assert input("x", np.float64, ("batch", 3)) is not x
    assert input("x", np.float32, ("time", 3)) is not x
    assert parameter("x", np.float32, ("batch", 3)) is not x
    assert (x + 1.0).tanh() is (x + 1.0).tanh()
    assert x + 1.0 is not 1.0 + x
    assert ops.softmax(x, -1) is not ops.softmax(x, 1)
    assert x.sum(axis=0) is not x.sum(axis=0, keepdims=True)


@pytest.mark.parametrize("values", [(0, 0.0, -0.0, False), (1, 1.0, True, np.float32(1), np.int32(1))])
def test_constants_differ_by_type_and_bits(values: tuple[Any, ...]) -> None:
    made = [constant(value) for value in values]
    assert len(set(made)) == len(values)
    assert [constant(value) for value in values] == made


def test_attributes_differ_by_type_and_bits() -> None:
    x = input("x", np.float32, (3,))
    alphas: list[Any] = [0.0, -0.0, 0, False, float("nan")]
    made = [apply(LeakyRelu(alpha), x) for alpha in alphas]
    assert len(set(made)) == len(alphas)
    assert apply(LeakyRelu(float("nan")), x) is made[-1]


def test_nan_equals_itself_and_payloads_differ() -> None:
    assert constant(np.nan) is constant(np.nan)
    other = np.uint64(0x7FF8000000000001).view(np.float64)
    assert constant(other) is not constant(np.nan)
    assert constant(np.zeros((0, 2))) is not constant(np.zeros((2, 0)))


def test_a_constant_keeps_what_it_was_made_of() -> None:
    array = np.ones(3)
    value = constant(array)
    array[:] = 7
    np.testing.assert_array_equal(value.op.value, np.ones(3))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="read-only"):
        value.op.value[0] = 5  # type: ignore[attr-defined]


def test_constants_are_small() -> None:
    assert constant(np.zeros(128)).shape == (128,)
    with pytest.raises(ValueError, match="at most 1024 bytes, got 1032"):
        constant(np.zeros(129))
    with pytest.raises(TypeError, match="numeric"):
        constant(np.asarray([None]))


def test_values_are_immutable_and_made_by_ops_only() -> None:
    x = input("x", np.float32, ())
    with pytest.raises(AttributeError, match="immutable"):
        x.op = None  # type: ignore[assignment]
    with pytest.raises(TypeError, match="made by applying ops"):
        type(x)()
    assert copy.copy(x) is x
    assert copy.deepcopy([x])[0] is x
    assert pickle.loads(pickle.dumps(x)) is x


def test_two_inputs_of_one_name_survive_pickling() -> None:
    value = input("x", np.float32, (2,)).sum() + input("x", np.float32, (3,)).sum()
    assert pickle.loads(pickle.dumps(value)) is value


def test_a_failed_application_leaves_nothing_behind() -> None:
    x, y = input("x", np.float32, (2,)), input("y", np.float32, (3,))
    gc.collect()
    before = len(_table)
    with pytest.raises(ValueError, match="do not broadcast"):
        x + y
    gc.collect()
    assert len(_table) == before


def test_dead_values_are_released() -> None:
    input("elsewhere", np.float32, (3,)) * 1.25  # recent numbers are remembered
    gc.collect()
    before = len(_table)
    value = input("only here", np.float32, (3,))
    for _ in range(50):
        value = (value * 1.25).tanh()
    watch = weakref.ref(value)
    assert len(_table) > before
    del value
    gc.collect()
    assert watch() is None
    assert len(_table) == before


def test_threads_build_one_object() -> None:
    built: list[Any] = []
    barrier = threading.Barrier(8)

    def build() -> None:
        barrier.wait()
        value = input("raced", np.float32, (4,))
        for step in range(300):
            value = (value + float(step)).tanh()
        built.append(value)

    threads = [threading.Thread(target=build) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 8
    assert len(set(built)) == 1


def test_a_chain_of_a_hundred_thousand_ops() -> None:
    x = input("x", np.float32, ("batch", 3))
    value = x
    for _ in range(50_000):
        value = (value * 1.5).tanh()
    graph = Graph((x,), {"y": value})
    assert len(graph) == 100_002
    verify(graph)
    text = str(graph)
    assert text.count("\n") == 100_002
    assert parse(text) == graph
    assert pickle.loads(pickle.dumps(value)) is value
    assert copy.deepcopy(value) is value
    watch = weakref.ref(value)
    del value, graph
    gc.collect()
    assert watch() is None


def test_leaf_ops_are_values_too() -> None:
    kind = tensor(np.float32, ("batch", 2))
    assert Input("x", kind) == Input("x", tensor(np.float32, ("batch", 2)))
    assert hash(Input("x", kind)) == hash(Input("x", tensor(np.float32, ("batch", 2))))
    assert Parameter("x", kind, True) != Parameter("x", kind, False)
