"""The weight changes of other libraries' adapters, reproduced by our families from the recorded matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.train import TrainingStep
from tests.adapters.recorded import PEFT, ROOT, Module, grouped, modules
from tests.reference import close

MODULES = list(modules())
CASES = grouped(MODULES)
pytestmark = pytest.mark.skipif(not MODULES, reason="the fixtures lie beside the repository, not in it")
rows = pytest.mark.parametrize("module", MODULES, ids=str)


def test_every_form_is_among_them() -> None:
    found = {name for module in MODULES for name in module.matrices}
    assert found >= {"A", "B", "mid", "magnitude", "A_left", "A_right", "B_left", "B_core", "B_right"}
    assert {module.family for module in MODULES} == {lg.StandardLoRAAdapter, lg.DoRAAdapter, lg.LoKrAdapter}
    assert {module.before.ndim for module in MODULES} == {2, 4}


@rows
def test_the_change_of_the_weight_is_the_recorded_one(module: Module) -> None:
    adapter = module.adapter().eval()
    merged = adapter.merge_to_original_layer()
    change = merged.get_parameter("weight") - module.before
    # the recorded numbers are float32, ours float64; LyCORIS adds an epsilon to its norms
    np.testing.assert_allclose(merged.get_parameter("weight"), module.after, atol=2e-6, rtol=0)
    if "magnitude" not in module.matrices:
        np.testing.assert_allclose(change, module.delta, atol=2e-6, rtol=0)
    shape = [size if isinstance(size, int) else 7 for size in adapter.input_shape]
    x = np.random.default_rng(0).normal(size=(2, *shape))
    close(adapter.forward(x), merged.forward(x), 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_whole_model_gives_the_recorded_outputs_and_gradients(case: str, tmp_path: Path) -> None:
    folder, parts = ROOT / case, CASES[case]
    model = attached(lg.AdaptedModel(lg.load_onnx(folder / "base_dynamo.onnx")), parts)
    with np.load(folder / "io.npz") as io:
        x, expected = io["input/x"], io["expected/adapted"]
    np.testing.assert_allclose(model.forward(x), expected, atol=1e-5, rtol=0)
    for form in ("parallel", "merged"):
        found = lg.Session(lg.export_onnx(model, form=form)).run(x)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0, err_msg=form)
    if (folder / "grads.npz").is_file():
        check_gradients(model, parts, x, folder / "grads.npz")
    check_file(model, tmp_path / "adapter.safetensors", folder, x)


def attached(model: lg.AdaptedModel, parts: list[Module]) -> lg.AdaptedModel:
    """The model with the recorded adapter at its weights."""
    matrices = {f"{part.name}.weight": part.matrices for part in parts}
    ranks = {f"{part.name}.weight": part.rank for part in parts}
    alphas = {f"{part.name}.weight": part.scale * part.rank for part in parts}
    model.attach(parts[0].family.from_matrices(model.base, matrices, ranks, alphas))
    return model


def check_gradients(model: lg.AdaptedModel, parts: list[Module], x: np.ndarray, path: Path) -> None:
    """At rate 0 the velocity of the first step is the gradient."""
    with np.load(path) as file:
        recorded, target = {key: file[key] for key in file.files}, file["target"]
    step = TrainingStep(model, "mse", lg.SGD(0.0, momentum=0.5))
    step.run(x, target)
    adapter = model.adapters["default"]
    modules = {f"{part.name}.weight": part for part in parts}
    for branch, site in zip(adapter.branches, adapter.sites, strict=True):
        part = modules[site.label]
        start = f"grad/{PEFT}{part.name}."
        own = {k.removeprefix(start).removesuffix(".weight"): g for k, g in recorded.items() if k.startswith(start)}
        for name, wanted in part.ours(own).items():
            found = step.state()[f"optimizer.velocity/default.{branch}.{name}"]
            np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max(), rtol=0, err_msg=branch)


def check_file(model: lg.AdaptedModel, path: Path, folder: Path, x: np.ndarray) -> None:
    """A file of ours keeps the form that each branch has."""
    model.save_adapter(path)
    again = lg.AdaptedModel(lg.load_onnx(folder / "base_dynamo.onnx"))
    again.load_adapter(path)
    np.testing.assert_array_equal(again.forward(x), model.forward(x))
