"""The rank as an input: one model is what the static export is at every rank."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.onnx.forms import form_of
from lora_graph.onnx.forms.dynamic_rank import RANKS
from tests.onnx.forms.models import BASES, adapted, dense, numbers, randomized


def at_rank(model: lg.AdaptedModel, rank: int) -> lg.AdaptedModel:
    for adapter in model.adapters.values():
        if isinstance(adapter, lg.DyLoRAAdapter):
            adapter.current_deployment_rank = rank
    return model


@pytest.mark.parametrize("scaling", ["max_rank", "per_rank"])
@pytest.mark.parametrize("ranks", [(1, 2, 3, 4), (2, 4), (3,)])
@pytest.mark.parametrize("kind", BASES)
def test_every_rank_is_the_static_export_at_that_rank(
    kind: str, ranks: tuple[int, ...], scaling: str, rng: np.random.Generator
) -> None:
    make, draw, shape = BASES[kind]
    options: dict[str, Any] = {"targets": "*", "rank": 4, "alpha": 3, "active_ranks": ranks, "rank_scaling": scaling}
    model: lg.AdaptedModel = randomized(lg.adapt(make(rng), "dylora", rng=rng, **options), rng)
    before = model.adapters["default"].exported_rank
    written = lg.export_onnx(model, form="dynamic-rank", input_shape=shape)
    assert model.adapters["default"].exported_rank == before
    assert json.loads({p.key: p.value for p in written.metadata_props}[RANKS]) == {"default": list(ranks)}
    session = lg.Session(written)
    deployment = form_of("dynamic-rank").deploy(model, shape)
    compiled = lg.compile(deployment.graph, state=deployment.state)
    x = draw(rng, 3)
    static = {}
    for rank in ranks:
        static[rank] = lg.Session(lg.export_onnx(at_rank(model, rank), input_shape=shape)).run(x)
    for wanted in (-(2**63), -1, 0, 1, 2, 3, 4, 5, 2**63 - 1):
        taken = max([rank for rank in ranks if rank <= wanted], default=ranks[0])
        given = {"x": x, "rank": wanted}
        np.testing.assert_allclose(session.run(given), static[taken], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(compiled(given), static[taken], rtol=1e-5, atol=1e-5)


def test_adapters_with_ranks_of_their_own_and_others_beside(rng: np.random.Generator) -> None:
    base = dense(rng)
    model = lg.AdaptedModel(base)
    model.add_adapter("fine", "dylora", targets="0.weight", rank=6, active_ranks=[2, 6], rng=rng)
    model.add_adapter("coarse", "dylora", targets="*", rank=4, active_ranks=[1, 4], rng=rng)
    model.add_adapter("fixed", "lora", targets="1.weight", rank=3, rng=rng)
    randomized(model, rng)
    session = lg.Session(lg.export_onnx(model, form="dynamic-rank"))
    x = numbers(rng, 3)
    for wanted, fine, coarse in ((1, 2, 1), (3, 2, 1), (4, 2, 4), (6, 6, 4)):
        model.adapters["fine"].current_deployment_rank = fine  # type: ignore[attr-defined]
        model.adapters["coarse"].current_deployment_rank = coarse  # type: ignore[attr-defined]
        np.testing.assert_allclose(session.run({"x": x, "rank": wanted}), model.forward(x), rtol=1e-5, atol=1e-5)


def test_what_is_written_can_be_read_and_run_again(rng: np.random.Generator) -> None:
    model = adapted(dense(rng), "dylora", rng)
    written = lg.export_onnx(model, form="dynamic-rank")
    x = numbers(rng, 3)
    read = lg.load_onnx(written)
    again = lg.Session(lg.export_onnx(read))
    for rank in (1, 2):
        given = {"x": x, "rank": rank}
        for found in (again.run(given), read.forward(given)):
            np.testing.assert_allclose(found, lg.Session(written).run(given), rtol=1e-5, atol=1e-5)


def test_other_families_have_a_fixed_rank(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="no DyLoRA adapter"):
        lg.export_onnx(adapted(dense(rng), "lora", rng), form="dynamic-rank")
