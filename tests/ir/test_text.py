"""The text of a graph reads back as the same graph, whatever the names; what cannot be read names its line."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lora_graph.ops as ops
from lora_graph.ir import (
    Graph,
    Note,
    SymbolicDim,
    Value,
    constant,
    input,  # noqa: A004
    parameter,
    parse,
    size_of,
)

ODD = [
    "x",
    "0",
    "12",
    "a b",
    "",
    "%",
    "%x",
    '"',
    "'",
    "\\",
    "a\\",
    "é",
    "層",
    "\n",
    "\u2028",
    "x) -> (y=%x",
    "x: f[3]",
    "a, b",
]
names = st.one_of(st.sampled_from(ODD), st.text(max_size=8))


@st.composite
def graphs(draw: Any) -> Graph:
    """A random graph over odd names: element-wise ops, products, constants, several outputs, notes."""
    labels = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    size = SymbolicDim((((draw(names),), 1),))
    inputs = [input(label, np.float32, (size, 3)) for label in labels]
    values: list[Value] = [*inputs, parameter(draw(names), np.float32, (size, 3), draw(st.booleans()))]
    for _ in range(draw(st.integers(0, 8))):
        values.append(_step(draw, values, size))
    outputs = {draw(names): draw(st.sampled_from(values)) for _ in range(draw(st.integers(1, 3)))}
    noted = draw(st.lists(st.sampled_from(values), max_size=3))
    notes = {value: Note(name=draw(names), scope=draw(names)) for value in noted}
    return Graph(tuple(inputs), outputs, notes, draw(names))


def _step(draw: Any, values: list[Value], size: SymbolicDim) -> Value:
    a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
    number = draw(st.floats(width=32))
    steps = {
        "add": lambda: a + b,
        "scale": lambda: a * number,
        "row": lambda: a + constant(np.asarray([number, -0.0, 1e-45], np.float32)),
        "leaky": lambda: ops.leaky_relu(a, number if number == number else 0.5),
        "mean": lambda: a.mean(axis=0) + b,
        "reshape": lambda: a.reshape(3, size).T,
        "size": lambda: a / size_of(size, np.float32),
        "slice": lambda: a[:1] + b[:1].sum(axis=0),
        "where": lambda: ops.where(a > b, a, b),
    }
    value = steps[draw(st.sampled_from(sorted(steps)))]()
    return value if value.shape == (size, 3) else ops.expand(value.sum(axis=0), (size, 3))


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_text_reads_back(graph: Graph) -> None:
    text = str(graph)
    again = parse(text)
    assert again == graph
    assert again.name == graph.name
    assert pickle.loads(pickle.dumps(graph)) == graph
    scopes = {value: note.scope for value, note in graph.notes.items() if note.scope and value not in graph.inputs}
    assert {value: again.notes[value].scope for value in scopes if value in set(graph.values)} == {
        value: scope for value, scope in scopes.items() if value in set(graph.values)
    }


def test_the_printed_form() -> None:
    x = input("x", np.float32, ("batch", 2))
    w = parameter("0.weight", np.float32, (2, 3))
    y = ops.leaky_relu(x @ w, 0.1).sum(axis=-1) * 2.0
    graph = Graph((x,), {"y": y}, {x @ w: Note("hidden", "0.base")}, "mlp")
    assert str(graph) == (
        "graph mlp(%x: float32[batch, 2]) -> (y=%3) {\n"
        "  %0.weight: float32[2, 3] = Parameter {label='0.weight', type='float32[2, 3]', trainable=True}\n"
        "  %hidden: float32[batch, 3] = MatMul(%x, %0.weight)  @ 0.base\n"
        "  %0: float32[batch, 3] = LeakyRelu(%hidden) {alpha=0.1}\n"
        "  %1: float32[batch] = ReduceSum(%0) {axes=(-1,), keepdims=0}\n"
        "  %2: float32[] = Constant {value=array('float32[]', 2.0)}\n"
        "  %3: float32[batch] = Mul(%1, %2)\n"
        "}"
    )


def test_by_hand_with_comments_and_without_types() -> None:
    graph = parse(
        """
        # a comment
        graph g(%x: float32[batch, 2]) -> (y=%y, x=%x) {

          %w: float32[2, 2] = Parameter {label="w", type="float32[2, 2]"}
          # another
          %h = MatMul(%x, %w)
          %y = Add(%h, %x)  @ "my scope"
        }
        """
    )
    x = input("x", np.float32, ("batch", 2))
    hidden = x @ parameter("w", np.float32, (2, 2))
    assert graph == Graph((x,), {"y": hidden + x, "x": x})
    assert graph.notes[hidden + x] == Note("y", "my scope")


GOOD = """graph g(%x: float32[2]) -> (y=%y) {
  %y: float32[2] = Tanh(%x)
}"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("graph g", "grph g", "line 1: expected 'graph NAME"),
        ("-> (y=%y)", "-> (y=%y", "line 1: expected 'graph NAME"),
        ("float32[2])", "float32[2], junk)", "line 1: expected 'graph NAME"),
        ("%x: float32[2])", "%x: float32[2], %x: float32[3])", "line 1: two inputs are called 'x'"),
        ("%x: float32[2]", "%x: float33[2]", "line 1: .*float33"),
        ("%x: float32[2]", "%x: float32[h/2]", "line 1: cannot read the dimension"),
        ("y=%y", "y=%z", "line 1: %z is used before it is defined"),
        ("Tanh(%x)", "Tanh(%z)", "line 2: %z is used before it is defined"),
        ("Tanh(%x)", "Tanhh(%x)", "line 2: unknown op 'Tanhh'"),
        ("Tanh(%x)", "Tanh(%x", "line 2: cannot read"),
        ("Tanh(%x)", "Tanh(%x) trailing", "line 2: cannot read"),
        ("Tanh(%x)", "Tanh(%x) {alpha=1.0}", "line 2: Tanh has no attribute 'alpha'"),
        ("Tanh(%x)", "Elu(%x) {alpha=open('f')}", "line 2: cannot read the attribute"),
        ("Tanh(%x)", "Elu(%x) {alpha=1 +}", "line 2: "),
        ("Tanh(%x)", "Softmax(%x) {axis=3}", "line 2: Softmax: axis 3 is out of range"),
        ("Tanh(%x)", "Softmax(%x) {}", ""),
        ("Tanh(%x)", "Tanh(%x, %x)", "line 2: "),
        ("Tanh(%x)", "Transpose(%x)", "line 2: .*perm"),
        ("%y: float32[2] =", "%y: float32[3] =", r"line 2: %y is float32\[2\], not float32\[3\]"),
        ("\n}", "\n", "closing"),
    ],
)
def test_what_cannot_be_read_names_its_line(old: str, new: str, words: str) -> None:
    text = GOOD.replace(old, new)
    assert text != GOOD
    if not words:
        parse(text)
        return
    with pytest.raises(ValueError, match=words):
        parse(text)


def test_an_empty_text_is_no_graph() -> None:
    with pytest.raises(ValueError, match="no graph in an empty text"):
        parse("# nothing\n")
