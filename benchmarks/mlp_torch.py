"""The network of benchmarks.mlp in PyTorch: with a LoRA module written by hand, and with Hugging Face PEFT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import harness
from benchmarks.mlp import BETA1, BETA2, EPSILON, LEARNING_RATE, Array, Problem, Step


def torch_step(problem: Problem) -> Step:
    """PyTorch eager, with a LoRA module written by hand."""
    import torch

    class LoRALinear(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, index: int) -> None:
            super().__init__()
            self.base = _linear(problem, index).requires_grad_(False)
            self.A = torch.nn.Parameter(torch.from_numpy(problem.initial(f"{index}.A")))
            self.B = torch.nn.Parameter(torch.from_numpy(problem.initial(f"{index}.B")))

        def forward(self, x: Any) -> Any:
            return self.base(x) + (x @ self.A) @ self.B

    return training(_alternating(problem, LoRALinear), problem.provider)


def peft_step(problem: Problem) -> Step:
    """PyTorch eager, with the LoRA layers of Hugging Face PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model

    base = _alternating(problem, lambda index: _linear(problem, index))
    places = [str(2 * index) for index in range(len(problem.layers))]
    model = get_peft_model(base, LoraConfig(r=problem.rank, lora_alpha=problem.rank, target_modules=places))
    for index, place in enumerate(places):
        layer = model.base_model.model[int(place)]
        layer.lora_A["default"].weight.data = torch.from_numpy(problem.initial(f"{index}.A")).T.contiguous()
        layer.lora_B["default"].weight.data = torch.from_numpy(problem.initial(f"{index}.B")).T.contiguous()
    return training(model, problem.provider)


def _alternating(problem: Problem, layer: Callable[[int], Any]) -> Any:
    """The layers with a relu after each but the last."""
    import torch

    modules = [module for index in range(len(problem.layers)) for module in (layer(index), torch.nn.ReLU())]
    return torch.nn.Sequential(*modules[:-1])


def _linear(problem: Problem, index: int) -> Any:
    return linear(problem.initial(f"{index}.W"), problem.initial(f"{index}.b"))


def linear(weight: Array, bias: Array) -> Any:
    """A linear layer of a weight ``[in, out]`` and a bias."""
    import torch

    made = torch.nn.utils.skip_init(torch.nn.Linear, *weight.shape)
    made.weight.data = torch.from_numpy(weight).T.contiguous()
    made.bias.data = torch.from_numpy(bias)
    return made


def training(model: Any, device: str) -> Step:
    """Adam on the mean squared error of what trains in ``model``."""
    import torch

    torch.set_num_threads(harness.threads())
    model.to(device)
    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=LEARNING_RATE,
        betas=(BETA1, BETA2),
        eps=EPSILON,
    )

    def step(x: Array, t: Array) -> float:
        optimizer.zero_grad()
        inputs, targets = (torch.from_numpy(array).to(device) for array in (x, t))
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
