"""Contenders have to compute the same thing before their times mean anything."""

import math

import numpy as np
import pytest

from benchmarks import harness, mlp, mlp_contenders, rounds
from benchmarks.mlp import TRAINED, Problem

SMALL = Problem(batch=5, width=12, hidden=20, rank=3)
EXACT = Problem(batch=5, width=12, hidden=20, rank=3, dtype="float64")


def losses(name: str, problem: Problem, steps: int = 20) -> list[float]:
    one_step = mlp_contenders.STEPS[name](problem)
    x, t = problem.data()
    return [one_step(x, t) for _ in range(steps)]


def loss_of(p: mlp.State, x: mlp.Array, t: mlp.Array) -> float:
    """The definition, without any of the shortcuts of the measured code."""
    hidden = np.maximum(x @ (p["0.W"] + p["0.A"] @ p["0.B"]) + p["0.b"], 0)
    return float(np.mean((hidden @ (p["1.W"] + p["1.A"] @ p["1.B"]) + p["1.b"] - t) ** 2))


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_by_hand_are_those_of_the_loss(name):
    p = {parameter: EXACT.initial(parameter) for parameter in EXACT.parameters}
    x, t = EXACT.data()
    loss, gradients = mlp.numpy_gradients(p, x, t)
    assert loss == pytest.approx(loss_of(p, x, t), rel=1e-12)
    direction = np.random.default_rng(7).normal(size=p[name].shape)
    ahead, behind = (loss_of(p | {name: p[name] + h * direction}, x, t) for h in (1e-6, -1e-6))
    assert np.vdot(gradients[name], direction) == pytest.approx((ahead - behind) / 2e-6, rel=1e-7)


def test_numpy_step_is_adam_as_published():
    """Algorithm 1 of Kingma and Ba (2015), written down plainly, moves the loss in the same way."""
    p = {name: EXACT.initial(name) for name in EXACT.parameters}
    m = dict.fromkeys(TRAINED, 0.0)
    v = dict.fromkeys(TRAINED, 0.0)
    x, t = EXACT.data()
    expected = []
    for count in range(1, 21):
        expected.append(loss_of(p, x, t))
        _, gradients = mlp.numpy_gradients(p, x, t)
        for name, g in gradients.items():
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            unbiased = m[name] / (1 - 0.9**count), v[name] / (1 - 0.999**count)
            p[name] = p[name] - 1e-3 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    assert losses("numpy", EXACT) == pytest.approx(expected, rel=1e-10)
    assert expected[-1] < expected[0]


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime", "numpy-low", "onnxruntime-low"])
def test_lora_graph_agrees_with_numpy(engine):
    assert losses(f"lora_graph-{engine}", SMALL) == pytest.approx(losses("numpy", SMALL), rel=rounds.AGREEMENT)
    assert losses(f"lora_graph-{engine}", EXACT) == pytest.approx(losses("numpy", EXACT), rel=1e-10)


def test_onnxsim_agrees_with_numpy():
    pytest.importorskip("onnxsim.lora")
    assert losses("onnxsim", SMALL) == pytest.approx(losses("numpy", SMALL), rel=rounds.AGREEMENT)


@pytest.mark.peft
def test_a_deeper_network_is_the_same_in_lora_graph_and_peft():
    pytest.importorskip("peft")
    deep = Problem(batch=5, width=12, hidden=20, rank=3, depth=3)
    assert len(deep.parameters) == 24
    assert losses("lora_graph-numpy", deep) == pytest.approx(losses("peft", deep), rel=rounds.AGREEMENT)


@pytest.mark.torch
def test_torch_agrees_with_numpy():
    pytest.importorskip("torch")
    assert losses("torch", SMALL) == pytest.approx(losses("numpy", SMALL), rel=rounds.AGREEMENT)


@pytest.mark.peft
def test_peft_agrees_with_numpy():
    pytest.importorskip("peft")
    assert losses("peft", SMALL) == pytest.approx(losses("numpy", SMALL), rel=rounds.AGREEMENT)


def test_disagreement_stops_the_measurement():
    assert rounds.check_agreement({"a": [1.0, 2.0], "b": [1.0, 2.0001]}) == pytest.approx(5e-5, rel=1e-3)
    for wrong in (2.1, math.nan):
        with pytest.raises(RuntimeError, match="losses of b and a differ"):
            rounds.check_agreement({"a": [1.0, 2.0], "b": [1.0, wrong]})


def test_everyone_has_an_interpreter():
    every = mlp_contenders.contenders("own", "torch", "onnxsim")
    assert {name: contender.python for name, contender in every.items()} == {
        "numpy": "own",
        "torch": "torch",
        "peft": "torch",
        "onnxsim": "onnxsim",
        "lora_graph-numpy": "own",
        "lora_graph-numpy-low": "own",
        "lora_graph-onnxruntime": "own",
        "lora_graph-onnxruntime-low": "own",
    }
    assert list(every) == list(mlp_contenders.STEPS)


def test_worker_measures_in_a_process_of_its_own():
    report = harness.run_worker(
        "benchmarks.step", harness.Contender("numpy"), ["--batch", 2, "--steps", 3, "--warmup", 2]
    )
    assert len(report["seconds"]) == 3
    assert len(report["losses"]) == 2
    assert report["peak_mib"] > report["peak_above_imports_mib"] > 0


@pytest.mark.parametrize("name", ["numpy", "lora_graph-onnxruntime"])
def test_asking_for_a_gpu_where_there_is_none_says_so(name):
    import onnxruntime

    if name != "numpy" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is one")
    with pytest.raises(harness.UnavailableError, match=r"runs on the CPU only|no CUDA provider"):
        harness.run_worker("benchmarks.step", harness.Contender(name), ["--batch", 2, "--provider", "cuda"])
