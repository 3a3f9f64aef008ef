"""PEFT directories on small models, against what NumPy computes from PEFT's formulas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from tests.interop import models
from tests.interop.models import (
    IMAGE_SHAPES,
    SHAPES,
    TIED_SHAPES,
    Arrays,
    cnn,
    lora_config,
    mlp,
    pair,
    product,
    run_cnn,
    run_mlp,
    run_tied,
    save_peft,
    tied,
    weights,
)

MODULES = {"fc1": (8, 6), "blocks.0.fc2": (8, 8), "mix": (5, 8)}


def features(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(7, 6)).astype(np.float32)


def images(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(3, 4, 7, 7)).astype(np.float32)


def pairs(rank: int = 2) -> Arrays:
    found: Arrays = {}
    for seed, (module, (out, inner)) in enumerate(MODULES.items()):
        found |= pair(module, rank, out, inner, seed=seed)
    return found


def changed(w: Arrays, tensors: Arrays, scale: dict[str, float]) -> Arrays:
    """The weights with their changes; that of a Conv1D is the other way round."""
    new = {f"{m}.weight": w[f"{m}.weight"] + s * product(tensors, m) for m, s in scale.items() if m != "mix"}
    if "mix" in scale:
        new["mix.weight"] = w["mix.weight"] + scale["mix"] * product(tensors, "mix").T
    return {**w, **new}


def check(adapted: lg.AdaptedModel, x: np.ndarray, expected: np.ndarray, *, merges: bool = True) -> None:
    """Interpreter, ONNX Runtime, and merged in ONNX Runtime."""
    bound = 1e-5 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(adapted.eval().forward(x), expected, atol=bound, rtol=0)
    for form in ("parallel", "merged") if merges else ("parallel",):
        np.testing.assert_allclose(lg.Session(lg.export_onnx(adapted, form=form)).run(x), expected, atol=bound, rtol=0)


def test_every_spelling_of_a_linear_layer(rng: np.random.Generator, tmp_path: Path) -> None:
    w, tensors, x = weights(SHAPES), pairs(), features(rng)
    model = mlp(w)
    adapted = lg.load_peft(model, save_peft(tmp_path / "a", tensors, lora_config()))
    check(adapted, x, run_mlp(changed(w, tensors, dict.fromkeys(MODULES, 3.0)), x))
    entries = {entry.module: entry for entry in adapted.report.modules}
    assert {module: entry.weight for module, entry in entries.items()} == {
        "fc1": "fc1.weight",
        "blocks.0.fc2": "val_3",
        "mix": "mix.weight",
    }
    assert entries["fc1"].found_by == ("name", "bias")
    assert entries["blocks.0.fc2"].found_by == ("scope", "bias")
    assert [entries[module].layout for module in MODULES] == ["out, in", "in, out", "in, out"]
    assert re.search(r"blocks\.0\.fc2 +val_3 +\[8, 8\] +in, out +lora +2 +3 +scope, bias", str(adapted.report))
    np.testing.assert_allclose(model.forward(x), run_mlp(w, x), atol=1e-4)
    assert set(adapted.trainable_parameters()) == {
        f"default.lora_{label}.{matrix}" for label in ("fc1_weight", "val_3", "mix_weight") for matrix in "AB"
    }


def test_it_trains_from_where_it_was(rng: np.random.Generator, tmp_path: Path) -> None:
    w, tensors, x = weights(SHAPES), pairs(), features(rng)
    adapted = lg.load_peft(mlp(w), save_peft(tmp_path / "a", tensors, lora_config()))
    history = lg.fit(adapted, (x, rng.normal(size=(7, 5))), optimizer=lg.Adam(1e-2), epochs=5)
    assert history.epoch_losses[-1] < history.epoch_losses[0]
    np.testing.assert_array_equal(adapted.base.get_parameter("fc1.weight"), w["fc1.weight"])


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"use_rslora": True}, dict.fromkeys(MODULES, 6 / np.sqrt(2))),
        ({"alpha_pattern": {"fc2": 5, "blocks.0.fc2": 7}}, {"fc1": 3.0, "blocks.0.fc2": 2.5, "mix": 3.0}),
        ({"alpha_pattern": {r"^fc\d": 4, r".*fc2": 1, "mi": 9}}, {"fc1": 2.0, "blocks.0.fc2": 0.5, "mix": 3.0}),
        ({"rank_pattern": {"fc1": 2}, "r": 64}, dict.fromkeys(MODULES, 3.0)),
    ],
)
def test_scales(options: dict[str, Any], scale: dict[str, float], rng: np.random.Generator, tmp_path: Path) -> None:
    w, tensors, x = weights(SHAPES), pairs(), features(rng)
    adapted = lg.load_peft(mlp(w), save_peft(tmp_path / "a", tensors, lora_config(**options)))
    check(adapted, x, run_mlp(changed(w, tensors, scale), x))


def test_ranks_differ_and_may_be_wide(rng: np.random.Generator, tmp_path: Path) -> None:
    w, x = weights(SHAPES), features(rng)
    tensors = pair("fc1", 20, 8, 6) | pair("mix", 1, 5, 8)
    adapted = lg.load_peft(mlp(w), save_peft(tmp_path / "a", tensors, lora_config()))
    check(adapted, x, run_mlp(changed(w, tensors, {"fc1": 6 / 20, "mix": 6.0}), x))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_other_precisions(dtype: str, rng: np.random.Generator, tmp_path: Path) -> None:
    w, x = weights(SHAPES), features(rng)
    exact = {name: np.round(array * 8) / 8 for name, array in pairs().items()}  # every precision holds these
    kinds = {"F16": np.float16, "F64": np.float64, "BF16": np.float32}
    folder = save_peft(tmp_path / "a", {n: a.astype(kinds[dtype]) for n, a in exact.items()}, lora_config())
    if dtype == "BF16":
        write_bfloat16(folder / "adapter_model.safetensors", exact)
    adapted = lg.load_peft(mlp(w), folder)
    check(adapted, x, run_mlp(changed(w, exact, dict.fromkeys(MODULES, 3.0)), x))


def write_bfloat16(path: Path, tensors: Arrays) -> None:
    """A safetensors file of the upper halves of float32."""
    import json

    header, content = {}, b""
    for name, array in tensors.items():
        data = (array.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
        offsets = [len(content), len(content) + len(data)]
        header[f"base_model.model.{name}"] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": offsets}
        content += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


def test_biases_and_whole_modules_replace_those_of_the_base(rng: np.random.Generator, tmp_path: Path) -> None:
    w, x = weights(SHAPES), features(rng)
    new = weights({name: SHAPES[name] for name in SHAPES if name != "fc1.weight"}, seed=5)
    tensors = pair("fc1", 2, 8, 6)
    stored = {
        "fc1.base_layer.bias": new["fc1.bias"],
        "blocks.0.fc2.weight": new["blocks.0.fc2.weight"],
        "blocks.0.fc2.bias": new["blocks.0.fc2.bias"],
        "norm.weight": new["norm.weight"],
        "norm.modules_to_save.bias": new["norm.bias"],
        "norm.original_module.bias": w["norm.bias"],
        "norm.bias": new["norm.bias"],
        "mix.weight": new["mix.weight"],
        "mix.bias": new["mix.bias"],
    }
    config = lora_config(bias="all", modules_to_save=["norm", "fc2", "mix"])
    model = mlp(w)
    adapted = lg.load_peft(model, save_peft(tmp_path / "a", {**tensors, **stored}, config))
    check(adapted, x, run_mlp(changed({**w, **new}, tensors, {"fc1": 3.0}), x))
    np.testing.assert_allclose(model.forward(x), run_mlp(w, x), atol=1e-4)
    assert {name for name in adapted.trainable_parameters() if name.startswith("base.")} == {
        "base.fc1.bias",
        "base.val_3",
        "base.blocks.0.fc2.bias",
        "base.norm.weight",
        "base.norm.bias",
        "base.mix.weight",
        "base.mix.bias",
    }


def test_a_bias_of_the_pair(rng: np.random.Generator, tmp_path: Path) -> None:
    w, x, tensors = weights(SHAPES), features(rng), pairs()
    biases = {m: rng.normal(size=out).astype(np.float32) for m, (out, _) in MODULES.items()}
    stored = {**tensors, **{f"{m}.lora_B.bias": bias for m, bias in biases.items()}}
    adapted = lg.load_peft(mlp(w), save_peft(tmp_path / "a", stored, lora_config(lora_bias=True)))
    moved = {f"{m}.bias": w[f"{m}.bias"] + 3.0 * bias for m, bias in biases.items()}
    check(adapted, x, run_mlp({**changed(w, tensors, dict.fromkeys(MODULES, 3.0)), **moved}, x))


@pytest.mark.parametrize("shape", [(8,), (1, 8)])
def test_dora(shape: tuple[int, ...], rng: np.random.Generator, tmp_path: Path) -> None:
    w, x, tensors = weights(SHAPES), features(rng), pair("fc1", 2, 8, 6)
    magnitude = rng.uniform(0.5, 2, 8).astype(np.float32)
    name = "fc1.lora_magnitude_vector" + (".weight" if len(shape) > 1 else "")
    folder = save_peft(tmp_path / "a", {**tensors, name: magnitude.reshape(shape)}, lora_config(use_dora=True))
    if len(shape) > 1:
        with pytest.raises(lg.LoadError, match=r"fc1\.lora_magnitude_vector has shape \[1, 8\], wanted \[8\]"):
            lg.load_peft(mlp(w), folder)
        return
    total = w["fc1.weight"] + 3.0 * product(tensors, "fc1")
    total *= (magnitude / np.linalg.norm(total, axis=1))[:, None]
    check(lg.load_peft(mlp(w), folder), x, run_mlp({**w, "fc1.weight": total}, x))
    folder = save_peft(tmp_path / "a", tensors, lora_config(use_dora=True))
    with pytest.raises(lg.LoadError, match=r"fc1\.lora_magnitude_vector is missing"):
        lg.load_peft(mlp(w), folder)


@pytest.mark.parametrize("how", ["pissa", "olora"])
def test_initializations_that_change_the_base(how: str, rng: np.random.Generator, tmp_path: Path) -> None:
    w, x, tensors = weights(SHAPES), features(rng), pair("fc1", 2, 8, 6) | pair("blocks.0.fc2", 2, 8, 8)
    adapted = lg.load_peft(mlp(w), save_peft(tmp_path / "a", tensors, lora_config(init_lora_weights=how)))
    left = dict(w)
    for module in ("fc1", "blocks.0.fc2"):
        exact = w[f"{module}.weight"].astype(np.float64)
        if how == "pissa":
            u, s, v = np.linalg.svd(exact)
            taken = u[:, :2] @ np.diag(s[:2]) @ v[:2]
        else:
            q, r = np.linalg.qr(exact)
            taken = 3.0 * q[:, :2] @ r[:2]
        left[f"{module}.weight"] = exact - taken
    check(adapted, x, run_mlp(changed(left, tensors, {"fc1": 3.0, "blocks.0.fc2": 3.0}), x))
    assert not any(name.startswith("base.") for name in adapted.trainable_parameters())
    adapted.save_adapter(tmp_path / "own.safetensors")
    again = lg.AdaptedModel(mlp(w))
    again.load_adapter(tmp_path / "own.safetensors")
    np.testing.assert_array_equal(again.eval().forward(x), adapted.forward(x))


def test_convolutions(rng: np.random.Generator, tmp_path: Path) -> None:
    w, x = weights(IMAGE_SHAPES), images(rng)
    tensors = pair("stem", 2, 6, 4, 3, 3) | pair("fc", 2, 5, 8)
    adapted = lg.load_peft(cnn(w), save_peft(tmp_path / "a", tensors, lora_config()))
    new = {f"{m}.weight": w[f"{m}.weight"] + 3.0 * product(tensors, m) for m in ("stem", "fc")}
    check(adapted, x, run_cnn({**w, **new}, x))


def test_the_pair_of_a_grouped_convolution_is_dense(rng: np.random.Generator, tmp_path: Path) -> None:
    w, x = weights(IMAGE_SHAPES), images(rng)
    a = rng.normal(size=(4, 6, 3, 3)).astype(np.float32)
    b = rng.normal(size=(8, 2, 1, 1)).astype(np.float32)
    stored = {"grouped.lora_A.weight": a, "grouped.lora_B.weight": b}
    adapted = lg.load_peft(cnn(w), save_peft(tmp_path / "a", stored, lora_config(r=4)))

    def grouped(h: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        inside = models.convolved(h, a)
        return models.in_groups(h, kernel, 2) + 1.5 * models.in_groups(inside, b, 2)

    check(adapted, x, run_cnn(w, x, grouped), merges=False)
    with pytest.raises(lg.MergeError):
        adapted.merge()


@pytest.mark.parametrize("one_name", [False, True])
@pytest.mark.parametrize("module", ["emb", "head"])
def test_a_tied_table_is_adapted_where_it_is_asked(
    module: str, one_name: bool, rng: np.random.Generator, tmp_path: Path
) -> None:
    table = weights(TIED_SHAPES)["emb.weight"]
    w, x = {"emb.weight": table, "head.weight": table}, rng.integers(0, 9, (4, 3))
    if module == "head":
        tensors = pair("head", 2, 9, 8)
        change = product(tensors, "head")
    else:
        a, b = rng.normal(size=(2, 9)).astype(np.float32), rng.normal(size=(8, 2)).astype(np.float32)
        tensors = {"emb.lora_embedding_A": a, "emb.lora_embedding_B": b}
        change = (b.astype(np.float64) @ a).T
    adapted = lg.load_peft(tied(w, one_name=one_name), save_peft(tmp_path / "a", tensors, lora_config()))
    check(adapted, x, run_tied({**w, f"{module}.weight": table + 3.0 * change}, x))


@pytest.mark.parametrize("one_name", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_a_new_table_takes_both_places_unless_it_was_copied(
    own: bool, one_name: bool, rng: np.random.Generator, tmp_path: Path
) -> None:
    table, new = weights(TIED_SHAPES)["emb.weight"], weights(TIED_SHAPES, seed=3)["emb.weight"]
    w, x, tensors = {"emb.weight": table, "head.weight": table}, rng.integers(0, 9, (4, 3)), pair("head", 2, 9, 8)
    stored = {**tensors, "head.base_layer.weight" if not own else "emb.weight": new}
    config = lora_config(modules_to_save=["emb"] if own else None)
    adapted = lg.load_peft(tied(w, one_name=one_name), save_peft(tmp_path / "a", stored, config))
    base = {"emb.weight": new, "head.weight": table if own else new}
    check(adapted, x, run_tied({**base, "head.weight": base["head.weight"] + 3.0 * product(tensors, "head")}, x))


def test_a_table_that_was_only_kept_stays(rng: np.random.Generator, tmp_path: Path) -> None:
    table = weights(TIED_SHAPES)["emb.weight"]
    w, tensors = {"emb.weight": table, "head.weight": table}, pair("head", 2, 9, 8)
    folder = save_peft(tmp_path / "a", {**tensors, "head.base_layer.weight": table}, lora_config())
    adapted = lg.load_peft(tied(w, one_name=False), folder)
    assert not any(name.startswith("base.") for name in adapted.trainable_parameters())
    assert "as it is" in str(adapted.report)
