"""What commands are called on: a base of two dense layers as a file, and a run with an adapter on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.adapters.runs import create
from tests.onnx.forms.models import adapted, dense


@pytest.fixture
def base(rng: np.random.Generator, tmp_path: Path) -> Path:
    path = tmp_path / "base.onnx"
    lg.export_onnx(dense(rng), path)
    return path


@pytest.fixture
def run(base: Path, rng: np.random.Generator, tmp_path: Path) -> Path:
    create(tmp_path / "run", base, adapted(lg.load_onnx(base), "lora", rng), [])
    return tmp_path / "run"
