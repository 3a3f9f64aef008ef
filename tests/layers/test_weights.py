"""Weights from mappings and files: all of them or none, and no file that cannot be trusted."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from tests.layers.cases import KINDS, Case


def layer() -> lg.DenseLayer:
    return lg.DenseLayer(3, 2, rng=0)


def pack(header: Any, body: bytes = b"") -> bytes:
    """A safetensors file with this header, a str being taken as it is."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_weights_come_back_from_a_file(case: Case, tmp_path: Path) -> None:
    source, target = case.make("float64"), case.make("float64")
    target.set_parameters(np.zeros(target.parameter_count))
    source.save_weights(tmp_path / "w.safetensors")
    report = target.load_weights(str(tmp_path / "w.safetensors"))
    assert report.ok
    assert list(report.loaded) == source.get_parameter_names()
    np.testing.assert_array_equal(target.get_parameters(), source.get_parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_weights_from_a_mapping_are_copied_and_cast() -> None:
    target = layer()
    given = {"weight": np.ones((3, 2)), "bias": [1, 2]}
    assert target.load_weights(given).ok
    given["weight"][:] = 5  # type: ignore[index, call-overload]
    assert target.get_parameter("weight").max() == 1
    assert target.get_parameter("weight").dtype == np.float32
    np.testing.assert_array_equal(target.get_parameter("bias"), [1, 2])


WEIGHT, BIAS = np.ones((3, 2)), np.ones(2)
REPORTS: list[tuple[dict[str, Any], bool, str]] = [
    ({"weight": WEIGHT}, True, "missing: bias"),
    ({"weight": WEIGHT, "bias": BIAS, "extra": BIAS, "../../x": BIAS}, True, r"unexpected: \.\./\.\./x, extra"),
    ({"weight": WEIGHT.T, "bias": BIAS}, True, r"weight has shape \(2, 3\), wanted \(3, 2\)"),
    ({"weight": WEIGHT.T, "bias": BIAS}, False, r"weight has shape \(2, 3\), wanted \(3, 2\)"),
    ({"weight": WEIGHT, "bias": ["a", "b"]}, False, "bias must be an array of numbers"),
    ({"weight": WEIGHT, "bias": [1.0, np.nan]}, False, "bias holds values that are not finite as float32"),
    ({"weight": WEIGHT, "bias": [1.0, 1e300]}, False, "bias holds values that are not finite as float32"),
]


@pytest.mark.parametrize(("given", "strict", "words"), REPORTS, ids=[words for _, _, words in REPORTS])
def test_weights_that_do_not_fit_change_nothing(given: dict[str, Any], strict: bool, words: str) -> None:
    target = layer()
    before = target.state
    with pytest.raises(lg.LoadError, match=words):
        target.load_weights(given, strict)
    assert all(target.state[name] is before[name] for name in before)


def test_validate_weights_tells_without_doing() -> None:
    target = layer()
    before = target.state
    report = target.validate_weights({"weight": WEIGHT.T, "extra": BIAS})
    assert not report.ok
    assert report.loaded == ()
    assert report.missing == ("bias",)
    assert report.unexpected == ("extra",)
    assert report.wrong_shape == {"weight": ((2, 3), (3, 2))}
    assert str(report) == "0 loaded; missing: bias; unexpected: extra; weight has shape (2, 3), wanted (3, 2)"
    assert all(target.state[name] is before[name] for name in before)
    assert target.validate_weights(before).ok


def test_lenient_loading_takes_what_fits() -> None:
    target = layer()
    kept = target.get_parameter("weight")
    report = target.load_weights({"bias": [5, 6], "extra": BIAS}, strict=False)
    assert (report.loaded, report.missing, report.unexpected) == (("bias",), ("weight",), ("extra",))
    np.testing.assert_array_equal(target.get_parameter("bias"), [5, 6])
    np.testing.assert_array_equal(target.get_parameter("weight"), kept)


@pytest.mark.parametrize("source", [None, 3, [1, 2]])
def test_a_source_is_a_mapping_or_a_path(source: object) -> None:
    with pytest.raises(TypeError, match="source must be a mapping from names to arrays, or a path"):
        layer().load_weights(source)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weights must be a mapping"):
        layer().validate_weights(source)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="strict must be a bool"):
        layer().load_weights({}, strict=source)  # type: ignore[arg-type]


def entry(start: int, end: int, shape: tuple[int, ...] = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def good() -> bytes:
    header = {"weight": entry(0, 24, (3, 2)), "bias": entry(24, 32)}
    return pack(header, np.arange(8, dtype="<f4").tobytes())


NAN = np.array([0, np.nan], "<f4").tobytes()
TWICE = (
    '{"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
)
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "shorter than its header"),
    "truncated header": (lambda: good()[:40], "shorter than its header"),
    "truncated body": (lambda: good()[:-1], "not a safetensors file that can be trusted"),
    "longer body": (lambda: good() + b"x", "not a safetensors file that can be trusted"),
    "garbage": (lambda: bytes(range(256)), "shorter than its header"),
    "pickle": (lambda: b"\x80\x04\x95" + bytes(100), "not a safetensors file"),
    "no JSON": (lambda: pack("{nonsense"), "its header is no JSON"),
    "no text": (lambda: struct.pack("<Q", 2) + b"\xff\xfe", "its header is no JSON"),
    "no object": (lambda: pack("[1]"), "not a safetensors file"),
    "nested without end": (lambda: pack("[" * 200_000), "its header is no JSON"),
    "one name twice": (lambda: pack(TWICE, bytes(8)), "names 'bias' twice"),
    "overlapping tensors": (
        lambda: pack({"weight": entry(0, 24, (3, 2)), "bias": entry(0, 8)}, bytes(24)),
        "not a safetensors file that can be trusted",
    ),
    "out of range": (lambda: pack({"bias": entry(0, 80)}, bytes(8)), "not a safetensors file that can be trusted"),
    "unknown dtype": (lambda: pack({"bias": entry(0, 8, dtype="X9")}, bytes(8)), "can be trusted"),
    "NaN": (
        lambda: pack({"weight": entry(0, 24, (3, 2)), "bias": entry(24, 32)}, bytes(24) + NAN),
        "bias holds values that are not finite",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files(kind: str, tmp_path: Path) -> None:
    make, words = BROKEN[kind]
    path = tmp_path / "broken.safetensors"
    path.write_bytes(make())
    target = layer()
    before = target.state
    with pytest.raises(lg.LoadError, match=words) as caught:
        target.load_weights(path)
    assert "broken.safetensors" in str(caught.value)
    assert all(target.state[name] is before[name] for name in before)


def test_the_good_file_that_the_broken_ones_are_made_of(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(good())
    target = layer()
    target.load_weights(path)
    np.testing.assert_array_equal(target.get_parameters(), np.arange(8))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(lg.LoadError, match=r"none\.safetensors: cannot be read: No such file"):
        layer().load_weights(tmp_path / "none.safetensors")
    with pytest.raises(lg.LoadError, match="cannot be read"):
        layer().load_weights(tmp_path)


def test_a_save_that_fails_leaves_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing/w\.safetensors"):
        layer().save_weights(tmp_path / "missing" / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_long_report_names_a_few() -> None:
    report = lg.DenseLayer(3, 2).validate_weights({f"w{i}": np.ones(1) for i in range(9, -1, -1)})
    assert str(report) == "0 loaded; missing: weight, bias; unexpected: w0, w1, w2, w3, w4, w5, w6, w7 and 2 more"
