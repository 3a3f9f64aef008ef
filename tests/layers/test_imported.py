"""Models read from ONNX files as layers like any other."""

from __future__ import annotations

import numpy as np

import lora_graph as lg


def test_an_adapter_goes_inside_a_model_that_was_exported(rng: np.random.Generator) -> None:
    base = lg.Sequential([lg.DenseLayer(6, 8, "relu", rng=rng), lg.FullyConnectedLayer(8, 4, rng=rng)])
    loaded = lg.load_onnx(lg.export_onnx(base))
    assert "Gemm" in lg.optimize(base, "deploy")[0].op_counts()
    adapter = lg.StandardLoRAAdapter(loaded, 2, site="weight", rng=rng)
    assert sorted(adapter.branches) == ["lora_0_weight", "lora_1_weight"]
    adapter.set_parameters(rng.normal(size=adapter.parameter_count))
    x = rng.normal(size=(5, 6)).astype(np.float32)
    matrices = [branch.merge_weights() for branch in adapter.branches.values()]
    weights = [base.get_parameter("0.weight") + matrices[0], base.get_parameter("1.weight").T + matrices[1]]
    expected = np.maximum(x @ weights[0] + base.get_parameter("0.bias"), 0) @ weights[1] + base.get_parameter("1.bias")
    np.testing.assert_allclose(adapter.eval().forward(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(adapter.merge_to_original_layer().forward(x), expected, rtol=1e-5, atol=1e-5)
    merged = lg.export_onnx(adapter, form="merged")
    np.testing.assert_allclose(lg.Session(merged).run(x), expected, rtol=1e-5, atol=1e-5)
    assert [node.op_type for node in merged.graph.node] == ["Gemm", "Relu", "Gemm"]
