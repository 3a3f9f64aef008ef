"""The network whose training step is measured, and each contender's way to train it.

y = relu(x (W₀ + A₀B₀) + b₀) (W₁ + A₁B₁) + b₁ with frozen W and b, the mean of (y - t)² as loss, and Adam on A and B.
Every contender starts from the same arrays and is handed the same batch, so their losses have to agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Contender

Array = npt.NDArray[Any]
State = dict[str, Array]
Step = Callable[[Array, Array], float]
"""One optimizer step on a batch of inputs and targets; returns the loss before the update."""

LEARNING_RATE = 1e-3
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
PARAMETERS = ("0.W", "0.b", "0.A", "0.B", "1.W", "1.b", "1.A", "1.B")
TRAINED = ("0.A", "0.B", "1.A", "1.B")


@dataclass(frozen=True)
class Problem:
    """Sizes of the network and of a batch."""

    batch: int = 64
    width: int = 768
    hidden: int = 3072
    rank: int = 8
    dtype: str = "float32"

    def initial(self, name: str) -> Array:
        """The parameter ``name`` before the first step. B is not zero, so that every gradient counts at once."""
        shape, scale = {
            "0.W": ((self.width, self.hidden), self.width**-0.5),
            "0.b": ((self.hidden,), 0.1),
            "0.A": ((self.width, self.rank), self.rank**-0.5),
            "0.B": ((self.rank, self.hidden), 0.01),
            "1.W": ((self.hidden, self.width), self.hidden**-0.5),
            "1.b": ((self.width,), 0.1),
            "1.A": ((self.hidden, self.rank), self.rank**-0.5),
            "1.B": ((self.rank, self.width), 0.01),
        }[name]
        array = np.random.default_rng(PARAMETERS.index(name)).standard_normal(shape, np.dtype(self.dtype).type)
        array *= scale
        return array

    def data(self) -> tuple[Array, Array]:
        """One batch of inputs and of targets."""
        rng = np.random.default_rng(len(PARAMETERS))
        x, t = rng.standard_normal((2, self.batch, self.width), np.dtype(self.dtype).type)
        return x, t


def numpy_gradients(p: State, x: Array, t: Array) -> tuple[float, State]:
    """The loss and its gradients, by hand."""
    u0 = x @ p["0.A"]
    h = x @ p["0.W"]
    h += u0 @ p["0.B"]
    h += p["0.b"]
    np.maximum(h, 0, out=h)
    u1 = h @ p["1.A"]
    error = h @ p["1.W"]
    error += u1 @ p["1.B"]
    error += p["1.b"]
    error -= t
    loss = float(np.vdot(error, error)) / error.size

    error *= 2 / error.size
    du1 = error @ p["1.B"].T
    dh = error @ p["1.W"].T
    dh += du1 @ p["1.A"].T
    dh *= h > 0
    du0 = dh @ p["0.B"].T
    return loss, {"0.A": x.T @ du0, "0.B": u0.T @ dh, "1.A": h.T @ du1, "1.B": u1.T @ error}


def numpy_step(problem: Problem) -> Step:
    """Hand-written NumPy: no gradient of what is frozen or of the input, in place wherever it costs nothing."""
    p = {name: problem.initial(name) for name in PARAMETERS}
    moments = {name: (np.zeros_like(p[name]), np.zeros_like(p[name])) for name in TRAINED}
    count = 0

    def step(x: Array, t: Array) -> float:
        nonlocal count
        count += 1
        loss, gradients = numpy_gradients(p, x, t)
        rate = LEARNING_RATE / (1 - BETA1**count)
        correction = (1 - BETA2**count) ** -0.5
        for name, gradient in gradients.items():
            m, v = moments[name]
            m *= BETA1
            m += (1 - BETA1) * gradient
            v *= BETA2
            np.multiply(gradient, gradient, out=gradient)
            gradient *= 1 - BETA2
            v += gradient
            divisor = np.sqrt(v, out=gradient)
            divisor *= correction
            divisor += EPSILON
            np.divide(m, divisor, out=divisor)
            divisor *= rate
            p[name] -= divisor
        return loss

    return step


def torch_step(problem: Problem) -> Step:
    """PyTorch eager, with a LoRA module written by hand."""
    import torch

    torch.set_num_threads(1)

    class LoRALinear(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, index: int) -> None:
            super().__init__()
            self.base = _torch_linear(problem, index).requires_grad_(False)
            self.A = torch.nn.Parameter(torch.from_numpy(problem.initial(f"{index}.A")))
            self.B = torch.nn.Parameter(torch.from_numpy(problem.initial(f"{index}.B")))

        def forward(self, x: Any) -> Any:
            return self.base(x) + (x @ self.A) @ self.B

    return _torch_training(torch.nn.Sequential(LoRALinear(0), torch.nn.ReLU(), LoRALinear(1)))


def peft_step(problem: Problem) -> Step:
    """PyTorch eager, with the LoRA layers of Hugging Face PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.set_num_threads(1)
    base = torch.nn.Sequential(_torch_linear(problem, 0), torch.nn.ReLU(), _torch_linear(problem, 1))
    config = LoraConfig(r=problem.rank, lora_alpha=problem.rank, target_modules=["0", "2"])
    model = get_peft_model(base, config)
    layers = model.base_model.model
    for index, layer in enumerate((layers[0], layers[2])):
        layer.lora_A["default"].weight.data = torch.from_numpy(problem.initial(f"{index}.A")).T.contiguous()
        layer.lora_B["default"].weight.data = torch.from_numpy(problem.initial(f"{index}.B")).T.contiguous()
    return _torch_training(model)


def _torch_linear(problem: Problem, index: int) -> Any:
    import torch

    weight = torch.from_numpy(problem.initial(f"{index}.W"))
    linear = torch.nn.utils.skip_init(torch.nn.Linear, *weight.shape)
    linear.weight.data = weight.T.contiguous()
    linear.bias.data = torch.from_numpy(problem.initial(f"{index}.b"))
    return linear


def _torch_training(model: Any) -> Step:
    import torch

    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=LEARNING_RATE,
        betas=(BETA1, BETA2),
        eps=EPSILON,
    )

    def step(x: Array, t: Array) -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(torch.from_numpy(x)), torch.from_numpy(t))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def lora_graph_step(problem: Problem) -> Step:
    """lora_graph's own interpreter, running the step graph."""
    import lora_graph as lg

    first = lg.DenseLayer(problem.width, problem.hidden, "relu", dtype=problem.dtype)
    second = lg.DenseLayer(problem.hidden, problem.width, dtype=problem.dtype)
    model = lg.Sequential([lg.StandardLoRAAdapter(layer, problem.rank, site="weight") for layer in (first, second)])
    names = {"W": "base.weight", "b": "base.bias", "A": "lora.A", "B": "lora.B"}
    for name in PARAMETERS:
        index, short = name.split(".")
        model.set_parameter(f"{index}.{names[short]}", problem.initial(name))
    training = lg.train.TrainingStep(model, loss="mse", optimizer=lg.Adam(LEARNING_RATE))
    return lambda x, t: float(training.run(x, t))


STEPS: dict[str, Callable[[Problem], Step]] = {
    "numpy": numpy_step,
    "torch": torch_step,
    "peft": peft_step,
    "lora_graph": lora_graph_step,
}


def contenders(python: str, torch_python: str) -> dict[str, Contender]:
    """The contenders by name, run by ``python`` or, where they are PyTorch's, by ``torch_python``."""
    return {
        "numpy": Contender("numpy", ("numpy",), python),
        "torch": Contender("torch", ("numpy", "torch"), torch_python),
        "peft": Contender("peft", ("numpy", "torch", "peft"), torch_python),
        "lora_graph": Contender("lora_graph", ("numpy", "lora_graph"), python),
    }
