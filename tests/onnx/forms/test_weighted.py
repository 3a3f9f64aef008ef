"""Several adapters at once, each with a weight that is given at run time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from tests.onnx.forms.models import BASES, FAMILIES, adapted, numbers, randomized


@pytest.mark.filterwarnings("ignore:at rank")
@pytest.mark.parametrize("kind", BASES)
def test_every_delta_is_scaled_by_its_weight(kind: str, rng: np.random.Generator) -> None:
    """Scaling alpha scales the delta."""
    make, draw, shape = BASES[kind]
    base = make(rng)
    for weights in ({"a": 0.5, "b": -2.0}, {"b": 0.25}, {}):
        state: dict[str, Any] = {}
        found: list[Any] = []
        for scales in ({}, weights):
            model = lg.AdaptedModel(base)
            for name, family in (("a", "lora"), ("b", "lokr")):
                alpha = 3.0 * abs(scales.get(name, 1.0))
                model.add_adapter(name, family, targets="*", rank=2, alpha=alpha, rng=rng)
            if not state:
                state = randomized(model, rng).state
            model.load_weights(state)
            for name, weight in scales.items():
                for label in model.get_parameter_names():
                    if weight < 0 and label.startswith(f"{name}.") and label.endswith(".B"):
                        model.set_parameter(label, -model.get_parameter(label))
            found.append(model)
        plain, scaled = found
        session = lg.Session(lg.export_onnx(plain, form="weighted", input_shape=shape))
        x = draw(rng, 3)
        given = {"x": x, **{f"{name}.weight": weight for name, weight in weights.items()}}
        np.testing.assert_allclose(session.run(given), scaled.eval().forward(x), rtol=1e-5, atol=1e-5)
        zero = session.run({"x": x, "a.weight": 0.0, "b.weight": 0.0})
        np.testing.assert_allclose(zero, base.forward(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:at rank")
@pytest.mark.parametrize("family", FAMILIES)
def test_half_of_a_delta_is_half_the_way(family: str, rng: np.random.Generator) -> None:
    base = lg.DenseLayer(12, 9, rng=rng)
    model = adapted(base, family, rng)
    session = lg.Session(lg.export_onnx(model, form="weighted"))
    x = numbers(rng, 4)
    np.testing.assert_allclose(session.run(x), model.forward(x), rtol=1e-5, atol=1e-5)
    half = session.run({"x": x, "default.weight": 0.5})
    np.testing.assert_allclose(half, (base.forward(x) + model.forward(x)) / 2, rtol=1e-5, atol=1e-5)


class Exponential(lg.Adapter):
    """y = base(x) + exp(x A B), which is linear in nothing."""

    def create_branch(self, name: str, site: lg.Site) -> lg.Layer:
        return lg.LoRALayer(site.in_features, site.out_features, site.rank, rng=self.rng)

    def delta(self, ctx: lg.Context, name: str, branch: lg.Layer, h: lg.Value) -> lg.Value:
        return ctx.call(branch, h).exp()


def test_a_family_that_no_weight_scales_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="linear in no parameter"):
        lg.export_onnx(Exponential(lg.DenseLayer(5, 4, rng=rng), 2), form="weighted")


def test_a_bias_beside_b_is_scaled_as_well(rng: np.random.Generator) -> None:
    base = lg.DenseLayer(12, 9, rng=rng)
    model = randomized(lg.adapt(base, rank=2, bias=True, rng=rng), rng)
    x = numbers(rng, 4)
    half = lg.Session(lg.export_onnx(model, form="weighted")).run({"x": x, "default.weight": 0.5})
    np.testing.assert_allclose(half, (base.forward(x) + model.forward(x)) / 2, rtol=1e-5, atol=1e-5)


def test_a_family_that_scales_its_base_is_refused(rng: np.random.Generator) -> None:
    model = randomized(lg.adapt(lg.DenseLayer(12, 9, rng=rng), "dora", rank=2, rng=rng), rng)
    with pytest.raises(ValueError, match="adapter 'default' does more than to add"):
        lg.export_onnx(model, form="weighted")
