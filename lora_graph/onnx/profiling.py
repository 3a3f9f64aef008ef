"""ONNX Runtime's own profiler: the nodes that it ran, and how long each of them took in every run."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from lora_graph.onnx.exposing import exposed
from lora_graph.onnx.names import Names
from lora_graph.onnx.scopes import scope_of
from lora_graph.onnx.session import Session
from lora_graph.onnx.source import ModelSource, Script, open_model
from lora_graph.onnx.subgraphs import nested_nodes
from lora_graph.onnx.swap import Chosen

SUFFIX = "_kernel_time"
"""What ends the name of an event that is a node being run."""
BLOCKED = "_nchwc"
"""What ends the name of a node that has the channels of its result, whose name comes before, in blocks."""
EVENTS = 1_000_000
"""How many times of nodes ONNX Runtime keeps."""
EXECUTED, WEIGHTS = "executed.onnx", "weights.bin"


@dataclass(frozen=True)
class RuntimeNode:
    """A node as ONNX Runtime ran it, under its name for node and op, and the seconds that it took in each run.

    ``results`` are the names that the model has for what it computes: none for what ONNX Runtime put in between.
    ``scope`` is the module that the model's node with this result belongs to.
    """

    name: str
    op: str
    results: tuple[str, ...]
    scope: str
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class RuntimeProfile:
    """The nodes in the order in which they ran, and the seconds of each run as a whole."""

    nodes: tuple[RuntimeNode, ...]
    seconds: tuple[float, ...]


class ProfilingSession(Session):
    """A session on the CPU with its profiler on. What it ran is kept until :meth:`profile` is called.

    Idle threads of it wait instead of spinning, so that they do not slow down what else runs in the process. ONNX
    Runtime writes its profile and the graph that it made of the model to a temporary folder, which :meth:`close`
    deletes.
    """

    def __init__(self, model: ModelSource, *, threads: int, optimize: bool) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lora_graph-")
        self._runs = 0
        try:
            named = with_node_names(model)
            self._written = [*open_model(named).model.graph.node]
            super().__init__(named, threads=threads, optimize=optimize)
            self._executed = onnx.load(Path(self._folder.name, EXECUTED), load_external_data=False).graph
        except BaseException:
            self._folder.cleanup()
            raise

    def _options(self, threads: int | None, optimize: bool) -> Any:
        options = quiet(super()._options(threads, optimize))
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(self._folder.name, "profile")
        options.optimized_model_filepath = os.path.join(self._folder.name, EXECUTED)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        return options

    def run(self, inputs: Any, adapter: Chosen = None) -> Any:
        """As :meth:`Session.run`; ValueError for more runs of so many nodes than ONNX Runtime keeps."""
        if (self._runs + 1) * len(self._executed.node) > EVENTS:
            raise self._too_many(self._runs)
        results = super().run(inputs, adapter)
        self._runs += 1
        return results

    def profile(self) -> RuntimeProfile:
        """What ran since the session was made; nothing is recorded from now on.

        ValueError where there were more nodes, as in a loop, than ONNX Runtime keeps.
        """
        events = json.loads(Path(self._open().end_profiling()).read_text())
        found = read_profile(events, self._executed, self._written)
        if len(found.seconds) < self._runs:
            raise self._too_many(len(found.seconds))
        return found

    def _too_many(self, runs: int) -> ValueError:
        nodes = len(self._executed.node)
        return ValueError(f"ONNX Runtime keeps times of {EVENTS:,} nodes, {runs} runs of {nodes:,}: ask for fewer runs")

    def close(self) -> None:
        super().close()
        self._folder.cleanup()


class QuietSession(Session):
    """A session whose idle threads wait instead of spinning."""

    def _options(self, threads: int | None, optimize: bool) -> Any:
        return quiet(super()._options(threads, optimize))


def quiet(options: Any) -> Any:
    """``options`` with idle threads that wait."""
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def with_node_names(source: ModelSource) -> ModelSource:
    """The model as it is if each of its nodes has a name of its own, else a copy with names, its functions written out.

    What belongs to a node in a profile can then be told by its name.
    """
    names = [node.name for node in _all_nodes(open_model(source).model.graph.node)]
    if all(names) and len(set(names)) == len(names) and not _has_functions(source):
        return source
    model = exposed(source, {})
    taken = Names()
    for node in _all_nodes(model.graph.node):
        node.name = taken.new(node.name or node.op_type)
    return model


def read_profile(
    events: Iterable[Mapping[str, Any]], executed: onnx.GraphProto, written: Sequence[onnx.NodeProto] = ()
) -> RuntimeProfile:
    """The profile in the events that ONNX Runtime recorded, which come in the order in which things ended.

    ``executed`` is the graph that it ran, ``written`` are the nodes of the model. Nodes inside of nodes, as in the body
    of a loop, are left out: their time is in that of the node around them.
    """
    outer = {node.name: node for node in executed.node}
    inner = {node.name for node in _all_nodes(executed.node)} - outer.keys()
    ops: dict[str, str] = {}
    runs: list[dict[str, float]] = [{}]
    seconds: list[float] = []
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(SUFFIX):
            name = event["name"].removesuffix(SUFFIX)
            if name not in inner:
                ops[name] = event["args"]["op_name"]
                runs[-1][name] = runs[-1].get(name, 0.0) + event["dur"] * 1e-6
        elif event["name"] == "model_run":
            seconds.append(event["dur"] * 1e-6)
            runs.append({})
    makers = {result: node for node in written for result in node.output if result}
    sources = {node.name: node for node in written}
    nodes = []
    for name, op in ops.items():
        made = [result for result in (outer[name].output if name in outer else ()) if result in makers]
        if not made:
            blocked = name.removesuffix(BLOCKED)
            made = [blocked] if blocked in makers else [r for r in sources[name].output if r] if name in sources else []
        taken = tuple(run.get(name, 0.0) for run in runs[:-1])
        nodes.append(RuntimeNode(name, op, tuple(made), scope_of(makers[made[0]]) if made else "", taken))
    return RuntimeProfile(tuple(nodes), tuple(seconds))


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield from nested_nodes(node)


def _has_functions(source: ModelSource) -> bool:
    """Whether the model calls functions of its own, whose nodes get other names when it is opened."""
    if isinstance(source, Script):
        source = source.to_model_proto()
    elif isinstance(source, str | os.PathLike):
        source = Path(source).read_bytes()
    if not isinstance(source, onnx.ModelProto):
        source = onnx.ModelProto.FromString(bytes(source))
    return bool(source.functions)
