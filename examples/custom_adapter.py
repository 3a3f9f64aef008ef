"""A layer and an adapter family of one's own: trained, merged and exported without touching the library.

    python examples/custom_adapter.py

The family is VeRA (Kopiczko et al., 2024, arXiv:2310.11454): A and B are random and fixed, two vectors are trained.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import lora_graph as lg


class Residual(lg.Layer):
    """y = x + tanh(x W)"""

    def __init__(self, size: int, rng: int):
        super().__init__(input_shape=(size,), output_shape=(size,), rng=rng)
        self.add_parameter("weight", self.rng.normal(0, size**-0.5, (size, size)))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return x + lg.ops.tanh(x @ ctx.param("weight"))


class VeRA(lg.Adapter):
    """ΔW = (A ⊙ d) (B ⊙ b) with A and B fixed."""

    family = "vera"

    def create_branch(self, name: str, site: lg.Site) -> lg.Layer:
        in_features, out_features = site.in_features, site.out_features
        branch = lg.Layer(input_shape=(in_features,), output_shape=(out_features,), dtype=self.dtype)
        branch.add_parameter("A", self.rng.normal(0, in_features**-0.5, (in_features, self.rank)), trainable=False)
        branch.add_parameter("B", self.rng.normal(0, self.rank**-0.5, (self.rank, out_features)), trainable=False)
        branch.add_parameter("d", np.full(self.rank, 0.1))
        branch.add_parameter("b", np.zeros(out_features))
        return branch

    def delta(self, ctx: lg.Context, name: str, branch: lg.Layer, h: lg.Value) -> lg.Value:
        own = ctx.of(branch)
        return (h @ own.param("A") * own.param("d")) @ own.param("B") * own.param("b")


def main() -> None:
    rng = np.random.default_rng(0)
    base = Residual(16, rng=1)
    teacher = Residual(16, rng=1)
    teacher.set_parameter("weight", base.get_parameter("weight") * (1 + 0.5 * rng.normal(size=16)))
    x = rng.normal(size=(512, 16)).astype(np.float32)
    target = teacher.forward(x)

    adapter = VeRA(base, rank=32, site="weight", rng=2)
    history = lg.fit(adapter, (x, target), optimizer=lg.Adam(1e-2), epochs=60)
    print(f"{adapter.parameter_count} trained numbers: {history}")

    merged = adapter.eval().merge_to_original_layer()
    print(f"merged into a {type(merged).__name__}: largest difference {np.abs(merged(x) - adapter(x)).max():.1e}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vera.onnx")
        lg.export_onnx(adapter, path, form="merged")
        print(f"in ONNX Runtime: largest difference {np.abs(lg.Session(path).run(x) - adapter(x)).max():.1e}")


if __name__ == "__main__":
    main()
