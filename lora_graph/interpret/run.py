"""Compiled graphs: plans made once per binding of the named dimensions, then run many times."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.lib.array_utils import byte_bounds

from lora_graph.interpret.early import Early
from lora_graph.interpret.plan import Plan
from lora_graph.interpret.signature import Binding, Port, Signature, check_rank, check_shape, read_state
from lora_graph.interpret.steps import Environment, Hook
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array, type_of
from lora_graph.ir.value import Value

PLANS_KEPT = 8
"""How many bindings a Program keeps plans and buffers for; the one that ran longest ago goes first."""

K = TypeVar("K")
V = TypeVar("V")


class Program:
    """A graph that is ready to run; make one with :func:`compile_graph`. Several threads may run it at once."""

    def __init__(self, graph: Graph, fixed: Iterable[str] = ()) -> None:
        if isinstance(fixed, str):
            raise TypeError(f"fixed must be a collection of parameter names, got the string {fixed!r}")
        self.graph = graph
        names = set(fixed)
        self._signature = Signature(graph, names)
        self._fixed = [Port("parameter", name, leaf) for name, leaf in graph.parameters.items() if name in names]
        self._early = Early(graph, names, self._signature.dim_names)
        self._plans: _Recent[Binding, Plan] = _Recent(PLANS_KEPT)
        self._epoch = None if self._fixed else _Epoch([], self._early.compute({}))

    def fix(self, state: Mapping[str, Array]) -> None:
        """Take the arrays of the fixed parameters from ``state`` and compute what depends on them alone.

        The arrays are held, not copied: they must not be written to until the next ``fix``. ValueError or TypeError
        names a parameter that is missing or does not fit, and the Program stays as it was.
        """
        arrays = read_state(self._fixed, state)
        for port, array in zip(self._fixed, arrays, strict=True):
            check_rank(port, array)
            if port.type.is_static:
                check_shape(port, array, {})
        fixed = list(zip(self._fixed, arrays, strict=True))
        self._epoch = _Epoch(fixed, self._early.compute({port.leaf: array for port, array in fixed}))

    def run(
        self,
        inputs: Mapping[str, Any],
        state: Mapping[str, Array],
        *,
        out: Mapping[str, Array] | None = None,
        hook: Hook | None = None,
    ) -> dict[str, Array]:
        """The outputs by name, in new arrays, or in those that ``out`` gives for some of them.

        ``inputs`` maps every input to an array-like; floats are cast to the input's dtype. ``state`` holds the
        parameters that are not fixed, in exactly their dtype. Nothing given is written to, except the arrays of
        ``out``: they need the output's type, and may overlap neither each other nor anything that is read. Where the
        run raises, what they hold is undefined. ``hook(value, seconds)`` is called for every op that runs.

        TypeError for a wrong kind of thing, ValueError for a missing or unknown name or a shape that does not fit,
        RuntimeError before ``fix`` where there are fixed parameters.
        """
        epoch = self._ready()
        arrays = self._signature.arrays(inputs, state)
        binding = self._bind(arrays, epoch)
        plan = self._plan(binding)
        wanted = dict(out) if out else {}
        if wanted:
            self._check_out(wanted, [*arrays, *epoch.arrays], dict(binding))
        given = {port.leaf: array for port, array in zip(self._signature.ports, arrays, strict=True)}
        pool = epoch.pool(binding, plan, self._early)
        environment = pool.take()
        with np.errstate(all="ignore"):
            results = plan.run(environment, given, wanted, hook)
        pool.put(environment)
        return results

    def plan_for(self, inputs: Mapping[str, Any], state: Mapping[str, Array]) -> Plan:
        """The plan that a run with these arrays would use."""
        return self._plan(self._bind(self._signature.arrays(inputs, state), self._ready()))

    def memory(self, binding: Mapping[str, int] | None = None) -> int:
        """Bytes of the buffers that a run needs when the named dimensions have these sizes."""
        return self._plan(tuple(sorted((binding or {}).items()))).memory

    def _ready(self) -> _Epoch:
        if self._epoch is None:
            raise RuntimeError(f"call fix(state) first: {[port.name for port in self._fixed]} are fixed")
        return self._epoch

    def _bind(self, arrays: Sequence[Array], epoch: _Epoch) -> Binding:
        given = tuple(array.shape for array in arrays), self._signature.computed(arrays)
        binding = epoch.bindings.get(given)
        if binding is None:
            binding = self._signature.bind(arrays, epoch.fixed)
            epoch.bindings.put(given, binding)
        return binding

    def _plan(self, binding: Binding) -> Plan:
        plan = self._plans.get(binding)
        if plan is None:
            plan = Plan(self.graph, {*self._early.free, *self._early.by_dims}, dict(binding))
            self._plans.put(binding, plan)
        return plan

    def _check_out(self, out: Mapping[str, Array], read: Sequence[Array], sizes: Mapping[str, int]) -> None:
        for name, array in out.items():
            if name not in self.graph.outputs:
                raise ValueError(f"out: there is no output {name!r}, only {sorted(self.graph.outputs)}")
            if not isinstance(array, np.ndarray):
                raise TypeError(f"out: {name!r} must be an array, got {type(array).__name__}")
            wanted = self.graph.outputs[name].type.bind(sizes)
            if type_of(array) != wanted:
                raise ValueError(f"out: {name!r} must be {wanted}, got {type_of(array)}")
            if not array.flags.writeable:
                raise ValueError(f"out: {name!r} is read-only")
        _check_apart(out, read)


class _Epoch:
    """What holds between two calls of ``fix``: the fixed arrays, what follows from them, and environments with both."""

    def __init__(self, fixed: list[tuple[Port, Array]], held: dict[Value, Array]) -> None:
        self.fixed = fixed
        self.held = held
        self.arrays = [*(array for _, array in fixed), *held.values()]
        self.bindings: _Recent[tuple[tuple[tuple[int, ...], ...], Binding], Binding] = _Recent(4 * PLANS_KEPT)
        self.pools: _Recent[Binding, _Pool] = _Recent(PLANS_KEPT)

    def pool(self, binding: Binding, plan: Plan, early: Early) -> _Pool:
        pool = self.pools.get(binding)
        if pool is None:
            pool = _Pool(plan, early.compute_bound(self.held, dict(binding)))
            self.pools.put(binding, pool)
        return pool


class _Pool:
    """Environments of one plan that no run is using: runs at the same time have one each."""

    def __init__(self, plan: Plan, held: Mapping[Value, Array]) -> None:
        self.plan = plan
        self.held = held
        self.idle: list[Environment] = []

    def take(self) -> Environment:
        try:
            return self.idle.pop()
        except IndexError:
            return self.plan.environment(self.held)

    def put(self, environment: Environment) -> None:
        self.idle.append(environment)


class _Recent(Generic[K, V]):
    """A mapping that keeps the entries used last."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries: OrderedDict[K, V] = OrderedDict()
        self.lock = Lock()

    def get(self, key: K) -> V | None:
        with self.lock:
            if key in self.entries:
                self.entries.move_to_end(key)
            return self.entries.get(key)

    def put(self, key: K, value: V) -> None:
        with self.lock:
            self.entries[key] = value
            if len(self.entries) > self.size:
                self.entries.popitem(last=False)


def compile_graph(graph: Graph, fixed: Iterable[str] = ()) -> Program:
    """``graph`` as a Program. ``fixed`` names the parameters whose arrays ``Program.fix`` gets once, before any run;
    those that no output depends on are left out."""
    return Program(graph, fixed)


def _check_apart(out: Mapping[str, Array], read: Sequence[Array]) -> None:
    """Raise ValueError if an array of ``out`` overlaps another one, or one of ``read``."""
    spans = sorted((*byte_bounds(array), name) for name, array in out.items() if array.size)
    for (_, end, first), (start, _, second) in pairwise(spans):
        if start < end:
            raise ValueError(f"out: the arrays for {first!r} and {second!r} overlap")
    starts = [start for start, _, _ in spans]
    for array in read:
        if array.size:
            low, high = byte_bounds(array)
            after = bisect_left(starts, high)
            if after and spans[after - 1][1] > low:
                raise ValueError(f"out: the array for {spans[after - 1][2]!r} overlaps an array that the run reads")
