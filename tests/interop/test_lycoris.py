"""Files of LyCORIS and kohya on small models, against what NumPy computes from their formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import lora_graph as lg
from tests.interop.models import IMAGE_SHAPES, SHAPES, Arrays, cnn, mlp, run_cnn, run_mlp, weights
from tests.interop.test_peft import check, features, images


def saved(path: Path, tensors: Arrays) -> Path:
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)
    return path


def arrays(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["lycoris", "lora_unet", "lora_te", "lora_te1", "lora"])
@pytest.mark.parametrize("alpha", [None, 1.0, 6.0])
def test_module_paths_are_written_with_underscores(
    prefix: str, alpha: float | None, rng: np.random.Generator, tmp_path: Path
) -> None:
    w, x = weights(SHAPES), features(rng)
    tensors = arrays(rng, {"lora_down.weight": (2, 8), "lora_up.weight": (8, 2)})
    if alpha is not None:
        tensors["alpha"] = np.array(alpha, np.float32)
    file = saved(tmp_path / "a.safetensors", {f"{prefix}_blocks_0_fc2.{n}": a for n, a in tensors.items()})
    adapted = lg.load_lycoris(mlp(w), file)
    scale = 1.0 if alpha is None else alpha / 2
    change = scale * tensors["lora_up.weight"].astype(np.float64) @ tensors["lora_down.weight"]
    check(adapted, x, run_mlp({**w, "blocks.0.fc2.weight": w["blocks.0.fc2.weight"] + change}, x))
    (entry,) = adapted.report.modules
    assert (entry.module, entry.weight, entry.rank, entry.scale) == ("blocks.0.fc2", "val_3", 2, scale)


@pytest.mark.parametrize("up", [(6, 2), (6, 2, 1, 1)])
def test_locon(up: tuple[int, ...], rng: np.random.Generator, tmp_path: Path) -> None:
    w, x = weights(IMAGE_SHAPES), images(rng)
    tensors = arrays(rng, {"lora_down.weight": (2, 4, 3, 3), "lora_up.weight": up})
    tensors["alpha"] = np.array(1, np.int64)
    file = saved(tmp_path / "a.safetensors", {f"lycoris_stem.{n}": a for n, a in tensors.items()})
    change = np.einsum("or,rikl->oikl", tensors["lora_up.weight"].reshape(6, 2), tensors["lora_down.weight"]) / 2
    check(lg.load_lycoris(cnn(w), file), x, run_cnn({**w, "stem.weight": w["stem.weight"] + change}, x))


def test_locon_with_a_core(rng: np.random.Generator, tmp_path: Path) -> None:
    w, x = weights(IMAGE_SHAPES), images(rng)
    shapes = {"lora_down.weight": (2, 4, 1, 1), "lora_mid.weight": (2, 2, 3, 3), "lora_up.weight": (6, 2, 1, 1)}
    tensors = arrays(rng, shapes)
    file = saved(tmp_path / "a.safetensors", {f"lycoris_stem.{n}": a for n, a in tensors.items()})
    down, mid, up = (tensors[name].astype(np.float64) for name in shapes)
    change = np.einsum("or,rskl,si->oikl", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    check(lg.load_lycoris(cnn(w), file), x, run_cnn({**w, "stem.weight": w["stem.weight"] + change}, x))


@pytest.mark.parametrize("norm", ["output", "input"])
@pytest.mark.parametrize("module", ["stem", "fc"])
def test_dora_per_output_or_per_input(module: str, norm: str, rng: np.random.Generator, tmp_path: Path) -> None:
    w, x = weights(IMAGE_SHAPES), images(rng)
    out, inner, *kernel = w[f"{module}.weight"].shape
    ones = (1,) * len(kernel)
    tensors = arrays(rng, {"lora_down.weight": (2, inner, *kernel), "lora_up.weight": (out, 2, *ones)})
    shape = (out, 1, *ones) if norm == "output" else (1, inner, *ones)
    tensors["dora_scale"] = rng.uniform(0.5, 2, shape).astype(np.float32)
    file = saved(tmp_path / "a.safetensors", {f"lycoris_{module}.{n}": a for n, a in tensors.items()})
    up, down = tensors["lora_up.weight"].reshape(out, 2), tensors["lora_down.weight"].astype(np.float64)
    total = w[f"{module}.weight"] + np.tensordot(up, down, 1)
    over = tuple(axis for axis in range(total.ndim) if axis != (0 if norm == "output" else 1))
    total *= tensors["dora_scale"] / np.sqrt((total**2).sum(over, keepdims=True))
    check(lg.load_lycoris(cnn(w), file), x, run_cnn({**w, f"{module}.weight": total}, x))


def test_norms_of_both_kinds_in_one_file(rng: np.random.Generator, tmp_path: Path) -> None:
    """They are two adapters of one family, and both take part."""
    w, x = weights(SHAPES), features(rng)
    shapes = {"fc1": (8, 6), "blocks_0_fc2": (8, 8), "mix": (5, 8)}
    tensors: Arrays = {}
    for module, (out, inner) in shapes.items():
        given = arrays(rng, {"lora_down.weight": (2, inner), "lora_up.weight": (out, 2)})
        tensors |= {f"lycoris_{module}.{name}": array for name, array in given.items()}
    tensors["lycoris_fc1.dora_scale"] = rng.uniform(0.5, 2, (8, 1)).astype(np.float32)
    tensors["lycoris_blocks_0_fc2.dora_scale"] = rng.uniform(0.5, 2, (1, 8)).astype(np.float32)
    adapted = lg.load_lycoris(mlp(w), saved(tmp_path / "a.safetensors", tensors))
    new = dict(w)
    for flat, name in (("fc1", "fc1"), ("blocks_0_fc2", "blocks.0.fc2"), ("mix", "mix")):
        up, down = (tensors[f"lycoris_{flat}.{n}.weight"].astype(np.float64) for n in ("lora_up", "lora_down"))
        total = (w["mix.weight"].T if name == "mix" else w[f"{name}.weight"]) + up @ down
        if name != "mix":
            total *= tensors[f"lycoris_{flat}.dora_scale"] / np.sqrt(
                (total**2).sum(1 if name == "fc1" else 0, keepdims=True)
            )
        new[f"{name}.weight"] = total.T if name == "mix" else total
    check(adapted, x, run_mlp(new, x))
    assert [adapter.family for adapter in adapted.adapters.values()] == ["dora", "dora", "lora"]
    assert list(adapted.adapters) == ["default", "default_dora", "default_lora"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lycoris_nothing.alpha": (2,)}, r"lycoris_nothing\.alpha has no place in the model: no module is written so"),
        ({"other_fc1.alpha": ()}, r"other_fc1\.alpha has no place in the model"),
        ({"lycoris_fc1.hada_w1_a": (8, 2)}, r"lycoris_fc1\.hada_w1_a is not one of those that belong together"),
        ({"lycoris_fc1.lora_up.weight": (8, 3)}, r"lycoris_fc1\.lora_up\.weight has shape \[8, 3\], wanted \[\*, 2\]"),
        ({"lycoris_fc1.lora_up.weight": (9, 2)}, r"fc1\.weight \[8, 6\], which does not fit a change \[9, 6\]"),
        ({"lycoris_fc1.alpha": (2,)}, r"lycoris_fc1\.alpha must be one positive number"),
        (
            {"lycoris_fc1.dora_scale": (8, 2)},
            r"lycoris_fc1\.dora_scale has shape \[8, 2\], wanted \[1, 6\] or \[8, 1\]",
        ),
        (
            {"lora_fc1.lora_up.weight": (8, 2), "lora_fc1.lora_down.weight": (2, 6)},
            r"_fc1 is fc1, which the file has under another prefix",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    change: dict[str, tuple[int, ...]], words: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    shapes = {"lycoris_fc1.lora_down.weight": (2, 6), "lycoris_fc1.lora_up.weight": (8, 2), **change}
    file = saved(tmp_path / "a.safetensors", arrays(rng, shapes))
    with pytest.raises(lg.LoadError, match=rf"a\.safetensors: .*{words}"):
        lg.load_lycoris(mlp(weights(SHAPES)), file)


def test_an_alpha_that_scales_by_nothing_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    tensors = arrays(rng, {"lora_fc1.lora_down.weight": (2, 6), "lora_fc1.lora_up.weight": (8, 2)})
    for alpha in (0.0, -2.0):
        file = saved(tmp_path / "a.safetensors", {**tensors, "lora_fc1.alpha": np.array(alpha, np.float32)})
        with pytest.raises(lg.LoadError, match=r"lora_fc1\.alpha must be one positive number"):
            lg.load_lycoris(mlp(weights(SHAPES)), file)
