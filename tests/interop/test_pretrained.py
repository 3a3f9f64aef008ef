"""PEFT directories that are written: read again they are the same, and PEFT's own library computes the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import lora_graph as lg
from lora_graph.adapters.peft_forms import factorization
from tests.interop.models import (
    IMAGE_SHAPES,
    SHAPES,
    TIED_SHAPES,
    cnn,
    lora_config,
    mlp,
    pair,
    run_tied,
    save_peft,
    tied,
    weights,
)
from tests.interop.test_fixtures import CASES, ROOT, loaded, recorded
from tests.interop.test_peft import features, images

PEFT_CASES = [(case, base) for case, base in CASES if (case / "adapter").is_dir() and "_bn_" not in case.name]


def filled(model: lg.AdaptedModel, rng: np.random.Generator) -> lg.AdaptedModel:
    """With numbers instead of zeros in the adapters, and positive magnitudes."""
    for name, adapter in model.adapters.items():
        for label, array in adapter.state.items():
            if not label.startswith("base."):
                drawn = rng.uniform(0.3, 1.0, array.shape) if "magnitude" in label else rng.normal(size=array.shape)
                model.set_parameter(f"{name}.{label}", drawn)
    return model.eval()


def dense(rng: np.random.Generator) -> tuple[lg.Layer, np.ndarray]:
    return mlp(weights(SHAPES)), features(rng)


def convolutional(rng: np.random.Generator) -> tuple[lg.Layer, np.ndarray]:
    return cnn(weights(IMAGE_SHAPES)), images(rng)


def looked_up(rng: np.random.Generator) -> tuple[lg.Layer, np.ndarray]:
    return tied(weights(TIED_SHAPES), one_name=False), rng.integers(0, 9, (4, 3))


Make = Callable[[np.random.Generator], tuple[lg.Layer, np.ndarray]]
WRITTEN: list[tuple[Make, str, dict[str, Any]]] = [
    (dense, "lora", {"targets": ["fc1", "fc2", "mix"], "rank": 2, "alpha": 6}),
    (dense, "lora", {"targets": ["fc1", "fc2"], "rank": 2, "rank_pattern": {"fc1": 3}, "alpha_pattern": {"fc2": 1.5}}),
    (dense, "lora", {"targets": ["fc1", "mix"], "rank": 4, "rank_scaling": "sqrt_rank", "bias": True}),
    (dense, "lora", {"targets": "fc1", "rank": 2, "unfreeze": ["blocks.0.fc2.bias", "norm.*"]}),
    (dense, "lora", {"targets": "fc1", "rank": 2, "unfreeze": ["fc1.bias", "val_3"]}),
    (dense, "dora", {"targets": ["fc1", "fc2"], "rank": 2, "alpha": 3}),
    (dense, "lokr", {"targets": ["fc1", "fc2"], "rank": 2, "alpha": 3, "decompose_factor": -1}),
    (dense, "lokr", {"targets": ["fc1", "fc2"], "rank": 1, "decompose_factor": 2, "decompose_both": True}),
    (convolutional, "lora", {"targets": ["stem", "grouped", "fc"], "rank": 2, "alpha": 6}),
    (convolutional, "lora", {"targets": ["grouped"], "rank": 2, "dense": True}),
    (convolutional, "dora", {"targets": ["stem", "fc"], "rank": 2}),
    (convolutional, "lokr", {"targets": ["stem", "fc"], "rank": 1, "alpha": 2, "decompose_factor": -1, "tucker": True}),
    (looked_up, "lora", {"targets": ["emb", "head"], "rank": 2}),
    (looked_up, "dora", {"targets": ["emb"], "rank": 2}),
]


@pytest.mark.parametrize(("make", "family", "options"), WRITTEN)
def test_what_is_written_is_read_as_the_same(
    make: Make, family: str, options: dict[str, Any], rng: np.random.Generator, tmp_path: Path
) -> None:
    model, x = make(rng)
    adapted = filled(lg.adapt(model, family, **options, rng=0), rng)
    base = {name: array for name, array in adapted.trainable_parameters().items() if name.startswith("base.")}
    for name, array in base.items():
        adapted.set_parameter(name, array + rng.normal(size=array.shape))
    adapted.save_pretrained(tmp_path / "out", base_name="some/model")
    again = lg.load_peft(make(rng)[0], tmp_path / "out").eval()
    y = adapted.forward(x)
    np.testing.assert_allclose(again.forward(x), y, atol=1e-5 * np.abs(y).max(), rtol=0)
    assert np.abs(y - model.forward(x)).max() > 1e-2
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/model"
    assert base.keys() <= again.trainable_parameters().keys()
    again.save_pretrained(tmp_path / "twice")
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "twice"))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_what_peft_saved_is_written_as_it_was(rng: np.random.Generator, tmp_path: Path) -> None:
    tensors = pair("fc1", 2, 8, 6) | pair("blocks.0.fc2", 3, 8, 8)
    folder = save_peft(tmp_path / "a", tensors, lora_config(rank_pattern={"fc2": 3}, alpha_pattern={"fc2": 5}))
    lg.load_peft(mlp(weights(SHAPES)), folder).save_pretrained(tmp_path / "b")
    written = load_file(tmp_path / "b" / "adapter_model.safetensors")
    assert written.keys() == {f"base_model.model.{name}" for name in tensors}
    for name, array in tensors.items():
        np.testing.assert_array_equal(written[f"base_model.model.{name}"], array)
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["blocks.0.fc2", "fc1"]
    assert {config["r"], *config["rank_pattern"].values()} == {2, 3}
    assert {config["lora_alpha"], *config["alpha_pattern"].values()} == {6, 5}


@pytest.mark.parametrize(
    ("make", "family", "options", "words"),
    [
        (dense, "dylora", {"targets": "fc1", "rank": 4, "active_ranks": [2, 4]}, "no dylora adapter .* fc1.weight"),
        (dense, "dora", {"targets": "fc1", "rank": 2, "norm": "input"}, "no .* could stand at|norm for each input"),
        (
            dense,
            "lokr",
            {"targets": "fc2", "rank": 2, "factors": ((8, 2), (1, 4))},
            "chooses the factors of each width",
        ),
        (convolutional, "lora", {"targets": "stem", "rank": 2, "tucker": True}, "core between its matrices, as stem"),
        (convolutional, "dora", {"targets": "grouped", "rank": 2}, "no DoRA in groups, as grouped"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Kronecker")
def test_what_peft_has_no_form_for_is_refused(
    make: Make, family: str, options: dict[str, Any], words: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    adapted = lg.adapt(make(rng)[0], family, **options, rng=0)
    with pytest.raises(ValueError, match=words):
        adapted.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_that_is_named_after_its_head_is_not_taken_for_it(rng: np.random.Generator, tmp_path: Path) -> None:
    """The dynamo exporter calls the one table of both after the head; a head that was copied is the other array."""
    w, x = weights(TIED_SHAPES), rng.integers(0, 9, (4, 3))
    base = tied(w, one_name=False, table="head.weight")
    a, b = rng.normal(size=(2, 9)).astype(np.float32), rng.normal(size=(8, 2)).astype(np.float32)
    stored = {"emb.lora_embedding_A": a, "emb.lora_embedding_B": b, "head.weight": w["head.weight"]}
    adapted = lg.load_peft(base, save_peft(tmp_path / "a", stored, lora_config(modules_to_save=["head"])))
    adapted.save_pretrained(tmp_path / "b")
    again = lg.load_peft(base, tmp_path / "b")
    expected = run_tied({"emb.weight": w["emb.weight"] + 3.0 * (b @ a).T, "head.weight": w["head.weight"]}, x)
    for model in (adapted, again):
        np.testing.assert_allclose(model.eval().forward(x), expected, atol=1e-5 * np.abs(expected).max())


def test_modules_may_be_named(rng: np.random.Generator, tmp_path: Path) -> None:
    adapted = filled(lg.adapt(mlp(weights(SHAPES)), targets=["fc1", "fc2"], rank=2, rng=0), rng)
    adapted.save_pretrained(tmp_path / "a", modules={"val_3": "model.second"})
    names = load_file(tmp_path / "a" / "adapter_model.safetensors").keys()
    assert {name.removeprefix("base_model.model.").rsplit(".lora", 1)[0] for name in names} == {"fc1", "model.second"}
    with pytest.raises(ValueError, match="as many as weights"):
        adapted.save_pretrained(tmp_path / "b", modules={"val_3": "fc1"})
    with pytest.raises(ValueError, match="name must be one of default"):
        adapted.save_pretrained(tmp_path / "b", "other")


def test_a_module_that_nothing_names(rng: np.random.Generator, tmp_path: Path) -> None:
    from onnx import helper

    from tests.interop.models import model

    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"])]
    adapted = lg.adapt(model(nodes, {"W": np.eye(6, 5, dtype=np.float32)}, ("batch", 6), ("batch", 5)), rank=2, rng=0)
    with pytest.raises(ValueError, match="modules must name the module of W"):
        adapted.save_pretrained(tmp_path / "a")
    adapted.save_pretrained(tmp_path / "a", modules={"W": "only"})
    assert (tmp_path / "a" / "adapter_config.json").exists()


def test_factors_are_those_of_peft() -> None:
    table = ROOT / "tables" / "factorization.json"
    if not table.exists():
        pytest.skip("the tables lie beside the repository, not in it")
    for row in json.loads(table.read_text()):
        assert list(factorization(row["dim"], row["factor"])) == row["peft"], row


@pytest.mark.skipif(not PEFT_CASES, reason="the fixtures lie beside the repository, not in it")
@pytest.mark.parametrize(("case", "base"), PEFT_CASES, ids=[str(base.relative_to(ROOT)) for _, base in PEFT_CASES])
def test_recorded_adapters_go_once_around(case: Path, base: Path, tmp_path: Path) -> None:
    loaded(case, base).save_pretrained(tmp_path / "out")
    inputs, expected, _ = recorded(case)
    again = lg.load_peft(lg.load_onnx(base), tmp_path / "out").eval()
    np.testing.assert_allclose(again.forward(inputs), expected, atol=1e-5, rtol=0)


# -- with PEFT itself -------------------------------------------------------------------------------------------------


class Torch:
    """The models of :mod:`tests.interop.models` in PyTorch."""

    @staticmethod
    def build(make: Make) -> Any:
        torch = pytest.importorskip("torch")
        conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
        nn = torch.nn

        class Mlp(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc1 = nn.Linear(6, 8)
                block = nn.Module()
                block.fc2 = nn.Linear(8, 8)
                self.blocks, self.norm, self.mix = nn.ModuleList([block]), nn.LayerNorm(8), conv1d(5, 8)

            def forward(self, x: Any) -> Any:
                return self.mix(self.norm(self.blocks[0].fc2(torch.relu(self.fc1(x)))))

        class Cnn(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem = nn.Conv2d(4, 6, 3, padding=1)
                self.grouped = nn.Conv2d(6, 8, 3, stride=2, groups=2, bias=False)
                self.fc = nn.Linear(8, 5, bias=False)

            def forward(self, x: Any) -> Any:
                return self.fc(self.grouped(torch.relu(self.stem(x))).mean((2, 3)))

        class Looked(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.emb, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)

            def forward(self, x: Any) -> Any:
                return self.head(torch.tanh(self.emb(x)))

        shapes = {dense: SHAPES, convolutional: IMAGE_SHAPES, looked_up: TIED_SHAPES}[make]
        made = {dense: Mlp, convolutional: Cnn, looked_up: Looked}[make]()
        given = weights(shapes)
        if make is looked_up:  # the head has the table of the embedding
            given["head.weight"] = given["emb.weight"]
        made.load_state_dict({name: torch.tensor(array) for name, array in given.items()})
        return made.eval()


@pytest.mark.peft
@pytest.mark.parametrize(("make", "family", "options"), WRITTEN)
def test_peft_loads_and_reproduces(
    make: Make, family: str, options: dict[str, Any], rng: np.random.Generator, tmp_path: Path
) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    model, x = make(rng)
    adapted = filled(lg.adapt(model, family, **options, rng=0), rng)
    for name, array in adapted.trainable_parameters().items():
        if name.startswith("base."):
            adapted.set_parameter(name, array + rng.normal(size=array.shape))
    adapted.save_pretrained(tmp_path / "out")
    theirs = peft.PeftModel.from_pretrained(Torch.build(make), str(tmp_path / "out")).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(x)).numpy()
    y = adapted.forward(x)
    np.testing.assert_allclose(y, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)
