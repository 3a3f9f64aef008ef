"""DyLoRA's training against a run that the authors of the paper's own code recorded, if the recording is there."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import lora_graph as lg
from lora_graph.train.draws import Rng
from lora_graph.train.step import TrainingStep

FOLDER = Path(__file__).parents[3] / "shared" / "fixtures" / "dylora_official"
RANKS = (1, 2, 3, 4)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded trajectory is not here")


@pytest.fixture(params=["dynamo", "torchscript"])
def model(request: pytest.FixtureRequest) -> lg.AdaptedModel:
    base = lg.load_onnx(FOLDER / f"base_{request.param}.onnx")
    options = {"active_ranks": RANKS, "rank_scaling": "per_rank", "alpha": 8}
    adapted = lg.adapt(base, "dylora", rank=max(RANKS), **options)
    start = load_file(FOLDER / "init_state.safetensors")
    for name in parameters(adapted):
        adapted.set_parameter(name, recorded(start, name))
    return adapted.train()


def parameters(model: lg.AdaptedModel) -> list[str]:
    return [name for name in model.get_parameter_names() if name.endswith((".A", ".B"))]


def recorded(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """What a recording has for a parameter of ours, which has the rank as its second axis in A and its first in B."""
    module = "fc1" if "fc1" in name else "fc2"
    return arrays[f"{module}.lora_{name[-1]}"].T


def drawing(rank: int) -> Rng:
    """Generators that draw this rank."""
    seed = next(seed for seed in count() if np.random.default_rng(seed).choice(RANKS) == rank)
    return lambda draw: np.random.default_rng(seed)


def test_losses_gradients_and_parameters_are_those_of_the_authors(model: lg.AdaptedModel) -> None:
    run = np.load(FOLDER / "trajectory.npz")
    step = TrainingStep(model, "mse", lg.SGD(0.2))
    for number, (x, target, rank0) in enumerate(zip(run["X"], run["T"], run["rank0"], strict=True)):
        before = step.state()
        loss = step.run(x, target, drawing(int(rank0) + 1))
        assert loss == pytest.approx(float(run["nonfrozen/loss"][number]), rel=1e-5)
        after = step.state()
        for kind, found in (("grad", {n: (before[n] - after[n]) / 0.2 for n in parameters(model)}), ("after", after)):
            prefix = f"nonfrozen/step{number}/{kind}/"
            wanted = {key.removeprefix(prefix): run[key] for key in run.files if key.startswith(prefix)}
            for name in parameters(model) if wanted else ():
                # gradients come back from a difference of parameters, which are of size 1
                np.testing.assert_allclose(found[name], recorded(wanted, name), rtol=1e-4, atol=2e-6, err_msg=name)
    step.sync()
    model.eval()
    (adapter,) = model.adapters.values()
    assert isinstance(adapter, lg.DyLoRAAdapter)
    for rank in RANKS:
        adapter.set_deployment_rank(rank)
        np.testing.assert_allclose(model.forward(run["eval/x"]), run[f"nonfrozen/eval/rank0_{rank - 1}"], atol=1e-5)
