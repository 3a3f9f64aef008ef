"""What cannot be read or honoured is a LoadError that names file and tensor or option; the model stays as it was."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from tests.interop.models import SHAPES, Arrays, cnn, lora_config, mlp, pair, save_peft, weights

FILE = "adapter_model.safetensors"


def refused(folder: Path, words: str, **options: Any) -> None:
    """Loading fails with these words, and leaves the model alone."""
    model = mlp(weights(SHAPES))
    before = {name: array.tobytes() for name, array in model.state.items()}
    with pytest.raises(lg.LoadError, match=words):
        lg.load_peft(model, folder, **options)
    assert {name: array.tobytes() for name, array in model.state.items()} == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("alora_invocation_tokens", [1, 2]),
        ("velora_config", {"scale": 1.0}),
        ("kasa_config", {"beta": 1}),
        ("monteclora_config", {"num_samples": 2}),
        ("arrow_config", {"top_k": 2}),
        ("target_parameters", ["experts"]),
        ("trainable_token_indices", [1]),
        ("layer_replication", [[0, 2]]),
        ("an_option_of_tomorrow", "on"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("r", 0),
        ("r", True),
        ("r", "2"),
        ("lora_alpha", 0),
        ("lora_alpha", -4),
        ("lora_alpha", None),
        ("lora_alpha", float("nan")),
        ("use_rslora", "yes"),
        ("rank_pattern", ["fc1"]),
        ("rank_pattern", {"fc1": 0}),
        ("rank_pattern", {"(a+)+$": 2}),
        ("alpha_pattern", {"((fc|fc1)){1,}x": 2}),
        ("alpha_pattern", {"fc(": 2}),
        ("alpha_pattern", {"fc1": "2"}),
        ("modules_to_save", "head"),
    ],
)
def test_options_are_refused_by_name(option: str, value: Any, tmp_path: Path) -> None:
    folder = save_peft(tmp_path / "a", pair("fc1", 2, 8, 6), lora_config(**{option: value}))
    refused(folder, rf"adapter_config\.json: .*{option}")


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "not JSON"), ("[]", "not a record"), ("[" * 100_000, "not JSON"), ("\xff", "not JSON")],
)
def test_a_config_that_is_none(text: str, words: str, tmp_path: Path) -> None:
    folder = save_peft(tmp_path / "a", pair("fc1", 2, 8, 6), lora_config())
    (folder / "adapter_config.json").write_text(text, encoding="latin-1")
    refused(folder, rf"adapter_config\.json: {words}")


TENSORS: list[tuple[Callable[[Arrays], Any], str]] = [
    (lambda t: t.pop("fc1.lora_B.weight"), r"fc1\.lora_B\.weight is missing beside lora_A\.weight"),
    (lambda t: t.pop("fc1.lora_A.weight"), r"fc1\.lora_A\.weight is missing beside lora_B\.weight"),
    (lambda t: t.update({"fc1.lora_A.weight": np.ones(6, np.float32)}), r"fc1\.lora_A\.weight has shape \[6\]"),
    (lambda t: t.update({"fc1.lora_B.weight": np.ones((8, 3), np.float32)}), r"lora_B\.weight has shape \[8, 3\]"),
    (lambda t: t.update({"fc1.lora_A.weight": np.ones((2, 7), np.float32)}), r"fc1\.weight \[8, 6\], .*change \[8, 7"),
    (lambda t: t.update({"fc1.lora_A.weight": np.ones((0, 6), np.float32)}), r"fc1\.lora_A\.weight is empty"),
    (lambda t: t.update({"fc1.lora_A.weight": np.full((2, 6), np.nan, np.float32)}), r"fc1\.lora_A\.weight .*finite"),
    (lambda t: t.update({"fc1.lora_A.weight": np.full((2, 6), 1e300)}), r"fc1\.lora_A\.weight .*finite as float32"),
    (lambda t: t.update({"fc1.lora_A.weight": np.ones((2, 6), bool)}), r"fc1\.lora_A\.weight must be an array of numb"),
    (lambda t: t.update({"fc1.lora_B.bias": np.ones(7, np.float32)}), r"fc1\.lora_B\.bias has shape \[7\]"),
    (lambda t: t.update({"fc1.lokr_w1": np.ones((2, 2), np.float32)}), r"fc1\.\w+.* is not one of those"),
    (lambda t: t.update({"fc1.lora_C": np.ones(2, np.float32)}), r"fc1\.lora_C has no place in the model"),
    (lambda t: t.update({"nothing.weight": np.ones(2, np.float32)}), r"nothing\.weight has no place in the model"),
    (lambda t: t.update({"norm.weight": np.ones(9, np.float32)}), r"norm\.weight has shape \[9\], but norm\.weight"),
    (lambda t: t.update(pair("fc9", 2, 8, 6)), r"fc9\.lora_A\.weight has no place in the model: .*nearest: fc1"),
    (lambda t: t.update(pair("0.fc2", 2, 8, 8) | pair("fc2", 2, 8, 8)), r"are both found to be val_3"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), TENSORS, ids=[words for _, words in TENSORS])
def test_tensors_are_refused_by_name(change: Callable[[Arrays], Any], words: str, tmp_path: Path) -> None:
    tensors = pair("fc1", 2, 8, 6)
    change(tensors)
    refused(save_peft(tmp_path / "a", tensors, lora_config()), rf"adapter_model\.safetensors: .*{words}")


def test_names_without_their_prefix(tmp_path: Path) -> None:
    folder = save_peft(tmp_path / "a", {}, lora_config())
    lg.DenseLayer(2, 2).save_weights(folder / FILE)
    refused(folder, r"adapter_model\.safetensors: bias does not begin with 'base_model\.model\.'")


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        text = change(header) or json.dumps(header)
        return len(text.encode()).to_bytes(8, "little") + text.encode() + content[8 + size :]

    return changed


NAME = "base_model.model.fc1.lora_A.weight"
BROKEN: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("truncated", lambda c: c[:-4], "not a safetensors file"),
    ("cut in its header", lambda c: c[:40], "shorter than its header says"),
    ("empty", lambda c: b"", "not a safetensors file"),
    ("a header of gigabytes", lambda c: (1 << 40).to_bytes(8, "little") + c[8:], "shorter than its header says"),
    ("more than its tensors", lambda c: c + b"\0" * 8, "not a safetensors file"),
    ("offsets outside", with_header(lambda h: h[NAME].update(data_offsets=[0, 1 << 40])), "not a safetensors file"),
    ("a shape of terabytes", with_header(lambda h: h[NAME].update(shape=[1 << 40, 6])), "not a safetensors file"),
    ("twice", with_header(lambda h: f'{json.dumps(h)[:-1]}, "{NAME}": {json.dumps(h[NAME])}}}'), r"lora_A.* twice"),
    ("no JSON", with_header(lambda h: "{" * 9), "its header is no JSON"),
    ("a kind that is not read", with_header(lambda h: h[NAME].update(dtype="F8_E4M3", shape=[8, 6])), "A.*F8_E4M3"),
    ("a pickle under this name", lambda c: pickle.dumps({"a": 1}), "not a safetensors file"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_broken_files(damage: Callable[[bytes], bytes], words: str, tmp_path: Path) -> None:
    folder = save_peft(tmp_path / "a", pair("fc1", 2, 8, 6), lora_config())
    (folder / FILE).write_bytes(damage((folder / FILE).read_bytes()))
    refused(folder, rf"adapter_model\.safetensors: .*{words}")


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "opened",)

    folder = save_peft(tmp_path / "a", pair("fc1", 2, 8, 6), lora_config())
    (folder / FILE).unlink()
    refused(folder, r"adapter_model\.safetensors: cannot be read")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(folder, r"adapter_model\.bin: a pickle may run any code and is never read")
    with pytest.raises(lg.LoadError, match=r"adapter_model\.bin: a pickle"):
        lg.load_lycoris(mlp(weights(SHAPES)), folder / "adapter_model.bin")
    assert not (tmp_path / "opened").exists()


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    refused(tmp_path, r"adapter_config\.json: cannot be read")
    with pytest.raises(lg.LoadError, match="cannot be read"):
        lg.load_lycoris(mlp(weights(SHAPES)), tmp_path / "no.safetensors")
    folder = save_peft(tmp_path / "a", pair("fc1", 2, 8, 6), lora_config())
    refused(folder / FILE, "a file; PEFT saves a folder")
    for path, words in ((folder, "a folder; lg.load_peft reads those"), (folder / FILE, "give the folder that both")):
        with pytest.raises(lg.LoadError, match=words):
            lg.load_lycoris(mlp(weights(SHAPES)), path)
    for load in (lg.load_peft, lg.load_lycoris):
        with pytest.raises(TypeError, match="model must be a Layer"):
            load("base.onnx", tmp_path)  # type: ignore[operator]


def test_base_weights_must_be_arrays_by_name(tmp_path: Path) -> None:
    folder = save_peft(tmp_path / "a", pair("fc1", 2, 8, 6), lora_config())
    for given in ([1.0], {1: np.ones(2)}):
        with pytest.raises(TypeError, match="base_weights must map names"):
            lg.load_peft(mlp(weights(SHAPES)), folder, base_weights=given)  # type: ignore[arg-type]
    w = weights(SHAPES)["fc1.weight"]
    refused(folder, r"base_weights: fc1\.weight .*not finite", base_weights={"fc1.weight": w * np.nan})
    refused(folder, r"base_weights: fc1\.weight has \[6, 8\]", base_weights={"fc1.weight": 2 * w.T})
    refused(folder, r"base_weights: fc1\.weight is no multiple", base_weights={"fc1.weight": w + 1})


def test_an_initialization_that_a_module_cannot_have(tmp_path: Path) -> None:
    images = weights(
        {"stem.weight": (6, 4, 3, 3), "stem.bias": (6,), "grouped.weight": (8, 3, 3, 3), "fc.weight": (5, 8)}
    )
    folder = save_peft(tmp_path / "a", pair("stem", 2, 6, 4, 3, 3), lora_config(init_lora_weights="pissa"))
    with pytest.raises(lg.LoadError, match="init_lora_weights = 'pissa' cannot be honoured at stem"):
        lg.load_peft(cnn(images), folder)
    config = lora_config(init_lora_weights="olora", fan_in_fan_out=True)
    refused(save_peft(tmp_path / "b", pair("mix", 2, 5, 8), config), "'olora' cannot be honoured at mix")


def test_modules_that_look_alike_are_told_apart_by_their_values(rng: np.random.Generator, tmp_path: Path) -> None:
    """fc2 is the end of both names; given the weights, it is the one that has them."""
    first, second = (lg.FullyConnectedLayer(4, 4, rng=seed) for seed in (1, 2))
    model = Twins(first, second)
    folder = save_peft(tmp_path / "a", pair("fc2", 2, 4, 4), lora_config())
    with pytest.raises(lg.LoadError, match=r"may be any of a\.fc2\.weight, b\.fc2\.weight"):
        lg.load_peft(model, folder)
    for name, layer in (("a.fc2.weight", first), ("b.fc2.weight", second)):
        adapted = lg.load_peft(model, folder, base_weights={"fc2.weight": layer.get_parameter("weight")})
        assert adapted.report.modules[0].weight == name
        assert "value" in adapted.report.modules[0].found_by


class Twins(lg.Layer):
    """b.fc2(a.fc2(x))."""

    def __init__(self, first: lg.Layer, second: lg.Layer) -> None:
        super().__init__(input_shape=(4,), output_shape=(4,))
        self.first = self.add_child("a", Holder(first))
        self.second = self.add_child("b", Holder(second))

    def build(self, ctx: Any, x: Any) -> Any:
        return ctx.call(self.second, ctx.call(self.first, x))


class Holder(lg.Layer):
    def __init__(self, layer: lg.Layer) -> None:
        super().__init__(input_shape=(4,), output_shape=(4,))
        self.layer = self.add_child("fc2", layer)

    def build(self, ctx: Any, x: Any) -> Any:
        return ctx.call(self.layer, x)
