"""Many adapters in one model: every sample of a batch gets its own, as if it were run by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.errors import LoadError
from lora_graph.onnx.forms.multi_adapter import ORDER
from tests.onnx.forms.models import BASES, adapted, convolutional, dense, numbers, randomized

TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def several(base: lg.Layer, rng: np.random.Generator) -> lg.AdaptedModel:
    """``base`` with adapters of different families, ranks and places."""
    weights = [target.name for target in lg.AdaptedModel(base).targets()]
    model = lg.AdaptedModel(base)
    model.add_adapter("all", targets="*", rank=2, alpha=3, rng=rng)
    model.add_adapter("first", "lora_drop", targets=weights[0], rank=4, dropout_rate=0.5, rng=rng)
    model.add_adapter("nested", "dylora", targets="*", rank=3, active_ranks=[1, 2, 3], rng=rng)
    model.add_adapter("last", targets=weights[-1], rank=1, alpha=2, rng=rng)
    model.adapters["nested"].current_deployment_rank = 2  # type: ignore[attr-defined]
    made: lg.AdaptedModel = randomized(model, rng)
    return made


def one_by_one(model: lg.AdaptedModel, x: Any, index: Any) -> Any:
    """The rows of ``model`` with the adapter of each sample alone."""
    names, rows = list(model.adapters), []
    for sample, number in zip(x, index, strict=True):
        model.set_active(*([] if number == -1 else [names[number]]))
        rows.append(model.forward(sample[None])[0])
    model.set_active(*names)
    return np.stack(rows)


@pytest.mark.parametrize("layout", [None, "columns", "rows"])
@pytest.mark.parametrize("kind", BASES)
def test_a_batch_equals_its_samples_one_by_one(kind: str, layout: str | None, rng: np.random.Generator) -> None:
    make, draw, shape = BASES[kind]
    model = several(make(rng), rng)
    options: dict[str, Any] = {"form": "multi-adapter", "layout": layout, "input_shape": shape}
    if layout == "rows" and kind != "dense":
        with pytest.raises(ValueError, match="layout='rows' is for products of matrices"):
            lg.export_onnx(model, **options)
        return
    written = lg.export_onnx(model, **options)
    assert json.loads({p.key: p.value for p in written.metadata_props}[ORDER]) == ["all", "first", "nested", "last"]
    session = lg.Session(written)
    for index in ([0, 1, 2, 3, -1, 2], [-1], [3]):
        x = draw(rng, len(index))
        found = session.run({"x": x, "adapter": index})
        np.testing.assert_allclose(found, one_by_one(model, x, index), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_samples_with_a_time_axis(layout: str, rng: np.random.Generator) -> None:
    model = several(dense(rng), rng)
    session = lg.Session(
        lg.export_onnx(model, form="multi-adapter", layout=layout, input_shape=("batch", "time", "heads", 12))
    )
    x, index = rng.normal(size=(3, 4, 2, 12)).astype(np.float32), [2, -1, 0]
    np.testing.assert_allclose(session.run({"x": x, "adapter": index}), one_by_one(model, x, index), **TOLERANCE)


@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_a_number_that_no_adapter_has_is_an_error(layout: str, rng: np.random.Generator) -> None:
    model = several(dense(rng), rng)
    written = lg.export_onnx(model, form="multi-adapter", layout=layout)
    session, imported = lg.Session(written), lg.load_onnx(written)
    x = numbers(rng, 3)
    for wrong in (-2, -5, -6, 4, 5, 100, -(2**63), 2**63 - 1):
        for run in (session.run, imported.forward):
            with pytest.raises(ValueError, match=r"(?i)gather"):
                run({"x": x, "adapter": np.asarray([0, wrong, 1])})
    np.testing.assert_allclose(
        imported.forward({"x": x, "adapter": [0, 3, -1]}), one_by_one(model, x, [0, 3, -1]), **TOLERANCE
    )


@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_adapters_are_added_without_exporting_the_base_again(
    layout: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    model = several(dense(rng), rng)
    session = lg.Session(lg.export_onnx(model, form="multi-adapter", layout=layout))
    for rank in (6, 9):
        model.add_adapter(f"later {rank}", targets="*", rank=rank, rng=rng)
    randomized(model, rng)
    lg.export_adapter(model, tmp_path / "six.onnx_adapter", form="multi-adapter", layout=layout)
    session.load_adapter(tmp_path / "six.onnx_adapter")
    x, index = numbers(rng, 8), [5, 4, 3, 2, 1, 0, -1, 5]
    found = session.run({"x": x, "adapter": index}, adapter="six")
    np.testing.assert_allclose(found, one_by_one(model, x, index), **TOLERANCE)
    with pytest.raises(ValueError, match=r"(?i)gather"):
        session.run({"x": x, "adapter": index})
    other = {"columns": "rows", "rows": "columns"}[layout]
    lg.export_adapter(model, tmp_path / "other.onnx_adapter", form="multi-adapter", layout=other)
    with pytest.raises(LoadError, match=r"other\.onnx_adapter: "):
        session.load_adapter(tmp_path / "other.onnx_adapter")
    with pytest.raises(ValueError, match="holds all adapters"):
        lg.export_adapter(model, tmp_path / "one", "all", form="multi-adapter")


def layouts(model: lg.AdaptedModel, *shape: Any) -> set[int]:
    """The numbers of axes that the stacks of A have: 2 side by side, 3 one behind the other."""
    written = lg.export_onnx(model, form="multi-adapter", input_shape=shape)
    return {len(tensor.dims) for tensor in written.graph.initializer if tensor.name.endswith(".A")}


def test_the_layout_follows_from_how_many_there_are_and_how_long_samples_are(rng: np.random.Generator) -> None:
    base = lg.DenseLayer(12, 16, rng=rng)
    model = lg.AdaptedModel(base)
    for index in range(6):
        model.add_adapter(f"a{index}", rank=2, rng=rng)
    assert layouts(model, "batch", 12) == {2}
    assert layouts(model, "batch", "time", 12) == {3}
    for index in range(6, 16):
        model.add_adapter(f"a{index}", rank=2, rng=rng)
    assert layouts(model, "batch", 12) == {3}


def test_what_has_no_rank_or_no_samples_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="family lokr have no rank to stack them by"):
        lg.export_onnx(adapted(lg.DenseLayer(12, 16, rng=rng), "lokr", rng), form="multi-adapter")
    recurrent = adapted(lg.LSTMLayer(6, 8, rng=rng), "lora", rng)
    with pytest.raises(ValueError, match="cannot have adapters of their own there"):
        lg.export_onnx(recurrent, form="multi-adapter")
    with pytest.raises(ValueError, match=r"layout must be one of columns, rows, got 'diagonal'"):
        lg.export_onnx(several(dense(rng), rng), form="multi-adapter", layout="diagonal")


def test_a_form_without_layouts_takes_none(rng: np.random.Generator, tmp_path: Path) -> None:
    model = several(dense(rng), rng)
    with pytest.raises(TypeError, match="form='parallel' has no option 'layout'; it has none"):
        lg.export_onnx(model, layout="rows")
    with pytest.raises(TypeError, match="an adapter file for form='hot-swap' has no option 'layout'"):
        lg.export_adapter(model, tmp_path / "all", "all", layout="rows")


def test_pairs_of_different_kinds_at_one_weight_are_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    model = lg.AdaptedModel(convolutional(rng, 2))
    model.add_adapter("grouped", targets="0.weight", rank=2, rng=rng)
    model.add_adapter("dense", targets="0.weight", rank=2, dense=True, rng=rng)
    with pytest.raises(ValueError, match=r"0\.weight\.lora is of another kind in one adapter than in others"):
        lg.export_onnx(model, form="multi-adapter")
    with pytest.raises(ValueError, match=r"adapter 'dense': 0\.weight\.lora\.A is .*, the model that is for all has"):
        lg.export_adapter(model, tmp_path / "dense.onnx_adapter", "dense")
    biased = lg.adapt(lg.DenseLayer(12, 9, rng=rng), rank=2, bias=True, rng=rng)
    with pytest.raises(ValueError, match="has A, B, bias, and only pairs of A and B can be stacked"):
        lg.export_onnx(biased, form="multi-adapter")
