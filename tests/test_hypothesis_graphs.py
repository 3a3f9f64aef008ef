"""Random graphs: whatever rules and presets do to them, they compute the same.

LORA_GRAPH_SEED chooses which graphs; LORA_GRAPH_EXAMPLES how many.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st

from lora_graph import ops
from lora_graph.interpret import compile_graph, evaluate
from lora_graph.ir import OPS, Graph, TensorType, Value, apply, constant, parse, verify
from lora_graph.rewrite import PRESETS, Facts, optimize_graph, rewrite
from lora_graph.rewrite.fuse import GEMM
from lora_graph.rewrite.merge import UNFUSE
from tests.rewrite.cases import ALL_RULES
from tests.rewrite.running import arrays, graph_of

SEED = int(os.environ.get("LORA_GRAPH_SEED", "20240"))
EXAMPLES = int(os.environ.get("LORA_GRAPH_EXAMPLES", "250"))

FIRED: Counter[str] = Counter()
"""How often each rule fired in this process: what never does has not been tested."""
RAN: set[str] = set()
"""Which of the two tests that count did so in this process."""

Pick = Callable[..., Value]


@dataclass(frozen=True)
class Drawn:
    """A graph, sizes for its named dimensions, and a seed for its arrays."""

    graph: Graph
    sizes: dict[str, int]
    numbers: int


def matrix(value: Value) -> bool:
    return value.rank >= 2


def last(size: int) -> Callable[[Value], bool]:
    return lambda value: value.rank >= 1 and value.shape[-1] == size


def flat(value: Value) -> bool:
    return value.rank == 2 and value.shape[-1] == 4


def op(name: str, *operands: Value, **attributes: Any) -> Value:
    return apply(OPS[name](**attributes), *operands)  # type: ignore[no-any-return]


def spelled(function: Callable[[Value], Value], x: Value) -> Value:
    """A fused op written out."""
    return function(x).op.decompose(x)  # type: ignore[attr-defined, no-any-return]


def low_rank(x: Value, name: str, scale: float) -> Value:
    return x @ ops.parameter(f"{name}.A", x.dtype, (4, 2)) @ ops.parameter(f"{name}.B", x.dtype, (2, 4)) * scale


def kronecker(x: Value) -> Value:
    a, b = ops.parameter("kron.A", x.dtype, (2, 2)), ops.parameter("kron.B", x.dtype, (2, 2))
    return (a @ (x.reshape(*x.shape[:-1], 2, 2) @ b.T)).reshape(x.shape)


def normalized(x: Value, scale: Value) -> Value:
    return OPS["LayerNormalization"](-1, 0.5).decompose(x, scale)  # type: ignore[attr-defined, no-any-return]


def image(pick: Pick) -> Value:
    """Two channels of two pixels."""
    return pick(flat).reshape("batch", 2, 2)


def convolved(x: Value, name: str, *bias: Value) -> Value:
    return ops.conv(x, ops.parameter(f"{name}.K", x.dtype, (2, 2, 2)), *bias, pads=(1, 0))


def low_rank_convolution(x: Value, name: str) -> Value:
    first, second = (ops.parameter(f"{name}.{n}", x.dtype, s) for n, s in (("F", (1, 2, 2)), ("S", (2, 1, 1))))
    return ops.conv(ops.conv(x, first, pads=(1, 0)), second)


def both(x: Value, bias: Value) -> tuple[Value, Value]:
    """A convolution with a bias, and a bypass of it."""
    return convolved(x, "beside", bias), low_rank_convolution(x, "fourth")


def padded(x: Value, before: int, after: int) -> Value:
    """Columns of zeros around ``x``."""
    rest = [0] * (x.rank - 1)
    return ops.pad(x, [*rest, before], [*rest, after])


def recurrence(x: Value) -> Value:
    w, r = (ops.parameter(f"gru.{n}", x.dtype, (1, 6, size)) for n, size in (("W", 4), ("R", 2)))
    return ops.squeeze(ops.gru(x, w, r)[0], 1)


def turn(value: Value) -> Value:
    return value.transpose(*range(value.rank - 2), value.rank - 1, value.rank - 2)


MAKERS: dict[str, Callable[[Pick], Value]] = {
    "add": lambda pick: pick() + pick(),
    "sub": lambda pick: pick() - pick(),
    "mul": lambda pick: (pick() * pick()).tanh(),
    "div": lambda pick: pick() / ((y := pick()) * y + 1.0),
    "double": lambda pick: (x := pick()) + x,
    "matmul": lambda pick: pick(last(4)) @ pick(lambda v: v.rank == 2 and v.shape[0] == 4),
    "matmul of two": lambda pick: pick(last(2)) @ pick(lambda v: v.rank == 2 and v.shape[0] == 2),
    "max": lambda pick: ops.maximum(pick(), pick()),
    "min": lambda pick: ops.minimum(pick(), pick()),
    "neg": lambda pick: -pick(),
    "minus negative": lambda pick: pick() - -pick(),
    "plus negative": lambda pick: pick() + -pick(),
    "abs": lambda pick: pick().abs(),
    "tanh": lambda pick: pick().tanh(),
    "sigmoid": lambda pick: ops.sigmoid(pick()),
    "relu": lambda pick: ops.relu(pick()),
    "sin": lambda pick: ops.sin(pick()),
    "exp": lambda pick: (-pick().abs()).exp(),
    "log": lambda pick: (pick().abs() + 1.0).log(),
    "sqrt": lambda pick: (pick().abs() + 1.0).sqrt(),
    "square": lambda pick: pick().tanh() ** 2.0,
    "power one": lambda pick: pick() ** 1.0,
    "add zero": lambda pick: pick() + 0.0,
    "subtract zero": lambda pick: pick() - 0.0,
    "times one": lambda pick: 1.0 * pick(),
    "over one": lambda pick: pick() / 1.0,
    "times minus one": lambda pick: pick() * -1.0,
    "half": lambda pick: pick() * 0.5,
    "factors": lambda pick: pick() * 0.5 * 1.5,
    "gelu": lambda pick: spelled(ops.gelu, pick()),
    "gelu tanh": lambda pick: spelled(ops.gelu_tanh, pick()),
    "silu": lambda pick: spelled(ops.silu, pick()),
    "elu": lambda pick: spelled(lambda x: ops.elu(x, 0.5), pick()),
    "leaky relu": lambda pick: spelled(lambda x: ops.leaky_relu(x, 0.25), pick()),
    "softplus": lambda pick: spelled(ops.softplus, pick()),
    "fused": lambda pick: ops.gelu(pick()),
    "softmax": lambda pick: ops.where(ops.is_nan(p := ops.softmax(pick(matrix))), 0.0, p),
    "normalize": lambda pick: normalized(pick(last(4)), pick(lambda v: v.shape == (4,))),
    "transpose": lambda pick: turn(pick(matrix)),
    "transpose nothing": lambda pick: op("Transpose", (x := pick()), perm=tuple(range(x.rank))),
    "reshape": lambda pick: (x := pick(last(4))).reshape(*x.shape[:-1], 2, 2),
    "reshape back": lambda pick: (x := pick(lambda v: v.shape[-2:] == (2, 2))).reshape(*x.shape[:-2], 4),
    "flatten": lambda pick: (x := pick(lambda v: v.rank > 2)).reshape(x.shape[0], -1),
    "unsqueeze": lambda pick: ops.unsqueeze(pick(lambda v: v.rank < 4), 0),
    "squeeze": lambda pick: ops.squeeze(pick(lambda v: v.shape[:1] == (1,)), 0),
    "expand": lambda pick: ops.expand(pick(lambda v: v.shape == (4,)), (3, 4)),
    "expand to": lambda pick: pick(flat) * ops.expand(pick(lambda v: v.shape == (4,)), ("batch", 4)),
    "slice": lambda pick: pick(last(4))[..., 1:3],
    "slice all": lambda pick: pick(last(4))[..., 0:4],
    "reverse": lambda pick: pick(last(4))[..., ::-1],
    "concat": lambda pick: ops.concat([pick(last(2)), pick(last(2))], -1),
    "concat one": lambda pick: op("Concat", pick(last(4)), axis=-1),
    "pad": lambda pick: ops.pad((x := pick(last(2))), [0] * x.rank, [0] * (x.rank - 1) + [2]),
    "pad nothing": lambda pick: op("Pad", (x := pick()), pads=(0,) * (2 * x.rank)),
    "sum": lambda pick: pick(matrix).sum(axis=-1, keepdims=True),
    "mean": lambda pick: pick(matrix).mean(axis=-1),
    "greatest": lambda pick: pick(matrix).max(axis=-1, keepdims=True),
    "where": lambda pick: ops.where(ops.input("mask", "bool", ("batch", 1)), pick(flat), pick(flat)),
    "cast": lambda pick: op("Cast", (x := pick()), to=x.dtype),
    "gemm": lambda pick: op("Gemm", pick(flat), pick(lambda v: v.shape == (4, 4)), pick(last(4)), transB=1, beta=0.5),
    "gemm without c": lambda pick: op("Gemm", pick(flat), pick(lambda v: v.shape == (4, 4)), alpha=0.5),
    "dense": lambda pick: pick(last(4)) @ pick(lambda v: v.shape == (4, 4)) + pick(lambda v: v.shape == (4,)),
    "adapter": lambda pick: (x := pick(last(4))) @ pick(lambda v: v.shape == (4, 4)) + low_rank(x, "lora", 0.5),
    "adapter before bias": lambda pick: (
        low_rank(x := pick(last(4)), "first", 1.0) + x @ pick(lambda v: v.shape == (4, 4)) + pick(last(4))
    ),
    "adapter with bias": lambda pick: (
        (x := pick(last(4))) @ pick(lambda v: v.shape == (4, 4)) + (low_rank(x, "second", 2.0) + pick(last(4)))
    ),
    "adapter subtracted": lambda pick: (
        (x := pick(last(4))) @ pick(lambda v: v.shape == (4, 4)) - low_rank(x, "third", 2.0)
    ),
    "Kronecker": lambda pick: (x := pick(last(4))) @ pick(lambda v: v.shape == (4, 4)) + kronecker(x),
    "negate twice": lambda pick: op("Neg", -pick()),
    "transpose twice": lambda pick: turn(turn(pick(matrix))),
    "transposed product": lambda pick: turn(pick(last(4)) @ turn(pick(lambda v: v.shape == (4, 4)))),
    "squeeze unsqueezed": lambda pick: ops.squeeze(ops.unsqueeze(pick(), 0), 0),
    "unsqueeze squeezed": lambda pick: ops.unsqueeze(ops.squeeze(pick(lambda v: v.shape[:1] == (1,)), 0), 0),
    "reshape twice": lambda pick: op("Reshape", (x := pick(flat)).reshape("2*batch", 2), shape=x.shape),
    "reshape to same": lambda pick: op("Reshape", (x := pick()), shape=x.shape),
    "expand to same": lambda pick: op("Expand", (x := pick()), shape=x.shape),
    "expand twice": lambda pick: ops.expand(ops.expand(pick(lambda v: v.shape == (4,)), (1, 4)), (3, 4)),
    "pad nothing with": lambda pick: op("Pad", (x := pick()), constant(3, x.dtype), pads=(0,) * (2 * x.rank)),
    "scaled view": lambda pick: pick(flat).reshape("batch", 2, 2) * 0.5,
    "scaled left": lambda pick: (pick(last(4)) * 0.5) @ pick(lambda v: v.shape == (4, 4)),
    "scaled right": lambda pick: pick(last(4)) @ (pick(lambda v: v.shape == (4, 4)) * 0.5),
    "product of weights": lambda pick: (
        pick(last(4)) @ (pick(lambda v: v.shape == (4, 2)) @ pick(lambda v: v.rank == 2))
    ),
    "two products": lambda pick: pick(last(4)) @ pick(lambda v: v.shape == (4, 2)) @ pick(lambda v: v.shape == (2, 1)),
    "swish": lambda pick: spelled(lambda x: op("Swish", x, alpha=1.5), pick()),
    "elu 1": lambda pick: spelled(ops.elu, pick()),
    "over expanded": lambda pick: pick(flat) / ops.expand(pick(lambda v: v.shape == (4,)).exp(), ("batch", 4)),
    "plus expanded": lambda pick: pick(flat) + ops.expand(pick(lambda v: v.shape == (4,)), ("batch", 4)),
    "normalize with bias": lambda pick: (
        normalized(pick(last(4)), pick(lambda v: v.shape == (4,))) + pick(lambda v: v.shape == (4,))
    ),
    "adapter with biases": lambda pick: (
        ((x := pick(last(4))) @ pick(lambda v: v.shape == (4, 4)) + pick(last(4)))
        + (low_rank(x, "fourth", 2.0) + pick(last(4)))
    ),
    "adapter subtracted beside bias": lambda pick: (
        ((x := pick(last(4))) @ pick(lambda v: v.shape == (4, 4)) + pick(last(4))) - low_rank(x, "fifth", 1.0)
    ),
    "convolution": lambda pick: convolved(image(pick), "alone").reshape("batch", 4),
    "scaled convolution": lambda pick: (convolved(image(pick), "scaled") * 0.5).reshape("batch", 4),
    "adapted convolution": lambda pick: convolved(x := image(pick), "base") + low_rank_convolution(x, "first"),
    "adapted convolution less": lambda pick: convolved(x := image(pick), "base") - low_rank_convolution(x, "second"),
    "adapted convolution with bias": lambda pick: (
        (pair := both(image(pick), pick(lambda v: v.shape == (2,))))[0] + pair[1]
    ),
    "adapted convolution less with bias": lambda pick: (
        (pair := both(image(pick), pick(lambda v: v.shape == (2,))))[0] - pair[1]
    ),
    "blocks": lambda pick: padded(pick(last(2)), 0, 2) + padded(pick(last(2)), 2, 0),
    "blocks in a sum": lambda pick: pick(last(4)) + padded(pick(last(2)), 0, 2) + padded(pick(last(2)), 2, 0),
    "recurrence": lambda pick: recurrence(pick(lambda v: v.rank == 3 and v.shape[-1] == 4)),
    "sum of reshaped": lambda pick: pick(flat).reshape(2, -1) + pick(flat).reshape(2, -1),
    "constants": lambda pick: pick(last(4)) * (constant([1.0, 2.0, 0.5, 1.0], pick().dtype) * 0.5),
}


@st.composite
def graphs(draw: st.DrawFn) -> Drawn:
    """Up to sixteen steps of MAKERS on a few inputs and parameters; every fourth Value or so is an output."""
    dtype = draw(st.sampled_from(["float64", "float32"]))
    pool = [ops.input("x", dtype, ("batch", 4)), ops.input("s", dtype, ("batch", "time", 4))]
    pool += [ops.parameter("W", dtype, (4, 4)), ops.parameter("V", dtype, (4, 4)), ops.parameter("A", dtype, (4, 2))]
    pool += [
        ops.parameter("c", dtype, (2,)),
        ops.parameter("b", dtype, (4,)),
        ops.parameter("scale", dtype, ()),
        ops.input("row", dtype, (1, 4)),
    ]
    made: list[Value] = []

    def pick(wanted: Callable[[Value], bool] = lambda value: True) -> Value:
        fitting = [value for value in reversed(pool) if wanted(value)]
        if not fitting:
            raise LookupError
        return fitting[draw(st.integers(0, len(fitting) - 1))]

    for name in draw(st.lists(st.sampled_from(list(MAKERS)), min_size=4, max_size=16)):
        try:
            value = MAKERS[name](pick)
        except (ValueError, LookupError):
            continue  # these shapes do not fit together, or nothing there has the shape wanted
        if value.rank <= 4 and not graph_of({"y": value}).assumptions:
            pool.append(value)
            made.append(value)
    chosen = [value for value in made[:-1] if draw(st.integers(0, 3)) == 0] + (made[-1:] or pool[:1])
    graph = graph_of({f"y{i}": value for i, value in enumerate(chosen)})
    graph = Graph(tuple(dict.fromkeys([*pool[:2], *graph.inputs])), graph.outputs)  # where the dimensions come from
    sizes = {"batch": draw(st.sampled_from([3, 1, 0])), "time": draw(st.sampled_from([2, 1]))}
    return Drawn(graph, sizes, draw(st.integers(0, 2**16)))


RUN = settings(
    max_examples=EXAMPLES, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)


class Expected:
    """What a graph computes, and how far off rounding alone may be: relative to the largest number on the way."""

    def __init__(self, drawn: Drawn):
        self.graph = drawn.graph
        self.inputs, self.state = arrays(drawn.graph, np.random.default_rng(drawn.numbers), drawn.sizes)
        inside = [value for value in drawn.graph.values if isinstance(value.result_type, TensorType)]
        everything = Graph(drawn.graph.inputs, {f"v{i}": value for i, value in enumerate(inside)})
        known = evaluate(everything, self.inputs, self.state)
        floats = [
            np.abs(array[np.isfinite(array)]).max(initial=1) for array in known.values() if array.dtype.kind == "f"
        ]
        self.results = evaluate(drawn.graph, self.inputs, self.state)
        single = any(leaf.dtype == np.float32 for leaf in drawn.graph.inputs if leaf.type.is_float)
        self.tolerance = float(max(floats)) * (2e-4 if single else 1e-11)

    def check(self, results: dict[str, Any], what: str) -> None:
        assert list(results) == list(self.results)
        for name, expected in self.results.items():
            assert (results[name].dtype, results[name].shape) == (expected.dtype, expected.shape)
            np.testing.assert_allclose(results[name], expected, rtol=0, atol=self.tolerance, err_msg=f"{what}: {name}")


def test_the_seed_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f" LORA_GRAPH_SEED={SEED} LORA_GRAPH_EXAMPLES={EXAMPLES} ", end="")
    assert len(MAKERS) >= 40


@seed(SEED)
@RUN
@given(graphs(), st.data())
def test_any_rules_in_any_order_keep_the_results(drawn: Drawn, data: st.DataObject) -> None:
    RAN.add("rules")
    expected = Expected(drawn)
    left_out = data.draw(st.sampled_from([UNFUSE, GEMM]))  # the two undo each other
    usable = [rule for rule in ALL_RULES if rule not in left_out]
    graph = drawn.graph
    for _ in range(data.draw(st.integers(1, 3))):
        shuffle = Random(data.draw(st.integers(0, 2**16)))
        chosen = shuffle.sample(usable, shuffle.randint(1, len(usable)))
        graph, record = rewrite(graph, chosen, Facts(data.draw(st.sampled_from(["none", "one", "all"]))))
        verify(graph)
        FIRED.update(record.fired)
        note(f"{sorted(record.fired)}")
        again, _ = rewrite(graph, chosen, Facts("none"))
        verify(again)
    kept = {name: expected.state[name] for name in graph.parameters}
    expected.check(evaluate(graph, expected.inputs, kept), "rules")


@seed(SEED)
@RUN
@given(graphs(), st.sampled_from(sorted(PRESETS)))
def test_presets_keep_the_results_everywhere(drawn: Drawn, engine: str) -> None:
    RAN.add("presets")
    expected = Expected(drawn)
    for preset in PRESETS:
        optimized = optimize_graph(drawn.graph, preset)
        FIRED.update(optimized.report.fired)
        again = optimize_graph(optimized.graph, preset).graph
        assert again == optimized.graph, f"{preset} is no fixed point:\n{optimized.graph}\n{again}"
        assert parse(str(optimized.graph)) == optimized.graph
        state = optimized.state(expected.state)
        expected.check(evaluate(optimized.graph, expected.inputs, state), preset)
        if preset == engine:
            expected.check(compile_graph(optimized.graph).run(expected.inputs, state), f"planned {preset}")
            if has_kernels(optimized.graph):
                expected.check(in_onnx_runtime(optimized.graph, expected.inputs, state), f"ONNX {preset}")


def has_kernels(graph: Graph) -> bool:
    """ONNX Runtime has no Erf and no Conv for float64, and its loops take neither an empty batch nor no steps."""
    names = {value.op.name for value in graph.values}
    is_wide = any(leaf.dtype == np.float64 for leaf in graph.inputs)
    return names.isdisjoint(("GRU", "Scan")) and not (is_wide and names & {"Erf", "Gelu", "Conv"})


def in_onnx_runtime(graph: Graph, inputs: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    from lora_graph.onnx import Session, lower

    with Session(lower(graph, state), threads=1) as session:
        results = session.run(inputs)
    return results if isinstance(results, dict) else {next(iter(graph.outputs)): results}


def test_most_rules_have_fired() -> None:
    if len(RAN) < 2:  # another process had a part of it
        test_any_rules_in_any_order_keep_the_results()
        test_presets_keep_the_results_everywhere()
    never = [rule.name for rule in ALL_RULES if rule.name not in FIRED]
    print(f"never fired: {never}")
    assert len(never) <= len(ALL_RULES) // 5 or EXAMPLES < 200
