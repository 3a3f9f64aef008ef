"""The passes over loops: what they drop, what they simplify inside, what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.ir import Graph, Note, Value, verify
from lora_graph.ops.scan import Scan, scan
from lora_graph.rewrite.algebra import IDENTITIES
from lora_graph.rewrite.blocks import BLOCKS
from lora_graph.rewrite.loops import rewrite_bodies, trim_loops
from tests.rewrite.running import compare

X, U = (ops.input(name, "float64", ("time", "batch", 4)) for name in "xu")
H, C, W = (ops.input(name, "float64", ("batch", 4)) for name in "hcw")


def step(h: Value, c: Value, x: Value, u: Value, w: Value) -> tuple[list[Value], list[Value]]:
    """Two carries of which the second only looks at the first, and three results."""
    new = ops.tanh(h + x)
    return [new, c + new * u], [new * 1.0 + 0.0, u * w, c * 2.0]


(LAST, TOTAL), STACKS = scan(step, [H, C], [X, U], [W])


def loop_of(graph: Graph) -> Scan:
    (found,) = [value.op for value in graph.values if isinstance(value.op, Scan)]
    return found


@pytest.mark.parametrize(
    ("outputs", "carried", "scanned", "captured", "results"),
    [
        ({"y": STACKS[0]}, 1, 1, 0, 2),
        ({"y": LAST}, 1, 1, 0, 1),
        ({"y": TOTAL}, 2, 2, 0, 2),
        ({"y": STACKS[1]}, 0, 1, 1, 1),
        ({"y": STACKS[2]}, 2, 2, 0, 3),
        ({"y": STACKS[1], "z": LAST}, 1, 2, 1, 2),
    ],
)
def test_what_nobody_uses_is_dropped(
    outputs: dict[str, Value], carried: int, scanned: int, captured: int, results: int, rng: np.random.Generator
) -> None:
    graph = Graph((H, C, X, U, W), outputs)
    after, _, record = trim_loops(graph)
    verify(after)
    op = loop_of(after)
    assert (op.carried, op.scanned, len(op.results)) == (carried, scanned, results)
    assert len(op.body.inputs) == carried + scanned + captured
    assert record.fired == {"drop result": 7 - results}
    assert trim_loops(after)[0] == after
    compare(graph, after, rng, {"time": 3, "batch": 2}, 0)


def test_a_loop_that_reads_no_slice_keeps_one_to_know_its_length(rng: np.random.Generator) -> None:
    (last,), _ = scan(lambda h, x: ([h * 2.0], [x]), [H], [X])
    graph = Graph((H, X), {"y": last})
    after, _, _ = trim_loops(graph)
    assert loop_of(after).scanned == 1
    compare(graph, after, rng, {"time": 3, "batch": 2}, 0)


def test_bodies_are_simplified(rng: np.random.Generator) -> None:
    """Slices of one Value pass their cotangents back as one concatenation; what adds nothing goes."""

    def gates(h: Value, x: Value, w: Value) -> tuple[list[Value], list[Value]]:
        i, f, g = (x[:, at : at + 1] for at in (0, 1, 2))
        return [h * f + i * g], []

    h = ops.input("h", "float64", ("batch", 1))
    (last,), _ = scan(gates, [h], [X], [W])
    graph = Graph((h, X, W), {"y": gradients((last * last).sum(), [X])[0]}, {last: Note("last", "0.cell")})
    after, _, record = rewrite_bodies(trim_loops(graph)[0], [*IDENTITIES, *BLOCKS])
    verify(after)
    assert record.fired["join_padded"] + record.fired["join_padded_in_sum"] == 2
    backward = [value.op for value in after.values if isinstance(value.op, Scan)][-1]
    counts = backward.body.op_counts()
    assert (counts["Concat"], counts["Pad"]) == (1, 1)
    compare(graph, after, rng, {"time": 3, "batch": 2}, 1e-12)


def test_constants_in_bodies_are_folded() -> None:
    _, (y,) = scan(lambda x: ([], [x * (ops.constant(2.0) + ops.constant(3.0))]), [], [X])
    after, _, record = rewrite_bodies(Graph((X,), {"y": y}), IDENTITIES)
    assert record.fired == {"fold": 1}
    assert "Add" not in loop_of(after).body.op_counts()


def test_graphs_without_loops_stay_the_same_object() -> None:
    graph = Graph((X,), {"y": X * 2.0})
    assert trim_loops(graph)[0] is graph
    assert rewrite_bodies(graph, IDENTITIES)[0] is graph


def test_notes_stay_with_what_was_rebuilt() -> None:
    graph = Graph((H, C, X, U, W), {"y": STACKS[0]}, {STACKS[0]: Note("gate", "0.cell")})
    after, _, _ = trim_loops(graph)
    assert after.notes[after.outputs["y"]] == Note("gate", "0.cell")
