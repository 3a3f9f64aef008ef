"""A layer of one's own: adapted adapter and beside, trained, merged, exported and run.

    python examples/custom_layer.py

The layer is a gated block over a sequence (Dauphin et al., 2017, arXiv:1612.08083): a causal convolution over time
whose result passes through gates.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import lora_graph as lg


class GatedConvolution(lg.Layer):
    """y = x + (x ∗ A) ⊙ σ(x ∗ B) with causal windows over time; x and y are [batch, time, features]."""

    def __init__(self, features: int, window: int = 3, rng: int = 0):
        super().__init__(input_shape=("time", features), output_shape=("time", features), rng=rng)
        self.window = window
        for name in ("value", "gate"):
            scale = (features * window) ** -0.5
            self.add_parameter(name, self.rng.normal(0, scale, (features, features, window)))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        past = (self.window - 1, 0)
        channels = x.transpose((0, 2, 1))
        value = lg.ops.conv(channels, ctx.param("value"), pads=past)
        gate = lg.ops.conv(channels, ctx.param("gate"), pads=past)
        return x + (value * lg.ops.sigmoid(gate)).transpose((0, 2, 1))


def main() -> None:
    base, teacher = GatedConvolution(16, rng=1), GatedConvolution(16, rng=1)
    rng = np.random.default_rng(0)
    change = rng.normal(0, 0.1, (16, 2)) @ rng.normal(size=(2, 16 * 3))
    teacher.set_parameter("value", base.get_parameter("value") + change.reshape(16, 16, 3))
    x = rng.normal(size=(512, 12, 16)).astype(np.float32)
    target = teacher.forward(x)

    adapter = lg.StandardLoRAAdapter(base, rank=2, site="weight", rng=2)  # a pair at each of the two kernels
    history = lg.fit(adapter, (x, target), optimizer=lg.Adam(1e-2), epochs=20)
    print(f"{adapter.parameter_count} numbers beside {base.parameter_count}: {history}")

    merged = adapter.eval().merge_to_original_layer()
    print(f"merged into a {type(merged).__name__}: largest difference {np.abs(merged(x) - adapter(x)).max():.1e}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gated.onnx")
        lg.export_onnx(adapter, path)
        session = lg.Session(path)
        difference = np.abs(session.run(x) - adapter(x)).max()
        print(f"in ONNX Runtime, on {session.inputs['x']}: largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
