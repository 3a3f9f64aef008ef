"""An LSTM forward and backward, in lora_graph and in PyTorch, as a workload of ``benchmarks.layers``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

GATES = ("i", "o", "f", "c")
TORCH_GATES = ("i", "f", "c", "o")


@dataclass(frozen=True)
class Recurrence:
    """One direction of an LSTM with both biases over sequences ``[steps, batch, inputs]``."""

    inputs: int = 128
    hidden: int = 256
    steps: int = 64
    batch: int = 32

    @property
    def title(self) -> str:
        return f"LSTM {self.inputs}->{self.hidden}, {self.steps} steps, batch {self.batch}"

    def arrays(self) -> dict[str, Array]:
        """x, the weights w and r and the bias b with their gates in ONNX's order, and the cotangent c of the output."""
        import numpy as np

        rng, rows = np.random.default_rng(0), 4 * self.hidden
        draw: Callable[..., Array] = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
        scale = np.float32(self.hidden**-0.5)
        return {
            "x": draw(self.steps, self.batch, self.inputs),
            "w": draw(1, rows, self.inputs) * scale,
            "r": draw(1, rows, self.hidden) * scale,
            "b": draw(1, 2 * rows) * scale,
            "c": draw(self.steps, 1, self.batch, self.hidden),
        }

    def lora_graph(self) -> Callable[[], Mapping[str, Array]]:
        import lora_graph as lg
        from lora_graph.autodiff import gradients
        from lora_graph.interpret import compile_graph
        from lora_graph.rewrite import optimize_graph

        arrays = self.arrays()
        x = lg.ops.input("x", "float32", ("time", "batch", self.inputs))
        w, r, b = (lg.ops.parameter(name, "float32", arrays[name].shape) for name in "wrb")
        y = lg.ops.lstm(x, w, r, b)[0]
        c = lg.ops.input("c", "float32", y.shape)
        found = dict(zip(("dx", "dw", "dr", "db"), gradients(y, [x, w, r, b], c), strict=True))
        program = compile_graph(optimize_graph(lg.Graph((x, c), {"y": y, **found}), "train").graph)
        inputs, state = {n: arrays[n] for n in "xc"}, {n: arrays[n] for n in "wrb"}

        def step() -> Mapping[str, Array]:
            results = program.run(inputs, state)
            by_gate = {name: results[name][0] for name in ("dw", "dr", "db")}
            return {"y": results["y"][:, 0], "dx": results["dx"], **self.gates(by_gate, GATES)}

        return step

    def torch(self) -> Callable[[], Mapping[str, Array]]:
        import numpy as np
        import torch

        torch.set_num_threads(1)
        arrays = self.arrays()
        module = torch.nn.LSTM(self.inputs, self.hidden)
        halves = np.split(arrays["b"][0], 2)
        weights = dict(zip(("w", "r", "ih", "hh"), (arrays["w"][0], arrays["r"][0], *halves), strict=True))
        given = self.gates(weights, GATES)
        for name, weight in zip(weights, module.parameters(), strict=True):
            weight.data = torch.from_numpy(np.concatenate([given[f"{name} {gate}"] for gate in TORCH_GATES]))
        x = torch.from_numpy(arrays["x"]).requires_grad_()
        c = torch.from_numpy(arrays["c"][:, 0])

        def step() -> Mapping[str, Array]:
            y, _ = module(x)
            dx, *found = torch.autograd.grad(y, [x, *module.parameters()], c)
            by_gate = dict(zip(("dw", "dr", "db"), (t.numpy() for t in found), strict=False))
            return {"y": y.detach().numpy(), "dx": dx.numpy(), **self.gates(by_gate, TORCH_GATES)}

        return step

    def gates(self, arrays: Mapping[str, Array], order: tuple[str, ...]) -> dict[str, Array]:
        """Views of the rows of each gate, which lie in ``order``; what comes after the four is left out."""
        return {
            f"{name} {gate}": array[order.index(gate) * self.hidden :][: self.hidden]
            for name, array in arrays.items()
            for gate in GATES
        }
