"""Models that PyTorch exported, in both of its ways: read, run, written anew, and run again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg

ROOT = Path(__file__).parents[3] / "shared" / "fixtures"


def cases() -> Iterator[tuple[Path, Path]]:
    """Every base model, and the inputs and outputs that belong to it."""
    for path in sorted(ROOT.glob("**/base_*.onnx")):
        for folder in (path.parent, path.parent.parent):
            if (folder / "io.npz").is_file():
                yield path, folder / "io.npz"
                break


CASES = list(cases())
pytestmark = pytest.mark.skipif(not CASES, reason="the fixtures lie beside the repository, not in it")
rows = pytest.mark.parametrize(("path", "io"), CASES, ids=[str(path.relative_to(ROOT)) for path, _ in CASES])


def feeds(io: Path) -> tuple[dict[str, Any], Any]:
    with np.load(io) as file:
        inputs = {name.removeprefix("input/"): file[name] for name in file.files if name.startswith("input/")}
        return inputs, file["expected/base"]


def interface(model: onnx.ModelProto) -> list[tuple[str, int, list[Any]]]:
    """Names and types of inputs and outputs; a size without a name of its own in the inputs may have any."""
    named = {d.dim_param for item in model.graph.input for d in item.type.tensor_type.shape.dim}
    return [
        (
            item.name,
            item.type.tensor_type.elem_type,
            [d.dim_value or (d.dim_param if d.dim_param in named else "?") for d in item.type.tensor_type.shape.dim],
        )
        for item in (*model.graph.input, *model.graph.output)
    ]


@rows
def test_it_computes_what_was_recorded(path: Path, io: Path) -> None:
    inputs, expected = feeds(io)
    layer = lg.load_onnx(path)
    np.testing.assert_allclose(layer.forward(inputs), expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(lg.compile(layer)(inputs), expected, atol=1e-5, rtol=0)


@rows
def test_it_is_written_as_it_was_read(path: Path, io: Path) -> None:
    inputs, expected = feeds(io)
    original, exported = onnx.load(path, load_external_data=False), lg.export_onnx(lg.load_onnx(path))
    ours, theirs = interface(exported), interface(original)
    for (name, kind, shape), (wanted, wanted_kind, wanted_shape) in zip(ours, theirs, strict=True):
        assert (name, kind, len(shape)) == (wanted, wanted_kind, len(wanted_shape))
        assert all(b in ("?", a) for a, b in zip(shape, wanted_shape, strict=True)), (name, shape, wanted_shape)
    np.testing.assert_allclose(lg.Session(exported).run(inputs), expected, atol=1e-5, rtol=0)
