"""Training steps on ONNX Runtime: the step graph in an ordinary session, its state in buffers of the device."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

from lora_graph import checks
from lora_graph.interpret.signature import Signature
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array, type_of
from lora_graph.onnx.model import build
from lora_graph.onnx.session import PROVIDERS, start, wanted_providers
from lora_graph.onnx.store import without_weights
from lora_graph.train.engine import Buffer, Sizes, UnsupportedError, prepared
from lora_graph.train.graph import LOSS, NORM
from lora_graph.train.stateless import NEXT, stateless

THREADS_VARIABLE = "OMP_NUM_THREADS"
"""Bounds the threads of a step where nothing else does, as it bounds those of BLAS."""

BINDINGS_KEPT = {"cpu": 4, "cuda": 0}
"""State goes back and forth between two sets of buffers, with another two where gradients accumulate.

On a GPU none are kept: what a node on the CPU reads is copied there when it is bound, and would be out of date later.
"""

OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
"""float32 products are float32 products, as they are on the CPU and in PyTorch."""


class OnnxRuntimeEngine:
    """ONNX Runtime on one provider, ``"cpu"`` or ``"cuda"``.

    ``threads`` bounds the threads of one op; by default they are as many as OMP_NUM_THREADS says, or as the CPU has
    cores. ValueError for a provider that is not available.
    """

    def __init__(self, provider: str, threads: int | None = None) -> None:
        self.device = checks.choice("provider", provider, tuple(OPTIONS))
        (name,) = wanted_providers(self.device)
        self.providers = [(name, OPTIONS[self.device])]
        self.threads = _threads() if threads is None else checks.integer("threads", threads, 1)
        self.name = "onnxruntime" if self.device == "cpu" else f"onnxruntime-{self.device}"

    def compile(self, graph: Graph, fixed: Mapping[str, Array], short: Sizes | None) -> SessionRunner:
        optimized = prepared(graph, "train-onnx", short)
        try:
            return SessionRunner(self, optimized, fixed)
        except ValueError as error:  # an op without an ONNX form, or a session without a kernel
            raise UnsupportedError(str(error)) from error

    def hold(self, array: Array) -> Buffer:
        return self.lend(np.array(array)) if self.device == "cpu" else self._ort_value(array, self.device)

    def lend(self, array: Array) -> Buffer:
        """``array`` itself as a buffer on the CPU, without a copy if it is contiguous."""
        return self._ort_value(np.asarray(array, order="C"), "cpu")

    def read(self, buffer: Buffer) -> Array:
        return np.array(buffer.numpy())

    def clear(self, buffer: Buffer) -> None:
        buffer.update_inplace(np.zeros_like(buffer.numpy()))

    def _ort_value(self, array: Array, device: str) -> Buffer:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)

    def options(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it calls an error is raised
        options.intra_op_num_threads = self.threads
        # a pattern of memory comes on top of what the first step took, and is no faster
        options.enable_mem_pattern = False
        return options


class SessionRunner:
    """A graph in a session. The fixed parameters are part of it and share their memory with the model's."""

    def __init__(self, engine: OnnxRuntimeEngine, graph: Graph, fixed: Mapping[str, Array]) -> None:
        self.graph = graph
        held = {name: fixed[name] for name in fixed if name in graph.parameters}
        function = stateless(graph, held)
        message, weights = without_weights(build(function, held))
        self._engine = engine
        self._weights = {name: engine.lend(array) for name, array in weights.items()}
        options = engine.options()
        options.add_external_initializers(list(self._weights), list(self._weights.values()))
        self._session = start(message.SerializeToString(), "the training step", options, engine.providers)
        if engine.providers[0][0] not in self._session.get_providers():
            raise ValueError(f"the provider {engine.device!r} could not be started")
        self._signature = Signature(graph, without=graph.parameters)
        self._outputs = {name.removeprefix(NEXT): name for name in function.outputs}
        self._sizes: object = None
        """Those of the inputs that were found to agree last."""
        read = [name for name in (LOSS, NORM) if name in function.outputs]
        self._numbers = {name: engine.lend(np.zeros((), function.outputs[name].dtype)) for name in read}
        self._bindings: OrderedDict[tuple[int, ...], Binding] = OrderedDict()

    def run(
        self, inputs: Mapping[str, Array], state: Mapping[str, Buffer], *, out: Mapping[str, Buffer]
    ) -> dict[str, Buffer]:
        arrays = self._signature.arrays(inputs, {})
        sizes = tuple(array.shape for array in arrays), self._signature.computed(arrays)
        if sizes != self._sizes:
            self._signature.bind(arrays)
            self._sizes = sizes
        given = dict(zip(self.graph.input_names, arrays, strict=True))
        return self._binding(state, {**out, **self._numbers}).run(given)

    def _binding(self, state: Mapping[str, Buffer], out: Mapping[str, Buffer]) -> Binding:
        key = tuple(map(id, (*state.values(), *out.values())))
        found = self._bindings.get(key)
        if found is None:
            new = {name: written for name, written in self._outputs.items() if name not in out}
            into = {self._outputs[name]: buffer for name, buffer in out.items()}
            found = self._bindings[key] = Binding(self._engine, self._session, state, into, new, out)
            if len(self._bindings) > BINDINGS_KEPT[self._engine.device]:
                self._bindings.popitem(last=False)
        return found


class Binding:
    """A session with the buffers that one kind of run reads and writes bound to it; only the data changes."""

    def __init__(
        self,
        engine: OnnxRuntimeEngine,
        session: Any,
        state: Mapping[str, Buffer],
        into: Mapping[str, Buffer],
        new: Mapping[str, str],
        out: Mapping[str, Buffer],
    ) -> None:
        self._engine, self._session, self._new = engine, session, new
        self._held = (dict(state), dict(into))  # the binding itself does not keep them alive
        self._out = dict(out)
        self._io = session.io_binding()
        for name, buffer in state.items():
            self._io.bind_ortvalue_input(name, buffer)
        for name, buffer in into.items():
            self._io.bind_ortvalue_output(name, buffer)

    def run(self, given: Mapping[str, Array]) -> dict[str, Buffer]:
        lent = {name: self._engine.lend(array) for name, array in given.items()}
        for name, buffer in lent.items():
            self._io.bind_ortvalue_input(name, buffer)
        for name in self._new.values():
            self._io.bind_output(name, self._engine.device)
        try:
            self._session.run_with_iobinding(self._io)
        except Exception as error:  # ONNX Runtime's own exceptions have no common base class but this one
            shapes = ", ".join(f"{name}: {type_of(array)}" for name, array in given.items())
            raise ValueError(f"ONNX Runtime cannot run the step on {shapes}: {str(error).splitlines()[0]}") from error
        if not self._new:
            return self._out
        results = self._io.get_outputs()[len(self._out) :]
        return {**self._out, **dict(zip(self._new, results, strict=True))}


def devices() -> list[str]:
    """The providers that are available, the fastest first."""
    available = onnxruntime.get_available_providers()
    return [name for name in reversed(OPTIONS) if PROVIDERS[name] in available]


def _threads() -> int:
    """What OMP_NUM_THREADS says, 0 (as many as there are cores) where it says nothing."""
    text = os.environ.get(THREADS_VARIABLE, "")
    return int(text) if text.isdigit() else 0
