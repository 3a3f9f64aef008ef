"""Adapter files against models: one line for each thing that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import save_file

import lora_graph as lg
from lora_graph.adapters.files import CONFIG
from lora_graph.errors import LoadError
from lora_graph.inspect import Finding, lint_adapter
from lora_graph.layers.weights import read_metadata, read_safetensors, save_weights
from lora_graph.onnx.adapter_file import AdapterFile
from lora_graph.onnx.forms.deployment import FINGERPRINT
from tests.interop.models import SHAPES, Arrays, lora_config, mlp, pair, save_peft, weights
from tests.onnx.forms.models import adapted, dense, numbers

A, B, A1, B1 = "0.weight.lora.A", "0.weight.lora.B", "1.weight.lora.A", "1.weight.lora.B"


def texts(findings: tuple[Finding, ...], severity: str = "error") -> list[str]:
    return [str(finding).removeprefix(f"{severity}: ") for finding in findings if finding.severity == severity]


@pytest.fixture
def layer(rng: np.random.Generator) -> lg.AdaptedModel:
    return adapted(dense(rng), "lora", rng)


# -- what a model takes when it runs ----------------------------------------------------------------------------------


class Swapped:
    """A model of a form, and an adapter for it whose arrays can be changed."""

    def __init__(self, layer: lg.AdaptedModel, folder: Path, form: str) -> None:
        self.model, self.file = folder / "model.onnx", folder / "a.onnx_adapter"
        lg.export_onnx(layer, self.model, form=form)
        lg.export_adapter(layer, self.file, form=form)
        read = AdapterFile.read(self.file)
        self.arrays, self.version = dict(read.arrays), read.model_version

    def findings(self, **changes: np.ndarray | None) -> tuple[Finding, ...]:
        """With arrays exchanged, or left out; a name's dots are written as underscores."""
        names = {name.replace(".", "_"): name for name in self.arrays}
        for name, array in changes.items():
            self.arrays.pop(names.get(name, name), None)
            if array is not None:
                self.arrays[names.get(name, name)] = array
        AdapterFile(self.arrays, self.version).write(self.file)
        return lint_adapter(self.model, self.file)


@pytest.fixture
def swapped(layer: lg.AdaptedModel, tmp_path: Path) -> Swapped:
    return Swapped(layer, tmp_path, "hot-swap")


def test_the_adapter_of_a_model_fits(swapped: Swapped) -> None:
    assert set(swapped.arrays) == {A, B, A1, B1}
    assert swapped.findings() == ()


def test_every_thing_that_is_wrong_has_a_line(swapped: Swapped) -> None:
    b = swapped.arrays[B].copy()
    b[0, :2] = np.nan, np.inf
    found = swapped.findings(**{
        A.replace(".", "_"): None,
        "extra": np.ones((2, 2), np.float32),
        B.replace(".", "_"): b,
        A1.replace(".", "_"): np.ones((16, 3), np.float32),
        B1.replace(".", "_"): np.ones((2, 10), np.float64),
    })  # fmt: skip
    assert texts(found) == [
        f"{A}: is missing; the model takes float32[12, rank_0]",
        "extra: is nothing that the model takes",
        f"{B1}: has shape [2, 10], the model takes [3, 10], with rank_1 = 3 as in tensors before",
        f"{B1}: is float64, the model takes float32",
        f"{B}: holds 2 values that are not finite",
    ]


def test_matrices_that_do_nothing_are_noted(swapped: Swapped) -> None:
    found = swapped.findings(**{
        B.replace(".", "_"): np.zeros((2, 16), np.float32),
        A1.replace(".", "_"): np.zeros((16, 0), np.float32),
        B1.replace(".", "_"): np.zeros((0, 10), np.float32),
    })  # fmt: skip
    assert texts(found) == []
    assert texts(found, "note") == [
        f"{B}: is all zero: not trained, or not meant to change anything",
        f"{A1}: is empty [16, 0]: there is no adapter here",
        f"{B1}: is empty [0, 10]: there is no adapter here",
    ]


def test_another_base_and_another_version(swapped: Swapped) -> None:
    swapped.version += 1
    assert texts(swapped.findings()) == ["was made for another base, or the base has changed since"]
    made = onnxruntime.AdapterFormat()
    made.set_adapter_version(7)
    made.set_model_version(swapped.version - 1)
    made.set_parameters({n: onnxruntime.OrtValue.ortvalue_from_numpy(a) for n, a in swapped.arrays.items()})
    made.export_adapter(str(swapped.file))
    assert texts(lint_adapter(swapped.model, swapped.file)) == ["its adapter version is 7, expected 1"]


def test_a_layer_takes_what_its_hot_swap_model_takes(swapped: Swapped, layer: lg.AdaptedModel) -> None:
    assert lint_adapter(layer, swapped.file) == ()


@pytest.mark.parametrize("form", ["web", "multi-adapter"])
def test_safetensors_for_a_model_of_another_form(form: str, layer: lg.AdaptedModel, tmp_path: Path) -> None:
    lg.export_onnx(layer, tmp_path / "model.onnx", form=form)
    file = tmp_path / "a.safetensors"
    lg.export_adapter(layer, file, form=form)
    assert lint_adapter(tmp_path / "model.onnx", file) == ()
    metadata, tensors = read_metadata(file), read_safetensors(file)
    name = next(iter(tensors))
    save_weights({n: a for n, a in tensors.items() if n != name}, file, {FINGERPRINT: metadata[FINGERPRINT][::-1]})
    missing, other = texts(lint_adapter(tmp_path / "model.onnx", file))
    assert missing.startswith(f"{name}: is missing")
    assert other == "was made for another base, or the base has changed since"


def test_a_model_that_takes_none(layer: lg.AdaptedModel, swapped: Swapped, tmp_path: Path) -> None:
    lg.export_onnx(layer, tmp_path / "parallel.onnx")
    (only,) = texts(lint_adapter(tmp_path / "parallel.onnx", swapped.file))
    assert only.startswith("the model takes no adapters at run time")


# -- our own files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(layer: lg.AdaptedModel, tmp_path: Path) -> Path:
    layer.save_adapter(tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


def rewritten(path: Path, config: str = "", **changes: Any) -> Path:
    """The file with other tensors, by name, or without those that are None."""
    tensors: Arrays = {**read_safetensors(path), **changes}
    kept = {name: array for name, array in tensors.items() if array is not None}
    save_weights(kept, path, {CONFIG: config or read_metadata(path)[CONFIG]})
    return path


def test_a_saved_adapter_fits_its_base(layer: lg.AdaptedModel, own: Path) -> None:
    found = lint_adapter(layer.base, own)
    assert [str(finding) for finding in found] == ["note: lora of rank 2 at 2 weights of the model"]


def test_what_is_wrong_in_a_saved_adapter(layer: lg.AdaptedModel, own: Path) -> None:
    a, b, a1, b1 = read_safetensors(own)
    changes = {
        a: None,
        "odd": np.ones(2, np.float32),
        b: np.full((2, 16), np.nan, np.float32),
        a1: np.ones((16, 3), np.float32),
        b1: np.zeros((2, 10), np.float16),
    }
    found = lint_adapter(layer, rewritten(own, **changes))
    assert sorted(texts(found)) == sorted([
        f"{a}: is missing; the model takes float32[12, 2]",
        "odd: is nothing that the model takes",
        f"{b}: holds 32 values that are not finite",
        f"{a1}: has shape [16, 3], the model takes [16, 2]",
        f"{b1}: is float16, the model takes float32",
    ])  # fmt: skip
    assert texts(found, "note") == [f"{b1}: is all zero: not trained, or not meant to change anything"]


def test_another_base(own: Path, rng: np.random.Generator) -> None:
    assert texts(lint_adapter(dense(rng), own)) == ["was trained on another base than Sequential"]
    found = texts(lint_adapter(lg.DenseLayer(3, 2, rng=rng), own))
    assert found[0] == "was trained on another base than DenseLayer"
    assert found[1] == "0.weight: is a weight that the model does not have, or does not multiply by"


def test_metadata_that_cannot_be_read(layer: lg.AdaptedModel, own: Path) -> None:
    (only,) = texts(lint_adapter(layer, rewritten(own, config="{}")))
    assert "cannot be read" in only
    text = read_metadata(own)[CONFIG]
    with_family = own.with_name("b.safetensors")
    layer.save_adapter(with_family)
    text = read_metadata(with_family)[CONFIG].replace('"family": "lora"', '"family": "other"')
    (only,) = texts(lint_adapter(layer, rewritten(with_family, config=text)))
    assert "family must be one of" in only


# -- files of other libraries -----------------------------------------------------------------------------------------


def test_a_peft_folder_that_fits(tmp_path: Path) -> None:
    tensors = pair("fc1", 2, 8, 6) | pair("blocks.0.fc2", 4, 8, 8)
    found = lint_adapter(mlp(weights(SHAPES)), save_peft(tmp_path / "a", tensors, lora_config()))
    assert [str(finding) for finding in found] == ["note: modules found in the model: 2, of rank 2, 4"]


def test_every_module_that_is_wrong_has_a_line(tmp_path: Path) -> None:
    tensors = pair("fc1", 2, 8, 7) | pair("nowhere", 2, 8, 6) | pair("mix", 2, 5, 8) | pair("blocks.0.fc2", 2, 8, 8)
    del tensors["mix.lora_B.weight"]
    tensors["blocks.0.fc2.lora_B.weight"][:] = 0
    found = lint_adapter(mlp(weights(SHAPES)), save_peft(tmp_path / "a", tensors, lora_config()))
    mix, fc1, nowhere = texts(found)
    assert mix.startswith("mix: ")
    assert "lora_B.weight is missing" in mix
    assert fc1.startswith("fc1: the module is fc1.weight [8, 6], which does not fit")
    assert nowhere.startswith("nowhere: the model has no linear")
    (zero,) = texts(found, "note")
    assert "blocks.0.fc2.lora_B.weight: is all zero" in zero


def test_numbers_and_dtypes_of_a_peft_folder(tmp_path: Path) -> None:
    tensors = {name: array.astype(np.float16) for name, array in pair("fc1", 2, 8, 6).items()}
    folder = save_peft(tmp_path / "a", tensors, lora_config())
    found = texts(lint_adapter(mlp(weights(SHAPES)), folder), "note")
    assert found[0] == "2 tensors are float16, and are used as the float32 of the model"
    tensors["fc1.lora_A.weight"][0, 0] = np.nan
    found = texts(lint_adapter(mlp(weights(SHAPES)), save_peft(tmp_path / "a", tensors, lora_config())))
    assert found == ["base_model.model.fc1.lora_A.weight: holds 1 values that are not finite"]


def test_options_that_cannot_be_honoured(tmp_path: Path) -> None:
    folder = save_peft(tmp_path / "a", pair("fc1", 2, 8, 6), lora_config(use_qalora=True))
    (only,) = texts(lint_adapter(mlp(weights(SHAPES)), folder))
    assert "use_qalora" in only


def test_a_lycoris_file(tmp_path: Path) -> None:
    shapes = {"fc1.lora_down.weight": (2, 6), "fc1.lora_up.weight": (8, 2), "blocks_0_fc2.lora_up.weight": (8, 2)}
    tensors = {f"lycoris_{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    tensors["lycoris_other.lora_up.weight"] = np.ones((3, 3), np.float32)
    save_file(tensors, tmp_path / "a.safetensors")
    down, other = sorted(texts(lint_adapter(mlp(weights(SHAPES)), tmp_path / "a.safetensors")))
    assert down.startswith("lycoris_blocks_0_fc2: ")
    assert "lora_down.weight is missing" in down
    assert "has no place in the model" in other
    for name in ("lycoris_other.lora_up.weight", "lycoris_blocks_0_fc2.lora_up.weight"):
        del tensors[name]
    save_file(tensors, tmp_path / "a.safetensors")
    found = lint_adapter(mlp(weights(SHAPES)), tmp_path / "a.safetensors")
    assert [str(finding) for finding in found] == ["note: modules found in the model: 1, of rank 2"]


# -- what is no adapter -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", b"\x80\x04", "a pickle"),
        ("a.onnx_adapter", b"", "not an adapter file"),
        ("a.onnx_adapter", b"\x0c\x00\x00\x00TORT" + b"\xff" * 30, "not an adapter file"),
        ("a.safetensors", b"\x00" * 4, "not a safetensors file"),
        ("a.safetensors", b"\xff" * 40, "not a safetensors file"),
        ("a", None, "no such file or folder"),
    ],
)
def test_what_cannot_be_read_is_a_load_error(
    name: str, content: bytes | None, message: str, layer: lg.AdaptedModel, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError, match=message):
        lint_adapter(layer, tmp_path / name)


def test_the_tensors_of_a_peft_folder_alone(layer: lg.AdaptedModel, tmp_path: Path) -> None:
    folder = save_peft(tmp_path / "a", pair("fc1", 2, 8, 6), lora_config())
    with pytest.raises(LoadError, match="give the folder"):
        lint_adapter(layer, folder / "adapter_model.safetensors")


# -- and then used ----------------------------------------------------------------------------------------------------


def test_a_model_is_checked_with_its_adapter(swapped: Swapped, rng: np.random.Generator) -> None:
    report = lg.check(swapped.model, adapter=swapped.file, batch_sizes=(2,))
    assert report.ok
    assert report.cases == ("batch 2, no adapter", "batch 2, the adapter")
    assert lg.check(swapped.model, adapter=swapped.file, inputs={"x": numbers(rng, 3)}).ok


def test_an_adapter_is_put_on_its_base(layer: lg.AdaptedModel, own: Path) -> None:
    report = lg.check(layer.base, adapter=own)
    assert report.ok
    assert [c.found for c in report.comparisons][-1] == "merged"
    assert len(report.findings) == 1


def test_an_adapter_that_does_not_fit_is_not_used(own: Path, rng: np.random.Generator) -> None:
    report = lg.check(dense(rng), adapter=own)
    assert not report.ok
    assert report.comparisons == ()
    assert "error: was trained on another base" in str(report)


def test_weights_from_before_exporting_are_passed_on(tmp_path: Path) -> None:
    w = weights(SHAPES)
    folder = save_peft(tmp_path / "a", pair("fc1", 2, 8, 6), lora_config())
    assert lg.check(mlp(w), adapter=folder, base_weights={"fc1.weight": w["fc1.weight"]}).ok
    other = w["fc1.weight"] + np.float32(1)
    (only,) = texts(lg.check(mlp(w), adapter=folder, base_weights={"fc1.weight": other}).findings)
    assert "is no multiple" in only
