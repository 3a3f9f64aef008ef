"""The floor is made of the products that a step has to compute, and of the shortest times that were measured."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

import lora_graph as lg
from benchmarks import floor, harness
from benchmarks.mlp import Problem
from benchmarks.mlp_lora_graph import lora_graph_model, training_step
from benchmarks.products import Product, from_list, listed, products, products_of_step

BATCH, WIDTH, HIDDEN, RANK = 5, 12, 20, 3
PROBLEM = Problem(batch=BATCH, width=WIDTH, hidden=HIDDEN, rank=RANK)
BY_HAND = {
    Product(BATCH, WIDTH, HIDDEN, frozen=True): 2,  # x W₀, dy W₁ᵀ
    Product(BATCH, HIDDEN, WIDTH, frozen=True): 1,  # h W₁
    Product(BATCH, WIDTH, RANK): 2,  # x A₀, dy B₁ᵀ
    Product(BATCH, RANK, HIDDEN): 2,  # (x A₀) B₀, (dy B₁ᵀ) A₁ᵀ
    Product(BATCH, HIDDEN, RANK): 2,  # h A₁, dh B₀ᵀ
    Product(BATCH, RANK, WIDTH): 1,  # (h A₁) B₁
    Product(WIDTH, BATCH, RANK): 1,  # xᵀ (dh B₀ᵀ)
    Product(RANK, BATCH, HIDDEN): 1,  # (x A₀)ᵀ dh
    Product(HIDDEN, BATCH, RANK): 1,  # hᵀ (dy B₁ᵀ)
    Product(RANK, BATCH, WIDTH): 1,  # (h A₁)ᵀ dy
}


def test_products_of_the_network_are_those_counted_by_hand() -> None:
    found = products_of_step(training_step(lora_graph_model(PROBLEM)), *PROBLEM.data())
    assert found == BY_HAND
    total = sum(product.flops * count for product, count in found.items())
    assert total == 2 * BATCH * (3 * WIDTH * HIDDEN + RANK * (5 * WIDTH + 6 * HIDDEN))


def test_stacks_of_products_are_counted_as_op_flops_counts_them() -> None:
    a, b = (lg.ops.input(name, "float32", shape) for name, shape in (("a", ("n", 4, 5)), ("b", ("n", 5, 6))))
    w = lg.ops.parameter("w", "float32", (6, 2), trainable=False)
    graph = lg.Graph((a, b), {"y": (a @ b) @ w})
    found = products(graph, {"n": 3}, {"w"})
    assert found == {Product(4, 5, 6, stack=3): 1, Product(12, 6, 2, frozen=True): 1}
    assert sum(p.flops for p in found) == 2 * 3 * 4 * 5 * 6 + 2 * 12 * 6 * 2
    assert from_list(json.loads(json.dumps(listed(found)))) == found


def test_other_forms_of_products_are_refused() -> None:
    a = lg.ops.input("a", "float32", (4, 5))
    b = lg.ops.input("b", "float32", (5, 6))
    with pytest.raises(ValueError, match="no floor for Einsum"):
        products(lg.Graph((a, b), {"y": lg.ops.einsum("ij,jk->ik", a, b)}), {}, ())


@pytest.mark.parametrize(
    "name", ["floor-numpy", "floor-onnxruntime", pytest.param("floor-torch", marks=pytest.mark.torch)]
)
@pytest.mark.parametrize(
    "product", [Product(3, 4, 5), Product(3, 4, 5, frozen=True), Product(3, 4, 5, stack=2)], ids=str
)
def test_every_contender_can_run_every_product(name: str, product: Product) -> None:
    if name == "floor-torch":
        pytest.importorskip("torch")
    call = floor.CALLS[name](product)
    call()
    call()


def test_shortest_is_that_of_one_call() -> None:
    assert 0.002 <= floor.shortest(lambda: time.sleep(0.002), time.perf_counter) < 1


def test_floor_takes_the_fastest_for_each_product_in_each_round() -> None:
    one, other = Product(1000, 1000, 500, frozen=True), Product(10, 10, 50)
    found = {one: 3, other: 2}
    reports = {
        "floor-a": [{"seconds": [0.010, 0.001]}, {"seconds": [0.020, 0.001]}],
        "floor-b": [{"seconds": [0.020, 0.0005]}, {"seconds": [0.010, 0.002]}],
    }
    bests = floor.best_of(reports, found)
    assert [best[one] for best in bests] == [(0.010, "floor-a"), (0.010, "floor-b")]
    assert [best[other] for best in bests] == [(0.0005, "floor-b"), (0.001, "floor-a")]
    assert [floor.milliseconds(best, found) for best in bests] == pytest.approx([31, 32])
    text = floor.describe(bests[:1], found)
    assert text.splitlines()[0] == "floor: 31.00 ms (31.00..31.00)"
    assert "3 products with frozen weights: 3.00 GFLOP in 30.00 ms, 100 GFLOP/s (a)" in text
    assert "2 products others: 0.00 GFLOP in 1.00 ms" in text


def test_worker_times_each_product() -> None:
    found = {Product(2, 3, 4): 1, Product(2, 3, 4, frozen=True): 2}
    report = floor.run(harness.Contender("floor-numpy"), found)
    assert len(report["seconds"]) == 2
    assert np.all(np.array(report["seconds"]) > 0)
