"""Module paths from what exporters note."""

from __future__ import annotations

import onnx
import pytest

from lora_graph.onnx.scopes import RULES, SCOPES, rules_of, scope_of


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("/fc1/MatMul", "fc1"),
        ("/encoder/layer.0/attention/self/query/MatMul", "encoder.layer.0.attention.self.query"),
        ("/encoder/encoder.layer.0/encoder.layer.0.fc/MatMul", "encoder.layer.0.fc"),
        ("/fc/fc2/MatMul", "fc.fc2"),
        ("base.fc.MatMul", "base.fc"),
        ("base.MatMul_3", "base"),
        ("node_MatMul_12", ""),
        ("", ""),
    ],
)
def test_scopes_of_names(name: str, scope: str) -> None:
    assert scope_of(onnx.helper.make_node("MatMul", ["a", "b"], ["c"], name=name)) == scope


@pytest.mark.parametrize(
    ("noted", "scope"),
    [
        ("['', 'encoder', 'encoder.layers.0', 'encoder.layers.0.fc1', 'linear']", "encoder.layers.0.fc1"),
        ("['', 'linear']", ""),
        ("['linear']", ""),
        ("[]", ""),
        ("__import__('os').abort()", ""),
        ("[" * 5000, ""),
        ("{'a': 1}", ""),
        ("[1, 2, 3]", ""),
    ],
)
def test_scopes_of_the_dynamo_exporter(noted: str, scope: str) -> None:
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"], name="/other/MatMul")
    node.metadata_props.add(key=SCOPES, value=noted)
    assert scope_of(node) == scope


def test_rules_of_an_optimizer() -> None:
    node = onnx.helper.make_node("Conv", ["a", "b"], ["c"])
    assert rules_of(node) == ()
    node.metadata_props.append(onnx.StringStringEntryProto(key=RULES, value="FuseBatchNormIntoConv, Other"))
    assert rules_of(node) == ("FuseBatchNormIntoConv", "Other")
