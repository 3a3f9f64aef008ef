"""What the layer benchmark times is the layer's output and its gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from benchmarks import layers
from benchmarks.layers import Convolution
from tests.op_rows.convolution_formulas import convolved, transposed, weighed

SMALL = [
    Convolution(batch=2, channels=4, outputs=6, size=5, kernel=3),
    Convolution(batch=3, channels=4, outputs=2, size=7, kernel=1, stride=3, group=2),
    Convolution(batch=1, channels=3, outputs=3, size=5, kernel=5, stride=2, group=3),
]


def expected(problem: Convolution) -> dict[str, Any]:
    x, w, b, c = (array.astype(np.float64) for array in problem.arrays().values())
    s, p, d = (problem.stride,) * 2, (problem.kernel // 2,) * 4, (1, 1)
    left_over = ((problem.size + 2 * p[0] - problem.kernel) % problem.stride,) * 2
    return {
        "y": convolved(s, p, d, problem.group)(x, w, b),
        "dx": transposed(s, p, d, left_over, problem.group)(c, w),
        "dw": weighed(w.shape[2:], s, p, d, problem.group)(x, c),
        "db": c.sum((0, 2, 3)),
    }


@pytest.mark.parametrize("problem", SMALL, ids=str)
@pytest.mark.parametrize("name", ["lora_graph", pytest.param("torch", marks=pytest.mark.torch)])
def test_contenders_compute_the_convolution_and_its_gradients(problem: Convolution, name: str) -> None:
    if name == "torch":
        pytest.importorskip("torch")
    step = problem.workload().steps[name]()
    truth = expected(problem)
    for _ in range(2):
        found = step()
        assert found.keys() == truth.keys()
        for key, array in truth.items():
            np.testing.assert_allclose(found[key], array, rtol=0, atol=1e-5 * max(1, np.abs(array).max()))


def test_a_fingerprint_tells_size_and_direction_apart() -> None:
    a = np.random.default_rng(0).standard_normal((3, 4))
    same = layers.fingerprint({"y": a})
    assert layers.check_agreement({"one": same, "two": layers.fingerprint({"y": a * (1 + 1e-6)})}) < 1e-5
    for wrong in (a * 1.01, a[::-1], -a, a * math.nan):
        with pytest.raises(RuntimeError, match="y of two and one differ"):
            layers.check_agreement({"one": same, "two": layers.fingerprint({"y": wrong})})


def test_worker_measures_in_a_process_of_its_own() -> None:
    contender = layers.contenders("python-is-replaced", "torch-python")["torch"]
    assert contender.python == "torch-python"
    arguments = ["--workloads", "convolution-small", "--steps", 3, "--warmup", 1]
    ours = layers.contenders(layers.sys.executable, "")["lora_graph"]
    report = layers.harness.run_worker("benchmarks.layers", ours, arguments)
    assert len(report["seconds"]) == 3
    assert set(report["fingerprint"]) == {"y", "dx", "dw", "db"}


def test_every_workload_has_the_same_contenders() -> None:
    names = set(layers.contenders("", ""))
    assert all(set(workload.steps) == names for workload in layers.WORKLOADS.values())
