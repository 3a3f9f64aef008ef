"""What runs the graphs of a training step, on buffers of its own: NumPy, or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lora_graph import checks
from lora_graph.interpret import compile_graph
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.rewrite.recompute import recompute

Sizes = Mapping[str, int]
Buffer = Any
"""An array where an engine keeps it: in NumPy itself, or on a device."""

ENGINES = ("onnxruntime", "numpy")
"""What can run training steps, fastest first. ``engine="auto"`` takes the first that runs every op of the step."""


class UnsupportedError(ValueError):
    """A step that an engine has no kernels for; the message says which op."""


class Runner(Protocol):
    """A graph that an engine made ready to run on inputs and state."""

    graph: Graph

    def run(
        self, inputs: Mapping[str, Array], state: Mapping[str, Buffer], *, out: Mapping[str, Buffer]
    ) -> dict[str, Buffer]:
        """The outputs by name, in the buffers of ``out`` where that names them, in new ones otherwise."""


class Engine(Protocol):
    """What runs training steps."""

    name: str

    def compile(self, graph: Graph, fixed: Mapping[str, Array], short: Sizes | None) -> Runner:
        """``graph`` ready to run, with the parameters ``fixed`` in it; UnsupportedError where it cannot be.

        ``short`` are the sizes of named dimensions for which memory is short: what is cheap is then computed again.
        """

    def hold(self, array: Array) -> Buffer:
        """A buffer with a copy of ``array``."""

    def read(self, buffer: Buffer) -> Array:
        """A copy of what is in ``buffer``."""

    def clear(self, buffer: Buffer) -> None:
        """Fill ``buffer`` with zeros."""


def prepared(graph: Graph, preset: str, short: Sizes | None) -> Graph:
    """``graph`` optimized by a preset, and so that it keeps less where memory is short."""
    optimized = optimize_graph(graph, preset).graph
    return optimized if short is None else recompute(optimized, short)


class NumpyEngine:
    """The interpreter. It runs every op that trains."""

    name = "numpy"

    def compile(self, graph: Graph, fixed: Mapping[str, Array], short: Sizes | None) -> Runner:
        optimized = prepared(graph, "train", short)
        held = {name: fixed[name] for name in fixed if name in optimized.parameters}
        program = compile_graph(optimized, fixed=held)
        program.fix(held)
        return program

    def hold(self, array: Array) -> Buffer:
        return np.array(array)

    def read(self, buffer: Buffer) -> Array:
        return np.array(buffer)

    def clear(self, buffer: Buffer) -> None:
        buffer.fill(0)


class Choice:
    """Which engine runs a step: of those that were asked for, the first that has a kernel for every op.

    ValueError for an engine or a provider that does not exist, or that is not available here.
    """

    def __init__(self, name: str, provider: str | None, threads: int | None) -> None:
        self.asked = checks.choice("engine", name, ("auto", *ENGINES))
        if threads is not None:
            checks.integer("threads", threads, 1)
        self._candidates = _candidates(name, provider, threads)
        self._reason = ""

    @property
    def engine(self) -> Engine:
        """The engine, or what is to be tried first."""
        return self._candidates[0]

    @property
    def why(self) -> str:
        """Why it is that one."""
        return self._reason or ("the fastest there is" if self.asked == "auto" else "as asked for")

    def insist(self, name: str) -> None:
        """Take the engine ``name`` and no other; ValueError where it is none of those that were asked for."""
        fitting = [engine for engine in self._candidates if engine.name == name]
        if not fitting:
            asked = " or ".join(engine.name for engine in self._candidates)
            raise ValueError(f"was trained with the engine {name!r}, this run is to have {asked}")
        self._candidates = fitting
        if self.asked == "auto":
            self._reason = "what the checkpoint was written with"

    def compile(self, graphs: Sequence[Graph], fixed: Mapping[str, Array], short: Sizes | None) -> list[Runner]:
        """``graphs`` ready to run; the engine is then settled. ValueError where none takes all of them."""
        reasons: list[str] = []
        for engine in self._candidates:
            try:
                runners = [engine.compile(graph, fixed, short) for graph in graphs]
            except UnsupportedError as reason:
                reasons.append(f"{engine.name}: {reason}")
                continue
            self._candidates = [engine]
            self._reason = self._reason or "; ".join(reasons)
            return runners
        raise ValueError(f"the training step cannot run on {'; '.join(reasons)}; engine='numpy' runs every op")


def _candidates(name: str, provider: str | None, threads: int | None) -> Sequence[Engine]:
    """The engines to be tried in turn."""
    if name == "numpy":
        if provider not in (None, "cpu"):
            raise ValueError(f"engine='numpy' runs on the CPU: it takes no provider, got {provider!r}")
        return [NumpyEngine()]
    from lora_graph.onnx.stepping import OnnxRuntimeEngine, devices

    chosen = devices() if provider is None else [provider]
    sessions = [OnnxRuntimeEngine(device, threads) for device in chosen]
    return sessions if name == "onnxruntime" or provider == "cuda" else [*sessions, NumpyEngine()]
