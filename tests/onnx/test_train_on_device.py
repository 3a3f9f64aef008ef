"""The example that trains where there is only ONNX Runtime: in Python, and in JavaScript under Node."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "train_on_device"
WEB = ROOT / "tests" / "onnx" / "web"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("device")
    subprocess.run([sys.executable, EXAMPLE / "export.py", made], cwd=ROOT, check=True, timeout=300)
    return made


def accuracies(command: list[object], where: Path) -> list[float]:
    done = subprocess.run([str(part) for part in command], cwd=where, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [float(number) for number in re.findall(r"([\d.]+)%", done.stdout)]


def test_in_python(folder: Path) -> None:
    before, *after = accuracies([sys.executable, EXAMPLE / "train.py", folder], ROOT)
    assert before < 30
    assert len(after) == 10
    assert after[-1] > 80
    assert (folder / "state.npz").stat().st_size > 0


def test_it_imports_numpy_and_onnxruntime_only() -> None:
    imports = [node for node in ast.walk(ast.parse((EXAMPLE / "train.py").read_text())) if isinstance(node, ast.Import)]
    assert {alias.name for node in imports for alias in node.names} == {"sys", "numpy", "onnxruntime"}


@pytest.mark.skipif(
    shutil.which("node") is None or not (WEB / "node_modules" / "onnxruntime-web").is_dir(),
    reason="needs node, and onnxruntime-web: npm install --prefix tests/onnx/web",
)
def test_in_javascript(folder: Path) -> None:
    before, *after = accuracies(["node", EXAMPLE / "train.mjs", folder, 4], WEB)
    assert before < 30
    assert len(after) == 4
    assert after[-1] > 60
