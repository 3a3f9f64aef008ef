"""Random graphs: under other names they are equal, and what passes make of them is told apart from them."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, seed, settings
from hypothesis import strategies as st

import lora_graph as lg
from lora_graph.inspect.inspected import Inspected
from lora_graph.ir import Graph, dim, input, parameter  # noqa: A004
from lora_graph.ir.graph import replace
from lora_graph.rewrite import optimize_graph
from tests.inspect.test_diff_rewrites import assert_isomorphic
from tests.rewrite.running import arrays
from tests.test_hypothesis_graphs import SEED, Drawn, graphs

RUN = settings(max_examples=40, deadline=None, database=None)


def renamed(model: Inspected, random: Random) -> Inspected:
    """The same with other names for inputs, parameters, outputs and dimensions, and the inputs in another order."""
    graph = model.graph
    sizes = {name: dim(f"d{random.randrange(10**6)}_{number}") for number, name in enumerate(graph.dim_names)}
    names = {name: f"p{random.randrange(10**9)}" for name in graph.parameters}
    leaves = {}
    for leaf in graph.inputs:
        leaves[leaf] = input(f"i{random.randrange(10**9)}", leaf.dtype, leaf.type.substitute(sizes).shape)
    inputs = list(leaves.values())
    random.shuffle(inputs)
    for name, leaf in graph.parameters.items():
        leaves[leaf] = parameter(names[name], leaf.dtype, leaf.type.substitute(sizes).shape)
    outputs = replace(graph.outputs.values(), leaves, sizes)
    new = Graph(tuple(inputs), {f"o{random.randrange(10**9)}": value for value in outputs})
    return Inspected.of(new, state={names[name]: array for name, array in model.state.items()})


@seed(SEED)
@RUN
@given(graphs(), st.integers(0, 10**6))
def test_other_names_are_no_difference(drawn: Drawn, number: int) -> None:
    _, state = arrays(drawn.graph, np.random.default_rng(drawn.numbers), drawn.sizes)
    model = Inspected.of(drawn.graph, state=state)
    report = lg.diff(model, renamed(model, Random(number)))
    assert report.equal, str(report)
    assert_isomorphic(report)


@seed(SEED)
@RUN
@given(graphs(), st.sampled_from(["inference", "deploy", "train"]))
def test_what_a_pass_made_is_equal_only_if_it_is_the_same_graph(drawn: Drawn, preset: str) -> None:
    optimized = optimize_graph(drawn.graph, preset).graph
    report = lg.diff(drawn.graph, optimized)
    assert not report.equal or drawn.graph == optimized
    assert len(report.to_dict()["added"]) == len(report.added)
    told = {value for fusion in report.fused for value in fusion.before} | {*report.removed, *report.matches}
    leaves = {value for value in drawn.graph.values if not value.operands}
    assert set(drawn.graph.values) - leaves <= told
