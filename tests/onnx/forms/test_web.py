"""The web form in onnxruntime-web, under Node (``npm install --prefix tests/onnx/web``)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.layers.weights import read_safetensors
from tests.onnx.forms.models import adapted, convolutional, dense, images, numbers

FOLDER = Path(__file__).parents[1] / "web"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (FOLDER / "node_modules" / "onnxruntime-web").is_dir(),
    reason="needs node, and onnxruntime-web: npm install --prefix tests/onnx/web",
)


def run_in_node(model: Path, feeds: list[dict[str, Any]]) -> list[Any]:
    """The output of the model for each set of inputs."""
    written = [
        {name: {"data": array.ravel().tolist(), "dims": list(array.shape)} for name, array in feed.items()}
        for feed in feeds
    ]
    path = model.with_suffix(".json")
    path.write_text(json.dumps(written))
    command = ["node", str(FOLDER / "run.cjs"), str(model), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    return [np.asarray(result["y"]["data"], np.float32).reshape(result["y"]["dims"]) for result in found]


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_adapters_of_any_rank_run_in_the_browsers_runtime(kind: str, rng: np.random.Generator, tmp_path: Path) -> None:
    make, draw = {"dense": (dense, numbers), "convolution": (convolutional, images)}[kind]
    base = make(rng)
    x = draw(rng, 3)
    path = tmp_path / "model.onnx"
    models = [adapted(base, "lora", rng, rank) for rank in (1, 4)]
    lg.export_onnx(models[0], path, form="web")
    feeds = []
    for index, model in enumerate(models):
        lg.export_adapter(model, tmp_path / f"{index}.safetensors", form="web")
        feeds.append({"x": x, **read_safetensors(tmp_path / f"{index}.safetensors")})
    if kind == "dense":
        empty = {name: array[:, :0] if name.endswith("A") else array[:0] for name, array in feeds[0].items()}
        feeds.append({**empty, "x": x})
    else:
        feeds.append({**{name: np.zeros_like(array) for name, array in feeds[0].items()}, "x": x})
    found = run_in_node(path, feeds)
    for y, layer in zip(found, [*models, base], strict=True):
        np.testing.assert_allclose(y, layer.forward(x), rtol=1e-4, atol=1e-5)
