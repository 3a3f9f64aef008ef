"""The engine: order, users, refusals, termination, provenance, and size."""

from __future__ import annotations

import pytest

from lora_graph import ops
from lora_graph.ir import OPS, Graph, Note, Value
from lora_graph.rewrite import PRESETS, Facts, Refusal, any_op, engine, optimize_graph, rewrite, rule
from lora_graph.rewrite.algebra import IDENTITIES
from lora_graph.rewrite.products import PRODUCTS
from lora_graph.rewrite.rule import Outcome
from tests.rewrite.cases import CASES
from tests.rewrite.running import graph_of

Abs, Add, Exp, Mul, Neg = (OPS[name] for name in ("Abs", "Add", "Exp", "Mul", "Neg"))
X, Y = (ops.input(name, "float64", ("batch", 4)) for name in "xy")


def p(name: str, *shape: int) -> Value:
    return ops.parameter(name, "float64", shape)


@rule(lambda x, a, b: x * a + x * b)
def factor(facts: Facts, x: Value, a: Value, b: Value) -> Outcome:
    return x * (a + b)


@rule(lambda x, y: any_op(Add, x, y))
def commute(facts: Facts, x: Value, y: Value) -> Outcome:
    return y + x


@rule(lambda x: any_op(Exp, x))
def grow(facts: Facts, x: Value) -> Outcome:
    return (x + 1.0).exp()


@rule(lambda x: any_op(Abs, x))
def to_float32(facts: Facts, x: Value) -> Outcome:
    return x.astype("float32")


@rule(lambda x: any_op(Neg, x))
def never(facts: Facts, x: Value) -> Outcome:
    return Refusal("not on my watch")


def test_a_rule_fires_on_what_another_one_wrote() -> None:
    graph = graph_of({"y": (X * 1.0 + (Y + 0.0)) * 1.0})
    new, record = rewrite(graph, IDENTITIES, name="tidy")
    assert new.outputs["y"] is X + Y
    assert (record.name, record.before, record.after) == ("tidy", graph, new)
    assert record.fired == {"multiply_by_one": 2, "add_zero": 1}


def test_nothing_to_do_gives_back_the_graph_itself() -> None:
    graph = graph_of({"y": X + Y})
    new, record = rewrite(graph, IDENTITIES)
    assert new is graph
    assert record.fired == {}


def test_inputs_and_output_names_are_kept() -> None:
    graph = Graph((X, Y), {"b": X * 1.0, "a": X * 1.0})
    new, _ = rewrite(graph, IDENTITIES)
    assert new.inputs == (X, Y)
    assert list(new.outputs.items()) == [("b", X), ("a", X)]


def test_work_with_other_users_is_not_duplicated() -> None:
    shared = X * p("a", 4)
    graph = graph_of({"y": shared + X * p("b", 4), "z": shared.exp()})
    new, record = rewrite(graph, [factor])
    assert new is graph
    (refused,) = record.refused
    assert refused.rule == "factor"
    assert refused.value is graph.outputs["y"]
    assert refused.reason == "Mul inside is used elsewhere too (1×) and would be computed twice"


def test_an_output_is_a_user() -> None:
    shared = X * p("a", 4)
    graph = graph_of({"y": shared + X * p("b", 4), "z": shared})
    assert rewrite(graph, [factor])[0] is graph


def test_users_inside_the_match_do_not_count() -> None:
    @rule(lambda x: any_op(Mul, any_op(Neg, x, name="n"), any_op(Neg, x, name="n")))
    def drop_signs(facts: Facts, x: Value, n: Value) -> Outcome:
        return x * x

    graph = graph_of({"y": (-X) * (-X)})
    assert rewrite(graph, [drop_signs])[0].outputs["y"] is X * X


def test_weights_computed_ahead_of_time_may_be_used_twice() -> None:
    shared = p("w", 4) * p("a", 4)
    graph = graph_of({"y": X + (shared + p("w", 4) * p("b", 4)), "z": X * shared})
    assert rewrite(graph, [factor], Facts("none"))[0] is graph
    assert rewrite(graph, [factor], Facts("all"))[0].outputs["y"] is X + p("w", 4) * (p("a", 4) + p("b", 4))


def test_a_refusal_is_lifted_once_the_other_user_is_gone() -> None:
    @rule(lambda x, y: any_op(Mul, x, any_op(Exp, y)))
    def forget(facts: Facts, x: Value, y: Value) -> Outcome:
        return x * 2.0

    shared = X * p("a", 4)
    graph = graph_of({"y": shared + X * p("b", 4), "z": Y * shared.exp()})
    new, record = rewrite(graph, [factor, forget])
    assert dict(new.outputs) == {"y": X * (p("a", 4) + p("b", 4)), "z": Y * 2.0}
    assert record.refused == []
    assert record.sweeps == 3  # the second rule frees what the first one needs, the third changes nothing


def test_a_change_of_type_is_refused() -> None:
    graph = graph_of({"y": X.abs()})
    new, record = rewrite(graph, [to_float32])
    assert new is graph
    assert record.refused[0].reason == "would change the type from float64[batch, 4] to float32[batch, 4]"


def test_refusals_are_those_of_the_final_graph() -> None:
    graph = graph_of({"y": X - (-Y), "z": -X})
    new, record = rewrite(graph, [never, *IDENTITIES])
    assert new.outputs["y"] is X + Y
    assert [(refused.rule, refused.value, refused.reason) for refused in record.refused] == [
        ("never", -X, "not on my watch")
    ]


def test_an_error_in_a_rule_is_not_hidden() -> None:
    @rule(lambda x: any_op(Exp, x))
    def broken(facts: Facts, x: Value) -> Outcome:
        return x @ ops.input("z", "float64", (3, 3))

    with pytest.raises(ValueError, match="MatMul"):
        rewrite(graph_of({"y": X.exp()}), [broken])


@pytest.mark.parametrize(("rules", "value", "names"), [
    ([commute], X + Y, "'commute'"),
    ([grow], X.exp(), "'grow'"),
])  # fmt: skip
def test_rules_that_do_not_end_are_named(rules: list[object], value: Value, names: str) -> None:
    with pytest.raises(RuntimeError, match=f"the rules {names} do not come to an end"):
        rewrite(graph_of({"y": value}), rules)  # type: ignore[arg-type]


def test_sweeps_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_SWEEPS", 1)
    with pytest.raises(RuntimeError, match="the rules 'multiply_by_one' do not come to an end after 1 sweeps"):
        rewrite(graph_of({"y": X * 1.0}), IDENTITIES)


def test_a_long_chain_of_firings_at_one_place_is_no_endless_one() -> None:
    product = p("m0", 4, 4)
    for i in range(1, 300):
        product = product @ p(f"m{i}", 4, 4)
    vector = ops.input("v", "float64", (4, 1))
    new, record = rewrite(graph_of({"y": product @ vector}), PRODUCTS)
    assert record.fired == {"associate_right": 299}
    assert max(value.type.size for value in new.values if value.op.name == "MatMul") == 4  # type: ignore[type-var]


def test_new_values_remember_where_they_come_from() -> None:
    value = (X * 1.0 + -Y).exp()
    notes = {value.operands[0]: Note(name="sum", scope="0.base"), value: Note(name="result", scope="0")}
    graph = Graph((X, Y), {"y": value}, notes)
    new, _ = rewrite(graph, IDENTITIES)
    assert new.outputs["y"] is (X - Y).exp()
    assert dict(new.notes) == {
        X - Y: Note(name="sum", scope="0.base", rules=("add_negative",)),
        (X - Y).exp(): Note(name="result", scope="0"),
    }


def test_rules_add_up_in_provenance() -> None:
    graph = Graph((X, Y), {"y": X * 3.0 * 0.5 * -2.0}, {X * 3.0 * 0.5 * -2.0: Note(scope="a")})
    new, _ = rewrite(graph, IDENTITIES)
    assert new.notes[X * -3.0].scope == "a"
    assert set(new.notes[X * -3.0].rules) == {"gather_factors"}


def test_notes_of_what_is_gone_are_dropped() -> None:
    gone = X * 1.0
    graph = Graph((X,), {"y": gone.exp()}, {gone: Note(name="gone"), gone.exp(): Note(name="kept")})
    new, _ = rewrite(graph, IDENTITIES)
    assert set(new.notes) <= set(new.values)
    assert new.notes[X.exp()].name == "kept"


def test_a_chain_of_a_hundred_thousand_ops() -> None:
    value = X
    for i in range(50_000):
        value = value.tanh() * 1.0 if i % 2 else value + Y
    graph = Graph((X, Y), {"y": value})
    new, record = rewrite(graph, IDENTITIES)
    assert record.fired == {"multiply_by_one": 25_000}
    assert len(new) == len(graph) - 25_000 - 1


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_reach_a_fixed_point_on_every_case(preset: str) -> None:
    for case in CASES:
        once = optimize_graph(graph_of({"y": case.before}), preset).graph
        twice = optimize_graph(once, preset).graph
        assert once == twice, f"{case}\n{once}\n{twice}"
