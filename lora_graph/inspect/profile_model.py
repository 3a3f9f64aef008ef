"""``lg.profile``: where the time of a run goes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

from threadpoolctl import threadpool_limits

from lora_graph import checks
from lora_graph.inspect.inspected import Model
from lora_graph.inspect.profile_engines import AS_IS, NUMPY, RUNTIME, measure
from lora_graph.inspect.profile_peak import gemm_peak
from lora_graph.inspect.profile_report import ProfileReport, Timing
from lora_graph.inspect.profile_subject import Evaluation, Subject
from lora_graph.inspect.profile_training import Training
from lora_graph.ir.types import Array
from lora_graph.train.loss import Loss
from lora_graph.train.optimizer import Optimizer

ENGINES = {"all": (NUMPY, AS_IS, RUNTIME), "numpy": (NUMPY,), "onnxruntime": (AS_IS, RUNTIME)}
PEAKS = {"float64": "float64", "float32": "float32", "float16": "float32"}
"""The dtypes that have a peak, and what products are measured in for it."""


def profile(
    model: Model,
    *,
    against: Model | None = None,
    engine: str = "all",
    state: Mapping[str, Array] | None = None,
    inputs: Any = None,
    sizes: Mapping[str, int] | None = None,
    training: bool = False,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    threads: int = 1,
    warmup: int = 3,
    repeat: int = 20,
    seed: int = 0,
) -> ProfileReport:
    """How long each node of ``model`` takes, in the NumPy interpreter and in ONNX Runtime.

    ``model`` is a layer, an ONNX model, a run or a graph with its ``state`` (see :class:`Inspected`); ``engine`` is
    ``"numpy"`` (the graph that ``lg.compile`` makes), ``"onnxruntime"`` (the model as it is, and with ONNX Runtime's
    optimizations) or ``"all"``, one after the other. Every one is run ``repeat`` times with its nodes timed and as
    often without, after ``warmup`` runs that do not count, on ``threads`` threads. Inputs are random, seeded, for 64
    samples, other named dimensions being 16, or what ``sizes`` says; or they are ``inputs``, an array or a dict of
    arrays by name.

    With ``training`` it is a training step that is run, on random targets: forward, ``loss`` (by default mse),
    backward and ``optimizer`` (by default Adam) as one graph, over and over from the parameters as they are, which stay
    so. What belongs to no module is under ``loss``, ``backward`` or ``optimizer``.

    Operations are counted at these sizes, and rates are compared with the best that the engine has in multiplying
    matrices, measured on the spot. With ``against``, another model is run in turns with it under the same conditions.

    TypeError, ValueError or LoadError for what cannot be read or run.
    """
    checks.choice("engine", engine, list(ENGINES))
    checks.integer("threads", threads, 1)
    checks.integer("warmup", warmup, 0)
    checks.integer("repeat", repeat, 1)
    checks.integer("seed", seed, 0)
    if not checks.flag("training", training) and (loss is not None or optimizer is not None):
        raise ValueError("loss and optimizer belong to a training step: give training=True")

    def subject(model: Model, state: Mapping[str, Array] | None) -> Subject:
        if training:
            return Training.of(model, sizes, inputs, seed, "mse" if loss is None else loss, optimizer)
        return Evaluation.of(model, state, sizes, inputs, seed)

    subjects = [subject(model, state), *([] if against is None else [subject(against, None)])]
    timings: list[dict[str, Timing]] = [{} for _ in subjects]
    notes = [note for subject in subjects for note in subject.notes]
    with threadpool_limits(threads, "blas"):
        for name in ENGINES[engine]:
            with ExitStack() as opened:
                try:
                    engines = [opened.enter_context(closing(each.engine(name, threads))) for each in subjects]
                except ValueError as error:
                    if name == NUMPY or engine != "all":
                        raise
                    notes.append(f"{name} is left out: {error}")
                    continue
                for number, timing in enumerate(measure(engines, warmup, repeat)):
                    timings[number][name] = with_peaks(timing, threads)
    reports = [
        ProfileReport(subject.label, subject.run_at, threads, warmup, repeat, seed, found, tuple(notes))
        for subject, found in zip(subjects, timings, strict=True)
    ]
    return replace(reports[0], against=reports[1]) if against is not None else reports[0]


def with_peaks(timing: Timing, threads: int) -> Timing:
    """``timing`` with the peaks for the dtypes that it computes in."""
    engine = NUMPY if timing.engine == NUMPY else RUNTIME
    used = sorted({node.dtype for node in timing.nodes if node.flops} & PEAKS.keys())
    return replace(timing, peaks={dtype: gemm_peak(engine, PEAKS[dtype], threads) for dtype in used})
