"""Every rule: where it fires and what it writes, where it does not, and that the numbers stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from lora_graph.interpret import evaluate
from lora_graph.ir import Graph, Value
from lora_graph.rewrite import Facts, rewrite
from lora_graph.rewrite.engine import _Search
from tests.rewrite.cases import ALL_RULES, CASES, RULES, Case
from tests.rewrite.running import compare, graph_of

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-310, 1e308, -3.0]


def graph_for(case: Case) -> Graph:
    return graph_of({"y": case.before, **({} if case.also is None else {"also": case.also})})


def fired_once(case: Case) -> Value | None:
    """What the rule writes at the root of the case, untouched by a second firing."""
    search = _Search([RULES[case.rule]], Facts(case.fold))
    found = search.fire(case.before, graph_for(case).users)
    return None if found is None else found[1]


def test_rule_names_are_unique() -> None:
    assert len(RULES) == len(ALL_RULES)


def test_every_rule_says_what_it_does() -> None:
    assert [rule.name for rule in ALL_RULES if not rule.name.startswith("fuse ") and not rule.rewrite.__doc__] == []


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_case_that_fires_and_one_that_does_not(name: str) -> None:
    kinds = {case.after is None for case in CASES if case.rule == name}
    assert kinds == {True, False}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_rule_writes(case: Case) -> None:
    assert fired_once(case) is case.after


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refusals_have_reasons(case: Case) -> None:
    graph, record = rewrite(graph_for(case), [RULES[case.rule]], Facts(case.fold))
    if case.after is None:
        assert graph == graph_for(case)
        assert record.fired == {}
        reasons = [refused.reason for refused in record.refused if refused.value is case.before]
        assert len(reasons) == bool(case.reason)
        assert all(case.reason in reason for reason in reasons)
    else:
        assert record.fired[case.rule] >= 1


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("case", [case for case in CASES if case.after is not None], ids=str)
def test_the_numbers_stay_the_same(case: Case, batch: int, rng: np.random.Generator) -> None:
    before = graph_for(case)
    after, _ = rewrite(before, [RULES[case.rule]], Facts(case.fold))
    compare(before, after, rng, {"batch": batch, "time": 2}, 1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if case.exact and case.after is not None], ids=str)
def test_exact_rules_hold_for_every_number(case: Case) -> None:
    before = graph_for(case)
    after, _ = rewrite(before, [RULES[case.rule]], Facts(case.fold))
    sizes = {"batch": 8, "time": 2}
    inputs = {}
    for leaf in before.inputs:
        kind = leaf.type.bind(sizes)
        pool = SPECIAL if kind.is_float else [0, 1, 2, 100]
        inputs[leaf.op.label] = np.resize(np.asarray(pool, kind.dtype), kind.shape)  # type: ignore[attr-defined]
    state = {
        name: np.resize(np.asarray(SPECIAL[::-1], leaf.dtype), leaf.type.bind(sizes).shape)
        for name, leaf in before.parameters.items()
    }
    kept = {name: state[name] for name in after.parameters}
    results, expected = evaluate(after, inputs, kept), evaluate(before, inputs, state)
    for name in expected:
        np.testing.assert_array_equal(results[name], expected[name])
