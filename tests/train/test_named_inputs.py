"""Training models with several inputs and outputs, on data by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.errors import LoadError
from lora_graph.train import TrainingStep
from lora_graph.train.data import read_npz
from tests.layers.test_named_inputs import encoder, feeds

Array = np.ndarray[Any, Any]


def samples(count: int = 24) -> tuple[dict[str, Array], Array]:
    """Sequences of which a class is the one that most of what is not masked belongs to."""
    rng = np.random.default_rng(3)
    x = {"ids": rng.integers(0, 6, (count, 5)), "mask": rng.random((count, 5)) < 0.8}
    votes = np.stack([((x["ids"] % 3 == kind) & x["mask"]).sum(axis=1) for kind in range(3)], axis=1)
    return x, votes.argmax(axis=1)


class Voter(lg.Layer):
    """The encoder of the layers' tests with a fixed gain, which leaves inputs that all count samples."""

    def __init__(self) -> None:
        super().__init__(input_shape={"ids": ("t",), "mask": ("t",)}, output_shape={"logits": (3,), "hidden": ("t", 4)})
        self.add_child("encoder", lg.load_onnx(encoder()))

    @property
    def inputs(self) -> dict[str, lg.TensorType]:
        return {"ids": lg.tensor("int64", ("n", "t")), "mask": lg.tensor("bool", ("n", "t"))}

    any_rank = False

    def build(self, ctx: lg.Context, x: dict[str, lg.Value]) -> dict[str, lg.Value]:
        gain = lg.ops.constant(np.float32(1))
        found = ctx.call(self.children["encoder"], {**x, "gain": gain})
        return {name: found[name] for name in self.output_shapes}


def test_the_loss_applies_to_one_output_by_name() -> None:
    x, target = samples()
    model = Voter()
    before = model.state
    history = lg.fit(
        model, (x, target), loss="cross_entropy", output="logits", epochs=40, batch_size=8, optimizer=lg.Adam(0.05)
    )
    assert history.samples == 40 * 24
    assert history.epoch_losses[-1] < 0.3 * history.epoch_losses[0]
    accuracy = (model.eval().forward(x)["logits"].argmax(axis=1) == target).mean()
    assert accuracy > 0.9
    moved = {name for name, array in model.state.items() if not np.array_equal(array, before[name])}
    assert moved == {"encoder.table", "encoder.w"}


def test_what_the_chosen_output_does_not_depend_on_stays() -> None:
    x, _ = samples()
    model = Voter()
    before = model.state
    target = np.zeros((24, 5, 4), np.float32)
    lg.fit(model, (x, target), output="hidden", optimizer=lg.AdamW(0.1, weight_decay=0.5), batch_size=8)
    np.testing.assert_array_equal(model.state["encoder.w"], before["encoder.w"])
    assert np.abs(model.state["encoder.table"]).sum() < np.abs(before["encoder.table"]).sum()


def test_an_adapter_inside_trains_alone_and_from_a_file(tmp_path: Path) -> None:
    x, target = samples()
    path = tmp_path / "train.npz"
    np.savez(path, **x, targets=target)
    read, again, *_ = read_npz(path)
    assert list(read) == ["ids", "mask"]
    np.testing.assert_array_equal(again, target)
    model = lg.StandardLoRAAdapter(Voter(), 2, site="weight", rng=0)
    before = model.state
    history = lg.fit(model, path, loss="cross_entropy", output="logits", epochs=30, optimizer=lg.Adam(0.1))
    assert history.epoch_losses[-1] < history.epoch_losses[0] - 0.1
    changed = {name for name, array in model.state.items() if not np.array_equal(array, before[name])}
    assert changed == {f"lora_encoder_{weight}.{part}" for weight in ("table", "w") for part in "AB"}


def test_micro_batches_add_up_to_the_batch() -> None:
    x, target = samples(12)
    whole, parts = Voter(), Voter()
    TrainingStep(whole, "cross_entropy", lg.SGD(0.5), output="logits")
    one = TrainingStep(whole, "cross_entropy", lg.SGD(0.5), output="logits")
    several = TrainingStep(parts, "cross_entropy", lg.SGD(0.5), accumulated=True, output="logits")
    loss = one.run(x, target)
    cuts = [slice(0, 4), slice(4, 5), slice(5, 12)]
    result = several.run_batches([({n: a[cut] for n, a in x.items()}, target[cut]) for cut in cuts])
    assert result.samples == 12
    assert result.loss == pytest.approx(loss, rel=1e-5)
    one.sync()
    several.sync()
    np.testing.assert_allclose(whole.get_parameters(), parts.get_parameters(), rtol=1e-4, atol=1e-6)


def test_a_model_of_one_input_may_be_given_it_by_name() -> None:
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    first, second = lg.DenseLayer(3, 2, rng=1), lg.DenseLayer(3, 2, rng=1)
    lg.fit(first, (x, target))
    lg.fit(second, ({"x": x}, target))
    np.testing.assert_array_equal(first.get_parameters(), second.get_parameters())


X, T = samples(6)
FAULTS: list[tuple[Any, dict[str, Any], str]] = [
    ((X, T), {}, "output must say which of the model's outputs the loss applies to: logits, hidden"),
    ((X, T), {"output": "best"}, "output must be one of logits, hidden, got 'best'"),
    (({**X, "ids": X["ids"][:4]}, T), {"output": "logits"}, r"got inputs 'ids' \(4, 5\) and targets \(6,\)"),
    (({"ids": X["ids"]}, T), {"output": "logits"}, "input 'mask' is missing; expected ids, mask"),
    ((X["ids"], T), {"output": "logits"}, "a dict with one input for each of ids, mask"),
    (({**X, "mask": X["mask"][:, :4]}, T), {"output": "logits"}, r"inputs 'mask' must be bool\[n, t\]"),
    (({}, T), {"output": "logits"}, "at least one sample"),
]


@pytest.mark.parametrize(("data", "options", "message"), FAULTS)
def test_data_that_does_not_fit(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lg.fit(Voter(), data, loss="cross_entropy", **options)


def test_an_input_may_not_have_a_name_that_the_step_uses() -> None:
    class Named(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape={"target": (3,)}, output_shape=(3,))
            self.add_parameter("w", np.ones(3))

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return x * ctx.param("w")

    with pytest.raises(ValueError, match="an input is called 'target', a name that the training step uses itself"):
        lg.fit(Named(), (np.ones((2, 3)), np.ones((2, 3))))


def test_a_file_without_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "only.npz", targets=T)
    with pytest.raises(LoadError, match=r"or 'targets' and inputs by name, and may hold 'weights'; it holds targets"):
        read_npz(tmp_path / "only.npz")


def test_inputs_of_a_checkpointed_run_may_be_named(tmp_path: Path) -> None:
    x, target = samples(8)
    kept = tmp_path / "run.safetensors"
    options: dict[str, Any] = {"loss": "cross_entropy", "batch_size": 4, "checkpoint": kept}
    lg.fit(Voter(), (x, target), output="logits", **options)
    with pytest.raises(LoadError, match="output='logits', this run has 'hidden'"):
        lg.fit(Voter(), (x, np.zeros((8, 5, 4))), output="hidden", resume=True, **options)


def test_a_scalar_input_is_no_batch() -> None:
    with pytest.raises(ValueError, match=r"got inputs 'gain' \(\) and targets"):
        lg.fit(lg.load_onnx(encoder()), (feeds(), np.zeros((3, 3))), output="logits")
