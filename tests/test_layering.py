"""Data flows down only: a module imports from its own layer or those above it, and heavy packages when first used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "lora_graph"
BASIS = {"version", "errors", "files", "garbage", "checks", "data", "display"}
LAYERS = [
    BASIS,
    {"ir"},
    {"ops"},
    {"autodiff", "interpret", "rewrite"},
    {"layers", "adapters", "onnx", "train"},
    {"interop", "inspect"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
HEAVY = ["onnx", "onnxruntime", "onnx_ir", "onnxscript", "scipy", "rich", "click"]


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from runtime_nodes(child)


def imported(path: Path) -> Iterator[str]:
    """The first component below lora_graph of whatever ``path`` imports, inside functions too."""
    for node in runtime_nodes(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("lora_graph."))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_from_its_level_or_above(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in LEVEL, f"{own} has no place in the layers of DESIGN"
    below = {name for name in imported(path) if LEVEL.get(name, len(LAYERS)) > LEVEL[own]}
    assert not below, f"{path.relative_to(ROOT)} imports from below: {sorted(below)}"


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = f"import sys, lora_graph, lora_graph.ops; print([m for m in {HEAVY} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
