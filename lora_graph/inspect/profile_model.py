"""``lg.profile``: where the time of a run goes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from lora_graph import checks
from lora_graph.inspect.cases import Case, cases
from lora_graph.inspect.cost import Costs
from lora_graph.inspect.engines import Given
from lora_graph.inspect.inspected import Inspected, Model
from lora_graph.inspect.profile_engines import AS_IS, NUMPY, RUNTIME, Engine, Numpy, OnnxRuntime, measure
from lora_graph.inspect.profile_peak import gemm_peak
from lora_graph.inspect.profile_report import ProfileReport, Timing
from lora_graph.interpret import compile_graph
from lora_graph.interpret.signature import Signature
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array
from lora_graph.layers.interface import by_name
from lora_graph.onnx.export import export_onnx
from lora_graph.onnx.model import lower
from lora_graph.onnx.source import ModelSource
from lora_graph.rewrite.pipeline import optimize_graph

ENGINES = {"all": (NUMPY, AS_IS, RUNTIME), "numpy": (NUMPY,), "onnxruntime": (AS_IS, RUNTIME)}
BATCH = 64
"""Samples, unless sizes say otherwise."""
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

    Operations are counted at these sizes, and rates are compared with the best that the engine has in multiplying
    matrices, measured on the spot. With ``against``, another model is run in turns with it under the same conditions.

    TypeError, ValueError or LoadError for what cannot be read or run.
    """
    checks.choice("engine", engine, list(ENGINES))
    checks.integer("threads", threads, 1)
    checks.integer("warmup", warmup, 0)
    checks.integer("repeat", repeat, 1)
    checks.integer("seed", seed, 0)
    subjects = [
        _Subject.of(each, state if each is model else None, sizes, inputs, seed)
        for each in ((model,) if against is None else (model, against))
    ]
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


@dataclass(frozen=True)
class _Subject:
    """A model and what it is run on."""

    looked: Inspected
    model: Model
    case: Case

    @classmethod
    def of(
        cls, model: Model, state: Mapping[str, Array] | None, sizes: Mapping[str, int] | None, inputs: Any, seed: int
    ) -> _Subject:
        looked = Inspected.of(model, state=state, sizes=sizes)
        if inputs is not None:
            given = by_name(looked.graph.input_names, inputs, "input")
            return cls(looked, model, Case("", Given({name: np.asarray(array) for name, array in given.items()})))
        rng = np.random.default_rng(seed)
        return cls(looked, model, next(cases(looked.graph, looked.metadata, [BATCH], looked.given, rng)))

    @property
    def label(self) -> str:
        return self.looked.label

    @property
    def run_at(self) -> str:
        """The sizes of the named dimensions, and what is particular about the case."""
        sizes = ", ".join(f"{name} = {size}" for name, size in self._bound(self.looked).items())
        return ", ".join(filter(None, (sizes or "fixed sizes", self.case.label.partition(", ")[2])))

    @property
    def notes(self) -> list[str]:
        """What is not counted."""
        unknown = Costs(self.looked.graph, {}).unknown
        return [f"{self.label}: the operations of {count} × {op} are not known" for op, count in unknown.items()]

    @cached_property
    def _source(self) -> ModelSource:
        """The model as ONNX Runtime gets it: a layer or a graph is exported."""
        looked = self.looked
        if looked.layer is not None:
            return export_onnx(looked.layer)
        return lower(looked.graph, looked.state) if isinstance(self.model, Graph) else self.model

    @cached_property
    def _written(self) -> Inspected:
        """What the source computes."""
        return self.looked if self._source is self.model else Inspected.of(self._source)

    def engine(self, name: str, threads: int) -> Engine:
        """The engine ``name`` with the model in it; ValueError where it cannot run it."""
        given, looked = self.case.given, self.looked
        if name == NUMPY:
            optimized = optimize_graph(looked.graph, "inference")
            state = optimized.state({**looked.state, **given.overrides})
            costs = Costs(optimized.graph, {**looked.binding, **self._bound(looked)})
            return Numpy(compile_graph(optimized.graph), given.inputs, state, costs)
        feeds = {**given.inputs, **given.overrides}
        costs = Costs(self._written.graph, {**self._written.binding, **self._bound(self._written)})
        return OnnxRuntime(self._source, costs, feeds, threads=threads, optimize=name == RUNTIME)

    def _bound(self, looked: Inspected) -> dict[str, int]:
        """The sizes that the inputs give to named dimensions."""
        signature, given = Signature(looked.graph), self.case.given
        return dict(signature.bind(signature.arrays(given.inputs, {**looked.state, **given.overrides})))
