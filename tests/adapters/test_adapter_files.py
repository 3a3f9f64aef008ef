"""Adapters in files: what is written comes back on an equal base, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.adapters.files import CONFIG
from lora_graph.layers.weights import read_metadata, read_safetensors, save_weights
from tests.adapters.test_adapt import OPTIONS, filled, network

pytestmark = pytest.mark.filterwarnings("ignore:.*Kronecker")


@pytest.mark.parametrize("family", OPTIONS)
def test_an_adapter_comes_back(family: str, tmp_path: Path, rng: np.random.Generator) -> None:
    model = filled(
        lg.adapt(network(), family, targets="*", rank=2, alpha=3, alpha_pattern={"2": 5}, **OPTIONS[family]), rng
    ).eval()
    if family == "dylora":
        model.adapters["default"].current_deployment_rank = 1  # type: ignore[attr-defined]
    x = rng.normal(size=(5, 3, 8)).astype(np.float32)
    y = model.forward(x)
    model.save_adapter(tmp_path / "a.safetensors")
    other = lg.AdaptedModel(network()).eval()
    made = other.load_adapter(tmp_path / "a.safetensors", "loaded").eval()
    assert type(made) is type(model.adapters["default"])
    assert other.active_adapters == ("loaded",)
    np.testing.assert_array_equal(other.forward(x), y)
    assert [site.alpha for site in made.sites] == [5.0 if site.label == "2.weight" else 3.0 for site in made.sites]
    with pytest.raises(ValueError, match="already"):
        other.load_adapter(tmp_path / "a.safetensors", "loaded")


def test_trained_parameters_of_the_base_travel_with_the_adapter(tmp_path: Path, rng: np.random.Generator) -> None:
    model = lg.adapt(network(), targets="2", rank=2, unfreeze="3.*", rng=0)
    x = rng.normal(size=(16, 3, 8)).astype(np.float32)
    lg.fit(model, (x, rng.normal(size=(16, 4))), optimizer=lg.Adam(1e-2), epochs=3)
    y = model.eval().forward(x)
    model.save_adapter(tmp_path / "a.safetensors")
    other = lg.AdaptedModel(network()).eval()
    other.load_adapter(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(other.forward(x), y)
    assert "base.3.weight" in other.trainable_parameters()
    other.save_adapter(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_merged_model_saves_what_it_was_made_of(tmp_path: Path, rng: np.random.Generator) -> None:
    model = filled(lg.adapt(network(), targets="*", rank=2, rng=0), rng)
    model.save_adapter(tmp_path / "a.safetensors")
    model.merge()
    model.save_adapter(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_another_base_is_refused(tmp_path: Path) -> None:
    lg.adapt(network(), targets="2", rank=2).save_adapter(tmp_path / "a.safetensors")
    base = network()
    base.set_parameter("3.bias", base.get_parameter("3.bias") + 1e-6)
    model = lg.AdaptedModel(base)
    with pytest.raises(lg.LoadError, match=r"a\.safetensors: the adapter was trained on another base than Sequential"):
        model.load_adapter(tmp_path / "a.safetensors")
    assert model.adapters == {}


def tampered(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    config, tensors = json.loads(read_metadata(path)[CONFIG]), read_safetensors(path)
    change(config, tensors)
    save_weights(tensors, path, {CONFIG: json.dumps(config)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, t: c.pop("rank"), "expected a record of"),
        (lambda c, t: c.update(family="eval"), "family must be one of"),
        (lambda c, t: c.update(rank="2"), "rank must be"),
        (lambda c, t: c.update(weights={}), "at least one parameter"),
        (lambda c, t: c.update(weights={"2.weight": [2]}), "must have a rank and an alpha"),
        (lambda c, t: c.update(weights={"9.weight": [2, 2.0]}), "does not multiply by 9.weight"),
        (lambda c, t: c.update(weights={"2.weight": [99, 2.0]}), "less than 6"),
        (lambda c, t: c.update(options={"nonsense": 1}), "nonsense"),
        (lambda c, t: c.update(settings={"rank": 1}), "has no setting 'rank'"),
        (lambda c, t: t.pop("lora.A"), "missing: lora.A"),
        (lambda c, t: t.update(more=np.zeros(2, np.float32)), "unexpected: more"),
        (lambda c, t: t.update({"lora.A": t["lora.A"].T.copy()}), "lora.A has shape"),
        (lambda c, t: t.update({"lora.A": t["lora.A"].astype(np.float64)}), "lora.A is float64"),
        (lambda c, t: t.update({"lora.A": t["lora.A"] * np.nan}), "not finite"),
        (lambda c, t: t.update({"base.2.nothing": np.zeros(2, np.float32)}), "unexpected: base.2.nothing"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(
    change: Callable[[dict[str, Any], dict[str, np.ndarray]], None], words: str, tmp_path: Path
) -> None:
    lg.adapt(network(), targets="2", rank=2).save_adapter(tmp_path / "a.safetensors")
    tampered(tmp_path / "a.safetensors", change)
    model = lg.AdaptedModel(network())
    before = {name: array.tobytes() for name, array in model.state.items()}
    with pytest.raises(lg.LoadError, match=r"a\.safetensors: .*") as caught:
        model.load_adapter(tmp_path / "a.safetensors")
    assert words in str(caught.value)
    assert model.adapters == {}
    assert {name: array.tobytes() for name, array in model.state.items()} == before


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    model = lg.adapt(network(), targets="2", rank=2)
    network().save_weights(tmp_path / "weights.safetensors")
    (tmp_path / "text.safetensors").write_text("nothing of the kind")
    for name, words in (("weights", "not an adapter of lora_graph"), ("text", "not a safetensors"), ("no", "read")):
        with pytest.raises(lg.LoadError, match=words):
            model.load_adapter(tmp_path / f"{name}.safetensors", "more")
    with pytest.raises(ValueError, match="name must be one of"):
        model.save_adapter(tmp_path / "a.safetensors", "other")
    assert not (tmp_path / "a.safetensors").exists()


def test_replaced_parameters_of_the_base_travel_with_the_adapter(tmp_path: Path, rng: np.random.Generator) -> None:
    given = network()
    model = filled(lg.adapt(given, targets="2", rank=2), rng)
    weight, bias = (rng.normal(size=given.get_parameter_shape(n)).astype(np.float32) for n in ("3.weight", "3.bias"))
    model.replace_base({"3.weight": weight}, trainable=False)
    model.replace_base({"3.bias": bias}, trainable=True)
    x = rng.normal(size=(5, 3, 8)).astype(np.float32)
    y = model.eval().forward(x)
    model.save_adapter(tmp_path / "a.safetensors")
    other = lg.AdaptedModel(given).eval()
    other.load_adapter(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(other.forward(x), y)
    assert {name for name in other.trainable_parameters() if name.startswith("base.")} == {"base.3.bias"}
    assert not np.array_equal(given.get_parameter("3.weight"), weight)
    with pytest.raises(ValueError, match="no parameter '9'"):
        model.replace_base({"9": weight}, trainable=False)
    with pytest.raises(ValueError, match=r"3\.weight must be float32"):
        model.replace_base({"3.weight": weight.T}, trainable=False)


def test_an_adapter_that_was_built_elsewhere_is_attached(tmp_path: Path, rng: np.random.Generator) -> None:
    model = lg.AdaptedModel(network())
    target = next(t for t in model.targets() if t.name == "2.weight")
    adapter = lg.StandardLoRAAdapter(model.base, 2, site=[replace(target.site, rank=2, alpha=3.0)])
    a, b = (rng.normal(size=adapter.get_parameter_shape(name)).astype(np.float32) for name in ("lora.A", "lora.B"))
    adapter.assign({"lora.A": a, "lora.B": b})
    assert model.attach(adapter) is adapter
    assert model.adapters == {"default": adapter}
    merged = model.merge_to_base().get_parameter("2.weight")
    change = 3 / 2 * (a.astype(np.float64) @ b)
    expected = network().get_parameter("2.weight") + (change.T if target.site.is_transposed else change)
    np.testing.assert_allclose(merged, expected, atol=1e-5)
    model.save_adapter(tmp_path / "a.safetensors")
    again = lg.AdaptedModel(network())
    again.load_adapter(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(again.get_parameter("default.lora.A"), a)
    with pytest.raises(ValueError, match="already"):
        model.attach(adapter)
    with pytest.raises(ValueError, match="of this model's base"):
        model.attach(lg.StandardLoRAAdapter(network(), 2, site="weight"), "other")
    with pytest.raises(TypeError, match="must be an Adapter"):
        model.attach(network(), "other")  # type: ignore[arg-type]
