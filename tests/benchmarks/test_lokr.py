"""LoKr as it is measured is PEFT's."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import lokr
from benchmarks.rounds import check_agreement

SMALL = 1024


def losses(name: str) -> list[float]:
    step = lokr.step(name, width=SMALL)
    x, t = lokr.data(SMALL)
    return [step(x, t) for _ in range(4)]


def test_first_loss_is_that_of_the_definition() -> None:
    p = {name: lokr.initial(name, SMALL).astype(np.float64) for name in ("weight", "bias", *lokr.PARAMETERS)}
    x, t = lokr.data(SMALL)
    y = x @ (p["weight"] + np.kron(p["A"], p["B_left"] @ p["B_right"]).T) + p["bias"]
    expected = np.mean((y - t) ** 2)
    for name in lokr.contenders("own", "torch"):
        if name != "peft":
            assert losses(name)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.peft
def test_contenders_train_alike() -> None:
    pytest.importorskip("peft")
    check_agreement({name: losses(name) for name in lokr.contenders("own", "torch")})


def test_who_runs_what() -> None:
    every = lokr.contenders("own", "torch")
    assert {name: contender.python for name, contender in every.items()} == {
        "peft": "torch",
        "lora_graph-numpy": "own",
        "lora_graph-onnxruntime": "own",
    }
