"""Checkpoints: an interrupted run that goes on is the uninterrupted one, to the last bit, or it is refused."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.errors import LoadError, TrainingError
from lora_graph.layers.weights import read_metadata, read_safetensors, save_weights
from lora_graph.train import loop
from lora_graph.train.checkpoint import KEY
from lora_graph.train.engine import ENGINES
from lora_graph.train.interrupt import uninterrupted
from tests.train.models import Array, Centered, adapted, batches, copied, nested_model, same_bits

OPTIMIZERS = {
    "SGD": lg.SGD(0.05),
    "momentum": lg.SGD(0.05, momentum=0.9, weight_decay=0.1),
    "Adam": lg.Adam(lg.CosineSchedule(0.05, 30, warmup=4)),
    "AdamW": lg.AdamW(0.05),
}


def dropped() -> lg.Layer:
    return lg.LoRADropAdapter(lg.DenseLayer(6, 4, dtype=np.float64, rng=0), 2, 0.4, mask="element", seed=1)


def mixed() -> lg.Layer:
    base = lg.StandardLoRAAdapter(lg.DenseLayer(6, 6, "relu", rng=0), 2, site="weight", rng=1)
    return lg.Sequential([base, lg.DyLoRAAdapter(lg.DenseLayer(6, 4, rng=2), 3, [1, 3], rng=3)])


def centered() -> lg.Layer:
    return Centered(np.random.default_rng(1).standard_normal((6, 4)))


MODELS: dict[str, Callable[[], lg.Layer]] = {
    "lora": adapted,
    "dylora": nested_model,
    "lora_drop": dropped,
    "mixed float32": mixed,
    "running mean": centered,
}


class Interrupting:
    """Batches that raise KeyboardInterrupt instead of the batch of that number, once."""

    def __init__(self, data: list[Any], at: int):
        self.data, self.left = data, at

    def __iter__(self) -> Iterator[Any]:
        for batch in self.data:
            if self.left == 0:
                self.left = -1
                raise KeyboardInterrupt
            self.left -= 1
            yield batch


def train(model: lg.Layer, data: Any, **options: Any) -> lg.History:
    return lg.fit(model, data, epochs=3, seed=4, **options)


ENGINES_OF = {"SGD": ENGINES, "AdamW": ENGINES, "momentum": ("numpy",), "Adam": ("numpy",)}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("optimizer", "engine"), [(o, e) for o, engines in ENGINES_OF.items() for e in engines])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_goes_on_is_the_uninterrupted_one(
    kind: str, optimizer: str, accumulate: int, engine: str, tmp_path: Path
) -> None:
    options = {"optimizer": OPTIMIZERS[optimizer], "accumulate": accumulate, "clip_norm": 0.5, "engine": engine}
    data = batches(5)
    whole, parts = MODELS[kind](), MODELS[kind]()
    expected = train(whole, data, **options)
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(parts, Interrupting(data, 8), checkpoint=path, **options)
    assert not same_bits(parts.state, whole.state)
    resumed = MODELS[kind]()
    history = train(resumed, data, checkpoint=path, resume=True, **options)
    assert same_bits(resumed.state, whole.state)
    assert (history.losses, history.epoch_losses) == (expected.losses, expected.epoch_losses)
    assert (history.learning_rates, history.samples) == (expected.learning_rates, expected.samples)
    again = train(parts, data, checkpoint=path, resume=True, **options)
    assert same_bits(parts.state, whole.state), "a finished run stays as it is, and the model gets its parameters"
    assert again.losses == expected.losses


@pytest.mark.parametrize("at", [0, 1, 4, 5, 6, 14])
def test_wherever_it_is_interrupted(at: int, tmp_path: Path) -> None:
    data, path = batches(5), tmp_path / "run.safetensors"
    whole, parts = nested_model(), nested_model()
    train(whole, data)
    with pytest.raises(KeyboardInterrupt):
        train(parts, Interrupting(data, at), checkpoint=path)
    train(parts, data, checkpoint=path, resume=True)
    assert same_bits(parts.state, whole.state)


def test_arrays_are_shuffled_as_they_would_have_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    data, path = (rng.standard_normal((37, 6)), rng.standard_normal((37, 4))), tmp_path / "run.safetensors"
    whole, parts = adapted(), adapted()
    train(whole, data, batch_size=8)
    shown = 0

    def advance(self: Any, epoch: int, loss: float) -> None:
        nonlocal shown
        shown += 1
        if shown == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Silent, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        train(parts, data, batch_size=8, checkpoint=path)
    assert train(parts, data, batch_size=8, checkpoint=path, resume=True).steps == 15
    assert same_bits(parts.state, whole.state)


def test_more_epochs_later(tmp_path: Path) -> None:
    data, path = batches(3), tmp_path / "run.safetensors"
    whole, parts = adapted(), adapted()
    lg.fit(whole, data, epochs=5)
    lg.fit(parts, data, epochs=2, checkpoint=path)
    fresh = adapted()
    assert lg.fit(fresh, data, epochs=5, checkpoint=path, resume=True).steps == 15
    assert same_bits(fresh.state, whole.state)


def test_without_a_checkpoint_to_go_on_from_it_starts(tmp_path: Path) -> None:
    whole, other = adapted(), adapted()
    train(whole, batches(2))
    train(other, batches(2), checkpoint=tmp_path / "new.safetensors", resume=True)
    assert same_bits(whole.state, other.state)


def test_without_resume_it_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    first, second = adapted(), adapted()
    for model in (first, second):
        train(model, batches(2), checkpoint=path)
    assert same_bits(first.state, second.state)


def test_a_checkpoint_holds_what_changes_and_not_the_base(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(adapted(), batches(2), checkpoint=path, optimizer=lg.Adam())
    assert set(read_safetensors(path)) == {
        *("lora.A", "lora.B", "optimizer.count"),
        *(f"optimizer.{slot}/lora.{name}" for slot in ("mean", "square") for name in "AB"),
    }
    assert os.listdir(tmp_path) == [path.name]


# -- what is refused ---------------------------------------------------------------------------------------------------


def custom(p: lg.Value, t: lg.Value) -> lg.Value:
    return (p - t).abs().mean()


BASE: dict[str, Any] = {"optimizer": lg.Adam(0.1), "batch_size": 8, "seed": 1}
CHANGED: list[tuple[str, dict[str, Any]]] = [
    ("seed", {"seed": 2}),
    ("batch_size", {"batch_size": 4}),
    ("accumulate", {"accumulate": 2}),
    ("shuffle", {"shuffle": False}),
    ("loss", {"loss": custom}),
    ("optimizer", {"optimizer": lg.SGD(0.1)}),
    ("optimizer", {"optimizer": lg.AdamW(0.1)}),
    ("optimizer", {"optimizer": lg.Adam(0.2)}),
    ("optimizer", {"optimizer": lg.Adam(0.1, (0.9, 0.99))}),
    ("optimizer", {"optimizer": lg.Adam(0.1, weight_decay=0.1)}),
    ("optimizer", {"optimizer": lg.Adam(lg.CosineSchedule(0.1, 10))}),
    ("clip_norm", {"clip_norm": 1.0}),
    ("clip_value", {"clip_value": 1.0}),
]


@pytest.mark.parametrize(("name", "change"), CHANGED)
def test_other_settings_are_refused_by_name(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    path, data = tmp_path / "run.safetensors", (np.ones((16, 6)), np.ones((16, 4)))
    lg.fit(adapted(), data, checkpoint=path, **BASE)
    model = adapted().eval()
    before = copied(model)
    with pytest.raises(LoadError, match=f"run.safetensors: was written with {name}=.*, this run has"):
        lg.fit(model, data, checkpoint=path, resume=True, **{**BASE, **change})
    assert same_bits(model.state, before)
    assert not model.is_training
    lg.fit(model, data, checkpoint=path, resume=True, **BASE)


def drop(rate: float, **options: Any) -> lg.Layer:
    return lg.LoRADropAdapter(lg.DenseLayer(6, 4, dtype=np.float64, rng=0), 2, rate, seed=1, **options)


def thawed() -> lg.Layer:
    return lg.StandardLoRAAdapter(
        lg.DenseLayer(6, 4, dtype=np.float64, rng=0), 2, freeze_base_layer=False, site="weight", rng=1
    )


OTHER_MODELS: list[tuple[str, lg.Layer, lg.Layer]] = [
    ("model", adapted(), adapted(3)),
    ("model", adapted(), adapted(dtype=np.float32)),
    ("model", adapted(), adapted(site="output")),
    ("model", adapted(), thawed()),
    ("model", adapted(3, site="output"), nested_model()),
    ("model", nested_model(), nested_model((1, 3))),
    ("model", nested_model(), nested_model(scaling="per_rank")),
    ("model", drop(0.4), drop(0.5)),
    ("model", drop(0.4), drop(0.4, mask="element")),
    ("frozen parameters", adapted(), adapted(seed=7)),
]


@pytest.mark.parametrize(("name", "first", "second"), OTHER_MODELS)
def test_another_model_is_refused(name: str, first: lg.Layer, second: lg.Layer, tmp_path: Path) -> None:
    path, data = tmp_path / "run.safetensors", batches(1)
    lg.fit(first, data, checkpoint=path)
    before = copied(second)
    with pytest.raises(LoadError, match=f"was written with {name}="):
        lg.fit(second, data, checkpoint=path, resume=True)
    assert same_bits(second.state, before)


def test_deployment_does_not_matter(tmp_path: Path) -> None:
    path, model = tmp_path / "run.safetensors", nested_model()
    lg.fit(model, batches(1), checkpoint=path)
    model.set_deployment_rank(1)
    model.eval()
    assert lg.fit(model, batches(1), epochs=2, checkpoint=path, resume=True).steps == 2


class Trap:
    """Unpickling one of these would be noticed."""

    sprung = False

    def __reduce__(self) -> Any:
        return setattr, (Trap, "sprung", True)


def test_files_that_cannot_be_trusted(tmp_path: Path) -> None:
    path, data = tmp_path / "run.safetensors", batches(1)
    lg.fit(adapted(), data, checkpoint=path)
    content, state, description = path.read_bytes(), read_safetensors(path), json.loads(read_metadata(path)[KEY])
    model = adapted()
    before = copied(model)

    def refused(message: str) -> None:
        with pytest.raises(LoadError, match=message):
            lg.fit(model, data, checkpoint=path, resume=True)
        assert same_bits(model.state, before)

    for written in (b"", content[:7], content[:100], content[:-1], b"\0" * 200, pickle.dumps(Trap())):
        path.write_bytes(written)
        refused("run.safetensors: not a safetensors file")
    assert not Trap.sprung
    save_weights(state, path)
    refused("is no checkpoint of lora_graph")
    for damaged in ("[]", "{}", "no JSON", json.dumps({**description, "epoch": None}), json.dumps([description])):
        save_weights(state, path, {KEY: damaged})
        refused("its description cannot be read")
    unreadable: list[Any] = [{"losses": 3}, {"secret": 1}, []]
    for history in unreadable:
        save_weights(state, path, {KEY: json.dumps({**description, "history": history})})
        refused("its description cannot be read")

    def tampered(changed: dict[str, Array]) -> None:
        save_weights(changed, path, {KEY: json.dumps(description)})

    tampered({name: array for name, array in state.items() if name != "optimizer.mean/lora.A"})
    refused(r"optimizer.mean/lora.A should be float64\[6, 2\], it is absent")
    tampered({**state, "lora.B": state["lora.B"].T})
    refused(r"lora.B should be float64\[2, 4\], it is float64\[4, 2\]")
    tampered({**state, "optimizer.square/lora.B": state["lora.B"].astype(np.float32)})
    refused(r"optimizer.square/lora.B should be float64\[2, 4\], it is float32")
    tampered({**state, "base.weight": state["lora.A"]})
    refused("base.weight should be absent")
    tampered({**state, "lora.A": state["lora.A"] * np.nan})
    refused("lora.A is not finite")
    tampered(state)
    lg.fit(model, data, checkpoint=path, resume=True)


# -- writing -----------------------------------------------------------------------------------------------------------


def test_interrupted_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = tmp_path / "run.safetensors", batches(2)
    whole, model = adapted(), adapted()
    lg.fit(whole, data, epochs=3)
    lg.fit(model, data, epochs=1, checkpoint=path)
    content = path.read_bytes()

    def broken(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match=r"cannot write .*run.safetensors.*No space left"):
            lg.fit(adapted(), data, epochs=2, checkpoint=path, resume=True)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == [path.name]
    lg.fit(model, data, epochs=3, checkpoint=path, resume=True)
    assert same_bits(model.state, whole.state)


def test_after_a_failed_step_the_last_checkpoint_stays(tmp_path: Path) -> None:
    path, data = tmp_path / "run.safetensors", batches(3)
    lg.fit(adapted(), data, checkpoint=path)
    content = path.read_bytes()
    bad = [*data[:2], (data[2][0] * np.inf, data[2][1])]
    with pytest.raises(TrainingError):
        lg.fit(adapted(), bad, epochs=2, checkpoint=path, resume=True)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    model = adapted()
    before = model.state
    for path, kind in ((tmp_path / "nowhere" / "run.safetensors", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(kind, match=path.parts[-2]):
            lg.fit(model, batches(1), checkpoint=path)
    with pytest.raises(TypeError):
        lg.fit(model, batches(1), checkpoint=5)  # type: ignore[arg-type]
    assert same_bits(model.state, before)


# -- interrupts --------------------------------------------------------------------------------------------------------


def test_an_interrupt_takes_effect_between_steps() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done = True
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(ArithmeticError), uninterrupted():
        raise ArithmeticError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_in_the_middle_of_a_step(tmp_path: Path) -> None:
    data, path = batches(5), tmp_path / "run.safetensors"
    whole, parts = adapted(), adapted()
    pressed = False

    def schedule(step: int) -> float:
        nonlocal pressed
        if step == 6 and not pressed:
            pressed = True
            signal.raise_signal(signal.SIGINT)
        return 0.1

    train(whole, data, optimizer=lg.Adam(lambda step: 0.1))
    with pytest.raises(KeyboardInterrupt):
        train(parts, data, optimizer=lg.Adam(schedule), checkpoint=path)
    assert len(json.loads(read_metadata(path)[KEY])["history"]["losses"]) == 7
    train(parts, data, optimizer=lg.Adam(schedule), checkpoint=path, resume=True)
    assert same_bits(parts.state, whole.state)


def test_training_outside_the_main_thread() -> None:
    model, other = adapted(), adapted()
    train(model, batches(2))
    thread = threading.Thread(target=train, args=(other, batches(2)))
    thread.start()
    thread.join()
    assert same_bits(model.state, other.state)


def test_a_run_that_goes_on_by_itself_says_why_it_keeps_its_engine(tmp_path: Path) -> None:
    path, data = tmp_path / "run.safetensors", batches(2)
    lg.fit(MODELS["lora"](), data, epochs=1, checkpoint=path, engine="numpy")
    history = lg.fit(MODELS["lora"](), data, epochs=2, checkpoint=path, resume=True)
    assert (history.engine, history.why) == ("numpy", "what the checkpoint was written with")
