"""The engines: the same losses and parameters, step by step, and who runs what and why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import lora_graph as lg
from lora_graph.errors import LoadError
from lora_graph.train.engine import ENGINES
from lora_graph.train.step import TrainingStep
from tests.layers.cases import CASES, Case
from tests.train.models import Array, adapted, batches, nested_model, same_bits
from tests.train.transformer import Encoder, samples

BOUNDS = {"float64": 1e-10, "float32": 3e-4}
"""How far parameters and losses may be apart after the steps of a test, beside the largest of them.

Adam divides by the root of what it adds up, so float32's rounding of gradients near 0 shows.
"""
STEPS = 5
OPTIMIZERS = {"SGD": lg.SGD(0.05, momentum=0.9, weight_decay=0.01), "AdamW": lg.AdamW(0.01)}


CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
NO_CUDA = pytest.mark.skipif(not CUDA, reason="needs onnxruntime-gpu and a GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, NO_CUDA])])
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def apart(first: dict[str, Array], second: dict[str, Array]) -> float:
    """The largest difference between two states, beside the largest number of each array."""
    assert first.keys() == second.keys()
    return max(
        float(np.abs(first[n] - second[n]).max(initial=0) / max(np.abs(first[n]).max(initial=0), 1)) for n in first
    )


def steps_of(
    model: lg.Layer, data: list[Any], engine: str, **options: Any
) -> tuple[list[float], list[dict[str, Array]]]:
    """The loss before each step and the state after it, draws being those of the same seeds."""
    training = TrainingStep(model, engine=engine, **options)
    losses, states = [], []
    for number, batch in enumerate(data):
        seeds = np.random.SeedSequence([7, number])
        parts = [batch] if isinstance(batch, tuple) else batch
        losses.append(training.run_batches(parts, lambda draw, s=seeds: np.random.default_rng(s)).loss)
        states.append(training.state())
    assert training.choice.engine.name.split("-")[0] == engine
    return losses, states


def compare(make: Any, data: list[Any], dtype: str, provider: str, **options: Any) -> None:
    losses, states = steps_of(make(), data, "numpy", **options)
    found_losses, found_states = steps_of(make(), data, "onnxruntime", provider=provider, **options)
    assert len(set(losses)) == len(losses)
    assert found_losses == pytest.approx(losses, rel=BOUNDS[dtype], abs=BOUNDS[dtype])
    for found, expected in zip(found_states, states, strict=True):
        assert apart(found, expected) < BOUNDS[dtype]


def layer_batches(case: Case, dtype: str) -> list[tuple[Array, Array]]:
    rng = np.random.default_rng(3)
    shapes = (case.sample, case.result)
    return [tuple(rng.standard_normal((6, *shape)).astype(dtype) for shape in shapes) for _ in range(STEPS)]  # type: ignore[misc]


TRAINABLE = [case for case in CASES if case.make("float32").trainable_parameters()]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("case", TRAINABLE, ids=str)
def test_every_layer_trains_alike(case: Case, dtype: str, provider: str) -> None:
    data = layer_batches(case, dtype)
    training = TrainingStep(case.make(dtype), provider="cpu")
    training.run(*data[0])
    if training.choice.engine.name == "onnxruntime":
        compare(lambda: case.make(dtype), data, dtype, provider, optimizer=lg.SGD(0.01))
    else:
        assert dtype == "float64", "every layer has kernels in float32"
        assert re.match(r"onnxruntime: (\d: )?ONNX Runtime's CPU provider has no \w+ for float64", training.choice.why)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("clipping", [{}, {"clip_norm": 0.1}, {"clip_value": 0.01}], ids=str)
@pytest.mark.parametrize("accumulated", [False, True])
def test_optimizers_clipping_and_accumulation(
    optimizer: Any, clipping: dict[str, float], accumulated: bool, provider: str
) -> None:
    data: list[Any] = batches(STEPS)
    if accumulated:
        data = [[batch, (batch[0][:3] + 1, batch[1][:3])] for batch in data]
    for make in (adapted, nested_model):
        compare(make, data, "float64", provider, optimizer=optimizer, accumulated=accumulated, **clipping)


FAMILIES = {
    "lora": lambda base: lg.StandardLoRAAdapter(base, 2, rng=1),
    "dora": lambda base: lg.DoRAAdapter(base, 2, rng=1),
    "dylora": lambda base: lg.DyLoRAAdapter(base, 3, [1, 2, 3], rng=1),
    "lokr": lambda base: lg.LoKrAdapter(base, rank=2, rng=1),
    "lora_drop": lambda base: lg.LoRADropAdapter(base, 2, 0.3, seed=1),
}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_alike(family: str, dtype: str, provider: str) -> None:
    def make() -> lg.Layer:
        return FAMILIES[family](lg.DenseLayer(6, 4, dtype=dtype, rng=0)).train()

    data = [(x.astype(dtype), t.astype(dtype)) for x, t in batches(STEPS)]
    compare(make, data, dtype, provider, optimizer=lg.SGD(0.1))


@pytest.mark.parametrize("targets", [["query_1", "head"], "all-linear"], ids=str)
def test_a_transformer_of_labels_and_masks_trains_alike(targets: Any, provider: str) -> None:
    def make() -> lg.Layer:
        model = lg.adapt(Encoder(), targets=targets, rank=1, rng=0)
        for name, array in model.trainable_parameters().items():
            model.set_parameter(name, np.random.default_rng(len(name)).normal(0, 0.3, array.shape))
        return model

    inputs, labels = samples(8 * STEPS)
    parts = [slice(8 * i, 8 * i + 8) for i in range(STEPS)]
    data = [({name: array[part] for name, array in inputs.items()}, labels[part]) for part in parts]
    compare(make, data, "float64", provider, loss="cross_entropy", optimizer=lg.SGD(0.1))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_seed_gives_the_same_bits(engine: str) -> None:
    x, t = (np.concatenate(arrays) for arrays in zip(*batches(5), strict=True))

    def train() -> lg.Layer:
        model = nested_model()
        lg.fit(model, (x, t), epochs=2, batch_size=7, seed=3, engine=engine)
        return model

    assert same_bits(train().state, train().state)


def test_history_says_which_engine_it_was_and_why() -> None:
    data = batches(2)
    for engine, name, why in (
        ("numpy", "numpy", "as asked for"),
        ("onnxruntime", "onnxruntime", "as asked for"),
        ("auto", "onnxruntime", "the fastest there is"),
    ):
        history = lg.fit(adapted(), data, engine=engine, provider="cpu")
        assert (history.engine, history.why) == (name, why)
        assert history.to_dict()["engine"] == name


def gelu() -> lg.Layer:
    return lg.DenseLayer(6, 4, "gelu", dtype=np.float64, rng=0)


def test_an_op_without_a_kernel_is_named() -> None:
    history = lg.fit(gelu(), batches(2), provider="cpu")
    assert history.engine == "numpy"
    assert history.why == "onnxruntime: ONNX Runtime's CPU provider has no Erf for float64"
    with pytest.raises(ValueError, match=r"has no Erf for float64; engine='numpy' runs every op"):
        lg.fit(gelu(), batches(2), engine="onnxruntime", provider="cpu")


def test_a_provider_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="provider must be one of cpu, cuda, got 'tpu'"):
        lg.fit(adapted(), batches(1), engine="onnxruntime", provider="tpu")
    with pytest.raises(ValueError, match="engine='numpy' runs on the CPU"):
        lg.fit(adapted(), batches(1), engine="numpy", provider="cuda")
    if not CUDA:
        for engine in ("auto", "onnxruntime"):
            with pytest.raises(
                ValueError, match=r"provider 'cuda' is not available; available: .*cpu; it comes with .*onnxruntime-gpu"
            ):
                lg.fit(adapted(), batches(1), engine=engine, provider="cuda")


def test_threads_are_bounded() -> None:
    history = lg.fit(adapted(), batches(1), threads=1)
    assert history.steps == 1
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        lg.fit(adapted(), batches(1), threads=0)


def test_a_checkpoint_goes_on_with_its_engine(tmp_path: Path) -> None:
    path, data = tmp_path / "run.safetensors", batches(3)
    lg.fit(adapted(), data, engine="numpy", checkpoint=path)
    history = lg.fit(adapted(), data, epochs=2, checkpoint=path, resume=True)
    assert history.engine == "numpy"
    with pytest.raises(LoadError, match="was trained with the engine 'numpy', this run is to have onnxruntime"):
        lg.fit(adapted(), data, epochs=2, checkpoint=path, resume=True, engine="onnxruntime", provider="cpu")


def test_buffers_change_places() -> None:
    """After the first steps every step writes where the one before the last did."""
    training = TrainingStep(adapted(), optimizer=lg.Adam(), engine="onnxruntime", provider="cpu")
    places = []
    for batch in batches(6):
        training.run(*batch)
        places.append({name: buffer.data_ptr() for name, buffer in training._buffers.held.items()})
    assert places[2] == places[4]
    assert places[3] == places[5]
    assert all(places[2][name] != places[3][name] for name in places[2])


def test_the_model_keeps_its_arrays() -> None:
    model = adapted()
    before = {name: array.copy() for name, array in model.state.items()}
    training = TrainingStep(model, optimizer=lg.SGD(0.1), engine="onnxruntime", provider="cpu")
    for batch in batches(4):
        training.run(*batch)
    assert same_bits(model.state, before)
    training.sync()
    assert not same_bits(model.state, before)


def test_sizes_that_cannot_agree_are_refused_before_the_step() -> None:
    training = TrainingStep(Encoder(), "cross_entropy", engine="onnxruntime", provider="cpu")
    inputs, labels = samples(4)
    with pytest.raises(ValueError, match="mask"):
        training.run({"ids": inputs["ids"], "mask": inputs["mask"][:, :3]}, labels)
    assert training.count == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_short_memory_changes_no_number(engine: str) -> None:
    def train(memory: str) -> tuple[list[float], dict[str, Array]]:
        layers = [lg.DenseLayer(6, 6, "gelu_tanh", dtype=np.float64, rng=i) for i in range(6)]
        model = lg.adapt(lg.Sequential(layers), rank=2, rng=1)
        data = [(x, x[:, ::-1].copy()) for x, _ in batches(STEPS, 256)]
        history = lg.fit(model, data, engine=engine, memory=memory)
        return history.losses, dict(model.state)

    (losses, state), (low, low_state) = train("normal"), train("low")
    assert low == pytest.approx(losses, rel=0 if engine == "numpy" else 1e-12)
    assert apart(low_state, state) <= (0 if engine == "numpy" else 1e-12)


def test_short_memory_takes_less() -> None:
    def peak(memory: str) -> int:
        model = lg.adapt(lg.Sequential([lg.DenseLayer(64, 64, "gelu", rng=i) for i in range(6)]), rank=2, rng=1)
        training = TrainingStep(model, engine="numpy", memory=memory)
        x = np.ones((256, 64), np.float32)
        training.run(x, x)
        (prepared,) = training._prepared.values()
        return int(prepared.step.memory({"batch": 256}))  # type: ignore[attr-defined]

    assert peak("low") < 0.8 * peak("normal")
    with pytest.raises(ValueError, match="memory must be one of normal, low, got 'little'"):
        TrainingStep(adapted(), memory="little")


@pytest.mark.cuda
@NO_CUDA
def test_a_gpu_is_taken_where_there_is_one(tmp_path: Path) -> None:
    path, data = tmp_path / "run.safetensors", [tuple(a.astype(np.float32) for a in batch) for batch in batches(4)]

    def make() -> lg.Layer:
        return adapted(dtype=np.float32)

    whole, resumed = make(), make()
    assert lg.fit(whole, data, epochs=3).engine == "onnxruntime-cuda"
    lg.fit(make(), data, epochs=1, checkpoint=path)
    assert lg.fit(resumed, data, epochs=3, checkpoint=path, resume=True).engine == "onnxruntime-cuda"
    assert same_bits(resumed.state, whole.state)
