"""Masks as inputs of a model: what is masked plays no part, in the outputs and in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from tests.reference import close
from tests.train.models import same_bits
from tests.train.transformer import Encoder, logits, samples


def loaded(tmp_path: Path) -> lg.Layer:
    lg.export_onnx(Encoder(), tmp_path / "encoder.onnx")
    return lg.load_onnx(tmp_path / "encoder.onnx")


def test_the_outputs_are_those_of_the_rest_alone(tmp_path: Path) -> None:
    x, _ = samples(7)
    state = Encoder().state
    wanted = np.stack([logits(state, ids, mask) for ids, mask in zip(x["ids"], x["mask"], strict=True)])
    for model in (Encoder().eval(), loaded(tmp_path)):
        close(model.forward(x), wanted, 1e-12)


@pytest.mark.parametrize("cache_frozen", [False, True])
def test_training_never_sees_what_is_masked(tmp_path: Path, cache_frozen: bool) -> None:
    x, t = samples(40)
    other = {"ids": np.where(x["mask"], x["ids"], (x["ids"] + 5) % 11), "mask": x["mask"]}
    states, histories = [], []
    for inputs in (x, other):
        model = lg.adapt(loaded(tmp_path), targets=["query_1", "value_1", "head"], rank=2, rng=0)
        settings = {"loss": "cross_entropy", "optimizer": lg.Adam(0.03), "epochs": 20, "batch_size": 16}
        histories.append(lg.fit(model, (inputs, t), cache_frozen=cache_frozen, **settings))
        states.append(model.state)
    assert histories[0].losses == histories[1].losses
    assert same_bits(*states)
    assert histories[0].epoch_losses[-1] < 0.5 * histories[0].epoch_losses[0]


def test_weights_of_tokens_and_masks_go_together(tmp_path: Path) -> None:
    """The mask of the tokens that count as the weights of a loss for each token."""

    class Tagger(lg.Layer):
        any_rank = False

        def __init__(self) -> None:
            super().__init__(input_shape={"ids": ("time",)}, output_shape=("time", 4), dtype=np.float64)
            self.add_parameter("table", np.random.default_rng(0).standard_normal((11, 4)))

        @property
        def inputs(self) -> dict[str, lg.TensorType]:
            return {"ids": lg.tensor("int64", ("batch", "time"))}

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return lg.ops.gather(ctx.param("table"), x)

    x, _ = samples(20)
    tags = np.random.default_rng(1).integers(0, 4, x["ids"].shape)
    weighed, left_out = Tagger(), Tagger()
    settings = {"loss": "cross_entropy", "batch_size": 8, "epochs": 2}
    first = lg.fit(weighed, (x["ids"], tags, x["mask"].astype(float)), **settings)
    second = lg.fit(left_out, (x["ids"], np.where(x["mask"], tags, -100)), **settings)
    close(first.losses, second.losses, 1e-12)
    close(weighed.state["table"], left_out.state["table"], 1e-12)
