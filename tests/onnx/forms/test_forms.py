"""What holds for every form: the registry is walked, so that a new form is tested by being in it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg
from lora_graph.layers.imported import FORM
from lora_graph.onnx.forms import FORMS, form_of
from tests.onnx.forms.models import BASES, adapted

EXTRA: dict[str, Any] = {"adapter": lambda batch: [0] * batch, "rank": lambda batch: 2}
"""What forms ask for besides the inputs of the base."""


def feeds(session: lg.Session, x: Any, matrices: dict[str, Any]) -> dict[str, Any]:
    """``x``, and what the form asks for."""
    given = {name: EXTRA[name](len(x)) if name in EXTRA else matrices.get(name, x) for name in session.inputs}
    return {**given, "x": x}


@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_a_valid_model_that_computes_the_adapted_one(
    form: str, kind: str, dtype: str | None, rng: np.random.Generator, tmp_path: Path
) -> None:
    make, draw, shape = BASES[kind]
    model = adapted(make(rng), "dylora", rng)
    path = tmp_path / "model.onnx"
    written = lg.export_onnx(model, path, form=form, input_shape=shape, dtype=dtype)
    onnx.checker.check_model(written, full_check=True)
    described = {item.name for item in (*written.graph.value_info, *written.graph.output)}
    assert {name for node in written.graph.node for name in node.output} <= described, "shapes are inferred"
    assert {prop.key: prop.value for prop in written.metadata_props}[FORM] == form
    session, matrices, chosen = lg.Session(path), {}, None
    if FORMS[form].suffix:
        lg.export_adapter(model, tmp_path / "a.onnx_adapter", form=form, dtype=dtype)
        if form == "web":
            matrices = FORMS[form].adapter(model, None)  # type: ignore[misc]
        else:
            chosen = session.load_adapter(tmp_path / "a.onnx_adapter")
    x = draw(rng, 4)
    wanted = model.forward(x)
    found = session.run(feeds(session, x, matrices), adapter=chosen)
    assert np.abs(found - wanted).max() <= (1e-5 if dtype is None else 1e-2) * max(1.0, np.abs(wanted).max())


def test_an_unknown_form_is_an_error_that_lists_all() -> None:
    with pytest.raises(ValueError, match=f"form must be one of {', '.join(FORMS)}, got 'folded'"):
        form_of("folded")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_explained(form: str) -> None:
    assert f'"{form}"' in (inspect.getdoc(lg.export_onnx) or "")
    guide = Path(__file__).parents[3] / "docs" / "deploy.md"
    assert f"`{form}`" in guide.read_text(encoding="utf-8")


@pytest.mark.parametrize("form", FORMS)
def test_options_that_a_form_does_not_have_are_refused(form: str, rng: np.random.Generator) -> None:
    with pytest.raises(TypeError, match="colour"):
        lg.export_onnx(adapted(lg.DenseLayer(12, 9, rng=rng), "dylora", rng), form=form, colour="red")
