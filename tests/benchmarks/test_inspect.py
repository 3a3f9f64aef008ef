"""What the benchmark of inspection measures is a graph of the size it says, with adapters and modules."""

from __future__ import annotations

import pytest

from benchmarks import inspect
from lora_graph.inspect.kin import adapter_values
from lora_graph.inspect.scene import scene_of


@pytest.mark.parametrize("nodes", [89, 1_000, 10_000])
def test_a_network_has_about_as_many_nodes_as_it_is_asked_for(nodes: int) -> None:
    scene = scene_of(inspect.Network(nodes).graph)
    assert 0.9 * nodes <= len(scene.nodes) <= 1.1 * nodes


def test_its_projections_have_adapters_and_its_nodes_modules() -> None:
    network = inspect.Network(89)
    assert len(network.adapters) == 2 * 6
    assert len(adapter_values(network.graph, network.adapters)) == 5 * 6
    named = {node.module for node in scene_of(network.graph).nodes if node.kind == "op"}
    assert {"encoder.0.attention", "encoder.0.attention.query", "encoder.0.mlp.up", "encoder.0.first"} <= named


def test_every_limit_has_a_worker_that_measures_it() -> None:
    for limit in inspect.LIMITS:
        kind, nodes = limit.worker.split("-")
        assert kind in inspect.WORKERS
        assert int(nodes) >= 0


def test_the_page_is_small_beside_its_data() -> None:
    assert 1 < inspect.overhead(0)["value"] < 80


def test_workers_report_what_they_have_looked_at() -> None:
    written = inspect.write(200)
    assert written["nodes"] > 150
    assert 0 < written["megabytes"] < 1
    compared = inspect.compare(200)
    assert compared["changed"] == 2
