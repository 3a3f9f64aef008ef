"""What training changes, where an engine keeps it: two sets of buffers that change places when a step commits."""

from __future__ import annotations

from collections.abc import Mapping

from lora_graph.ir.types import Array
from lora_graph.train.engine import Buffer, Engine, NumpyEngine, Runner
from lora_graph.train.graph import is_sum


class Buffers:
    """Parameters and optimizer state by name, and what a step that has not committed made of them."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.engine: Engine = NumpyEngine()
        self._pending: dict[str, Buffer] = {}
        self.replace(arrays)

    def replace(self, arrays: Mapping[str, Array]) -> None:
        """Hold copies of ``arrays`` and nothing else."""
        self.held: dict[str, Buffer] = {name: self.engine.hold(array) for name, array in arrays.items()}
        self._spare: dict[str, Buffer] = {}

    def add(self, arrays: Mapping[str, Array]) -> None:
        """Hold copies of those of ``arrays`` that are not there yet."""
        self.held.update({name: self.engine.hold(array) for name, array in arrays.items() if name not in self.held})

    def read(self) -> dict[str, Array]:
        """Copies of all that is held."""
        return {name: self.engine.read(buffer) for name, buffer in self.held.items()}

    def move(self, engine: Engine) -> None:
        """Hold everything with ``engine``."""
        if engine is not self.engine:
            arrays = self.read()
            self.engine = engine
            self.replace(arrays)

    def begin(self) -> None:
        """Forget what did not commit."""
        self._pending = {}

    def advance(self, runner: Runner, inputs: Mapping[str, Array]) -> None:
        """Run ``runner`` on what is held, or what this step made of it so far."""
        graph = runner.graph
        now = {**self.held, **self._pending}
        state = {name: now[name] for name in graph.parameters if name in now}
        out = {name: self._spare.pop(name) for name in graph.outputs if name in self._spare}
        results = runner.run({name: inputs[name] for name in graph.input_names}, state, out=out)
        self._spare.update({name: self._pending[name] for name in results if name in self._pending})
        self._pending.update(results)

    def number(self, name: str) -> float:
        """The number ``name`` that the step gave, which is no state."""
        return float(self.engine.read(self._pending.pop(name)))

    def commit(self) -> None:
        """What was computed becomes what is held; the buffers it replaces will take the next results."""
        for name, new in self._pending.items():
            self._spare[name], self.held[name] = self.held[name], new
            if is_sum(name):
                self.engine.clear(new)
        self.begin()
