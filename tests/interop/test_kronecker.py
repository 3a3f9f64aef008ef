"""LoKr in PEFT directories and LyCORIS files on a small model, against NumPy's Kronecker product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import lora_graph as lg
from tests.interop.models import IMAGE_SHAPES, Arrays, cnn, run_cnn, save_peft, weights
from tests.interop.test_peft import check, images

Shapes = dict[str, tuple[int, ...]]
FORMS: list[tuple[str, Shapes]] = [
    ("fc", {"lokr_w1": (5, 2), "lokr_w2": (1, 4)}),
    ("fc", {"lokr_w1": (1, 4), "lokr_w2_a": (5, 2), "lokr_w2_b": (2, 2)}),
    ("fc", {"lokr_w1_a": (5, 3), "lokr_w1_b": (3, 4), "lokr_w2_a": (1, 3), "lokr_w2_b": (3, 2)}),
    ("stem", {"lokr_w1": (3, 2), "lokr_w2": (2, 2, 3, 3)}),
    ("stem", {"lokr_w1": (3, 2), "lokr_w2_a": (2, 2), "lokr_w2_b": (2, 2 * 9)}),
    ("stem", {"lokr_w1": (3, 2), "lokr_t2": (2, 2, 3, 3), "lokr_w2_a": (2, 2), "lokr_w2_b": (2, 2)}),
    ("stem", {"lokr_w1_a": (3, 2), "lokr_w1_b": (2, 4), "lokr_w2_a": (2, 2), "lokr_w2_b": (2, 9)}),
]


def change(tensors: Arrays, shape: tuple[int, ...]) -> np.ndarray:
    """w1 ⊗ w2 in the shape of the weight."""
    t = {name: array.astype(np.float64) for name, array in tensors.items()}
    first = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        second = t["lokr_w2"]
    elif "lokr_t2" in t:
        second = np.einsum("ijkl,ip,jr->prkl", t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:
        second = t["lokr_w2_a"] @ t["lokr_w2_b"]
    flat = np.kron(first, second.reshape(len(second), -1, *shape[2:]).transpose(2, 3, 0, 1) if shape[2:] else second)
    return flat.transpose(2, 3, 0, 1) if shape[2:] else flat


def drawn(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(("module", "shapes"), FORMS)
def test_of_peft(module: str, shapes: Shapes, rng: np.random.Generator, tmp_path: Path) -> None:
    """PEFT scales by alpha / r, whichever the form; r is that of the option where no shape tells it."""
    w, x, tensors = weights(IMAGE_SHAPES), images(rng), drawn(rng, shapes)
    config = {"peft_type": "LOKR", "r": 8, "alpha": 6, "decompose_both": True, "rank_pattern": {"nothing": 3}}
    folder = save_peft(tmp_path / "a", {f"{module}.{name}": array for name, array in tensors.items()}, config)
    rank = next((len(tensors[name]) for name in ("lokr_w2_b", "lokr_w1_b") if name in tensors), 8)
    total = w[f"{module}.weight"] + 6 / rank * change(tensors, w[f"{module}.weight"].shape)
    adapted = lg.load_peft(cnn(w), folder)
    check(adapted, x, run_cnn({**w, f"{module}.weight": total}, x))
    adapted.save_adapter(tmp_path / "own.safetensors")
    again = lg.AdaptedModel(cnn(w))
    again.load_adapter(tmp_path / "own.safetensors")
    np.testing.assert_array_equal(again.eval().forward(x), adapted.forward(x))


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize(("module", "shapes"), FORMS)
def test_of_lycoris(module: str, shapes: Shapes, alpha: float | None, rng: np.random.Generator, tmp_path: Path) -> None:
    """LyCORIS scales by alpha / r only where a factor is in parts."""
    w, x, tensors = weights(IMAGE_SHAPES), images(rng), drawn(rng, shapes)
    stored = {f"lycoris_{module}.{name}": array for name, array in tensors.items()}
    if alpha is not None:
        stored[f"lycoris_{module}.alpha"] = np.array(alpha, np.float32)
    save_file(stored, tmp_path / "a.safetensors")
    rank = next((len(tensors[name]) for name in ("lokr_w2_b", "lokr_w1_b") if name in tensors), None)
    scale = alpha / rank if alpha and rank else 1.0
    total = w[f"{module}.weight"] + scale * change(tensors, w[f"{module}.weight"].shape)
    check(lg.load_lycoris(cnn(w), tmp_path / "a.safetensors"), x, run_cnn({**w, f"{module}.weight": total}, x))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"lokr_w1": (5, 2)}, r"fc\.lokr_w2_a is missing beside lokr_w1"),
        ({"lokr_w1": (5, 2), "lokr_w2": (1, 4), "lokr_w2_b": (1, 4)}, r"fc\.lokr_w2_b cannot stand beside lokr_w2"),
        ({"lokr_w1": (5, 2), "lokr_w2": (1, 3)}, r"fc\.weight \[5, 8\], which does not fit a change \[5, 6\]"),
        ({"lokr_w1": (5, 2), "lokr_w2_a": (1, 2), "lokr_w2_b": (3, 4)}, r"fc\.lokr_w2_b has shape \[3, 4\]"),
        ({"lokr_w1": (5, 2), "lokr_w2": (1, 4), "dora_scale": (5, 1)}, r"fc\.dora_scale is not one of those"),
        ({"lokr_w1": (5,), "lokr_w2": (1, 4)}, r"fc\.lokr_w1 has shape \[5\]"),
    ],
)
def test_what_does_not_fit_is_refused(shapes: Shapes, words: str, rng: np.random.Generator, tmp_path: Path) -> None:
    save_file({f"lycoris_fc.{n}": a for n, a in drawn(rng, shapes).items()}, tmp_path / "a.safetensors")
    with pytest.raises(lg.LoadError, match=rf"a\.safetensors: lycoris_.*{words}"):
        lg.load_lycoris(cnn(weights(IMAGE_SHAPES)), tmp_path / "a.safetensors")
